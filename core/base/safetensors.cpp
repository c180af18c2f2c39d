#include "core/base/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/base/files.h"
#include "core/base/text.h"

namespace qat {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's bound
constexpr std::string_view kMetadata = "__metadata__";

constexpr std::array<std::pair<std::string_view, size_t>, 10> kDtypes{{
    {"F64", 8},
    {"F32", 4},
    {"F16", 2},
    {"BF16", 2},
    {"I64", 8},
    {"I32", 4},
    {"I16", 2},
    {"I8", 1},
    {"U8", 1},
    {"BOOL", 1},
}};

std::optional<size_t> find_dtype(std::string_view dtype) {
  for (const auto& [name, bytes] : kDtypes) {
    if (name == dtype) return bytes;
  }
  return std::nullopt;
}

/// Elements times element size, or nothing when a size is negative or the product does not fit.
std::optional<uint64_t> tensor_bytes(const std::vector<int64_t>& shape, size_t element) {
  uint64_t bytes = element;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : bytes;
}

struct HeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Reads the header event by event: nothing is built for what is not expected, duplicate keys are seen, and a header
/// of a million names costs no quadratic time.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string problem;

  bool key(string_t& text) override {
    if (depth_ == 1) {
      if (text == kMetadata) {
        in_metadata_ = true;
        return !std::exchange(seen_metadata_, true) || refuse("duplicate __metadata__");
      }
      in_metadata_ = false;
      entries.emplace_back().name = text;
      return true;
    }
    field_ = text;
    if (in_metadata_) return metadata.count(text) == 0 || refuse("duplicate metadata key " + in_quotes(text));
    HeaderEntry& entry = entries.back();
    bool* seen = text == "dtype"          ? &entry.has_dtype
                 : text == "shape"        ? &entry.has_shape
                 : text == "data_offsets" ? &entry.has_offsets
                                          : nullptr;
    if (seen == nullptr) return refuse(in_quotes(entry.name) + " has an unknown key " + in_quotes(text));
    return !std::exchange(*seen, true) || refuse(in_quotes(entry.name) + " has " + text + " twice");
  }

  bool start_object(size_t) override {
    if (in_array_ || depth_ > 1) return unexpected("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(size_t) override {
    const bool fits = depth_ == 2 && !in_metadata_ && !in_array_ && (field_ == "shape" || field_ == "data_offsets");
    in_array_ = true;
    return fits || unexpected("a list");
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool string(string_t& text) override {
    if (depth_ != 2 || in_array_) return unexpected("a text");
    if (in_metadata_) {
      metadata[field_] = text;
      return true;
    }
    if (field_ != "dtype") return unexpected("a text");
    entries.back().dtype = text;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return unexpected("a number");
    if (field_ == "data_offsets") {
      entries.back().offsets.push_back(value);
      return true;
    }
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return unexpected("a size beyond 2^63");
    entries.back().shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a bool"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("a number with a fraction"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return refuse(fmt::format("not valid JSON at byte {}", position));
  }

 private:
  bool refuse(std::string text) {
    if (problem.empty()) problem = std::move(text);
    return false;
  }
  bool unexpected(const char* found) {
    std::string where = in_metadata_      ? "__metadata__"
                        : entries.empty() ? "its top level"
                                          : in_quotes(entries.back().name);
    return refuse(fmt::format("{} has {} where none belongs", where, found));
  }

  int depth_ = 0;
  bool in_array_ = false;
  bool in_metadata_ = false;
  bool seen_metadata_ = false;
  std::string field_;
};

/// Every entry fits its shape and dtype, and together they cover `data_bytes` without overlaps and holes. Returns what
/// is wrong, or "".
std::string check_layout(const std::vector<HeaderEntry>& entries, uint64_t data_bytes) {
  std::vector<const HeaderEntry*> order;
  for (const HeaderEntry& entry : entries) {
    const std::string name = in_quotes(entry.name);
    if (!entry.has_dtype || !entry.has_shape || !entry.has_offsets) {
      return name + " lacks one of dtype, shape, data_offsets";
    }
    const std::optional<size_t> element = find_dtype(entry.dtype);
    if (!element) return fmt::format("{} has the unknown dtype {}", name, in_quotes(entry.dtype));
    if (entry.offsets.size() != 2) return fmt::format("{} has {} data_offsets, expected 2", name, entry.offsets.size());
    const uint64_t begin = entry.offsets[0];
    const uint64_t end = entry.offsets[1];
    if (begin > end || end > data_bytes) {
      return fmt::format("{} has data_offsets [{}, {}] outside the {} data bytes", name, begin, end, data_bytes);
    }
    const std::optional<uint64_t> bytes = tensor_bytes(entry.shape, *element);
    if (!bytes || *bytes != end - begin) {
      return fmt::format("{} has {} bytes, which is not {} [{}]", name, end - begin, entry.dtype,
                         fmt::join(entry.shape, ", "));
    }
    order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(),
            [](const HeaderEntry* a, const HeaderEntry* b) { return a->offsets < b->offsets; });
  uint64_t covered = 0;
  for (const HeaderEntry* entry : order) {
    const uint64_t begin = entry->offsets[0];
    if (begin != covered) {
      return fmt::format("{} {} at data byte {}", in_quotes(entry->name),
                         begin < covered ? "overlaps another tensor" : "leaves a hole before it", begin);
    }
    covered = entry->offsets[1];
  }
  if (covered != data_bytes) return fmt::format("the tensors cover {} of {} data bytes", covered, data_bytes);
  return "";
}

}  // namespace

size_t dtype_bytes(std::string_view dtype) {
  const std::optional<size_t> bytes = find_dtype(dtype);
  QAT_CHECK(bytes, "unknown dtype {}", in_quotes(dtype));
  return *bytes;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) { return parse(read_file(path), path); }

SafetensorsFile SafetensorsFile::parse(std::string bytes, const std::string& source) {
  const auto refuse = [&](const std::string& cause) { return FileError(source + ": not sound safetensors: " + cause); };
  if (bytes.size() < 8) throw refuse(fmt::format("{} bytes, too short for a header", bytes.size()));
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
  const uint64_t rest = bytes.size() - 8;
  if (header > rest) throw refuse(fmt::format("header length {} is beyond the file's {} bytes", header, bytes.size()));
  if (header > kMaxHeaderBytes) throw refuse(fmt::format("header length {} is above {}", header, kMaxHeaderBytes));
  if (header == 0 || bytes[8] != '{') throw refuse("the header does not start with '{'");

  HeaderReader reader;
  const char* begin = bytes.data() + 8;
  if (!nlohmann::json::sax_parse(begin, begin + header, &reader)) throw refuse(reader.problem);
  const std::string problem = check_layout(reader.entries, rest - header);
  if (!problem.empty()) throw refuse(problem);

  SafetensorsFile file;
  file.source_ = source;
  file.metadata_ = std::move(reader.metadata);
  file.bytes_ = std::make_unique<std::string>(std::move(bytes));
  const char* data = file.bytes_->data() + 8 + header;
  for (HeaderEntry& entry : reader.entries) {
    if (!file.index_.try_emplace(entry.name, file.tensors_.size()).second) {
      throw refuse("duplicate name " + in_quotes(entry.name));
    }
    const size_t size = entry.offsets[1] - entry.offsets[0];
    const void* start = data + entry.offsets[0];
    if (reinterpret_cast<uintptr_t>(start) % dtype_bytes(entry.dtype) != 0) {
      auto copy = std::make_unique<std::byte[]>(size);
      if (size > 0) std::memcpy(copy.get(), start, size);
      start = copy.get();
      file.copies_.push_back(std::move(copy));
    }
    file.tensors_.push_back({std::move(entry.name), std::move(entry.dtype), std::move(entry.shape), start, size});
  }
  return file;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const TensorView& tensor : tensors_) names.push_back(tensor.name);
  return names;
}

const TensorView& SafetensorsFile::at(const std::string& name) const {
  const auto found = index_.find(name);
  QAT_CHECK_AS(FileError, found != index_.end(), "{}: no tensor {}{}", source_, in_quotes(name),
               did_you_mean(name, names()));
  return tensors_[found->second];
}

std::string write_safetensors(std::span<const TensorView> tensors, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json::object_t header;  // a vector of pairs: appended to without its linear look-up
  if (!metadata.empty()) header.emplace_back(kMetadata, metadata);
  std::map<std::string_view, size_t> seen;
  uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    QAT_CHECK(tensor.name != kMetadata && seen.try_emplace(tensor.name, 0).second,
              "cannot write the tensor name {} twice, nor __metadata__", in_quotes(tensor.name));
    const std::optional<uint64_t> bytes = tensor_bytes(tensor.shape, dtype_bytes(tensor.dtype));
    QAT_CHECK(bytes && *bytes == tensor.bytes, "{}: {} bytes are not {} [{}]", tensor.name, tensor.bytes, tensor.dtype,
              fmt::join(tensor.shape, ", "));
    nlohmann::ordered_json entry;
    entry["dtype"] = tensor.dtype;
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, offset + tensor.bytes};
    header.emplace_back(tensor.name, std::move(entry));
    offset += tensor.bytes;
  }
  std::string text;
  try {
    text = nlohmann::ordered_json(std::move(header)).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error("cannot write safetensors: a name or metadata text is not valid UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  QAT_CHECK(text.size() <= kMaxHeaderBytes, "cannot write safetensors: a header of {} bytes is above the format's {}",
            text.size(), kMaxHeaderBytes);
  std::string file;
  file.reserve(8 + text.size() + offset);
  for (int i = 0; i < 8; ++i) file += static_cast<char>(text.size() >> (8 * i) & 0xff);
  file += text;
  for (const TensorView& tensor : tensors) {
    if (tensor.bytes > 0) file.append(static_cast<const char*>(tensor.data), tensor.bytes);
  }
  return file;
}

}  // namespace qat
