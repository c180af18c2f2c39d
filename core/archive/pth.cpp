#include "core/archive/pth.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "core/archive/bytes.h"
#include "core/archive/pickle.h"
#include "core/archive/sniff.h"
#include "core/archive/zip.h"
#include "core/base/files.h"
#include "core/base/text.h"

namespace qat::archive {
namespace {

using Kind = Value::Kind;

constexpr std::string_view kLegacyMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr int64_t kLegacyProtocol = 1001;
constexpr int kMaxDepth = 64;
constexpr size_t kMaxRank = 64;  // PyTorch's own bound
constexpr uint64_t kVisitMemory = 32;
constexpr uint64_t kTensorMemory = 256;

/// Where a storage lies in the file.
struct Stored {
  std::string_view dtype;
  int64_t elements = 0;
  std::string_view data;
};

const Value* find(const Pickle& pickle, const Value& dict, std::string_view key) {
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const Value& found = pickle.at(dict.items[i]);
    if (found.kind == Kind::kText && found.text == key) return &pickle.at(dict.items[i + 1]);
  }
  return nullptr;
}

void reverse_elements(std::byte* data, size_t bytes, size_t element) {
  for (size_t i = 0; i < bytes; i += element) std::reverse(data + i, data + i + element);
}

/// Copies `shape` elements that lie `strides` apart to `to`, in row-major order.
void gather(const char* from, const std::vector<int64_t>& shape, const std::vector<int64_t>& strides, size_t element,
            std::byte* to, size_t bytes) {
  std::vector<int64_t> place(shape.size(), 0);
  int64_t offset = 0;
  for (size_t done = 0; done < bytes; done += element) {
    std::memcpy(to + done, from + static_cast<size_t>(offset) * element, element);
    for (size_t d = shape.size(); d-- > 0;) {
      if (shape[d] == 1) continue;  // its stride may be any number
      offset += strides[d];
      if (++place[d] < shape[d]) break;
      offset -= strides[d] * shape[d];
      place[d] = 0;
    }
  }
}

bool is_row_major(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  int64_t expected = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    if (shape[d] != 1 && strides[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

}  // namespace

class PthReader {
 public:
  PthReader(std::string_view bytes, PthFile& file) : bytes_(bytes), file_(file), budget_(bytes.size()) {}

  void read() {
    if (bytes_.starts_with("PK")) {
      read_zip();
    } else {
      QAT_CHECK(bytes_.starts_with('\x80'),
                "neither a zip archive nor a pickle; expected a .pth file with a state dict");
      read_legacy();
    }
    collect(pickle_.root, "", 0);
  }

 private:
  void read_zip() {
    const Zip zip(bytes_, budget_);
    const std::string folder = std::string(zip.first_folder()) + "/";
    QAT_CHECK(zip.contains(folder + "data.pkl"),
              "a zip archive without {}data.pkl: no file of torch.save (expected a .pth file with a state dict)",
              folder);
    QAT_CHECK(!zip.contains(folder + "constants.pkl"),
              "looks like a TorchScript archive (torch.jit.save); expected a state dict: in Python, "
              "torch.save(model.state_dict(), ...)");
    if (zip.contains(folder + "byteorder")) {
      const std::string_view order = zip.read(folder + "byteorder");
      QAT_CHECK(order == "little" || order == "big", "its byteorder is {}, expected little or big", in_quotes(order));
      big_endian_ = order == "big";
    }
    uint64_t position = 0;
    pickle_ = read_pickle(zip.read(folder + "data.pkl"), position, budget_);
    list_storages();
    for (auto& [key, stored] : stored_) {
      stored.data = zip.read(folder + "data/" + std::string(key));
      const uint64_t size = static_cast<uint64_t>(stored.elements) * dtype_bytes(stored.dtype);
      QAT_CHECK(size <= stored.data.size(), "storage {} needs {} bytes, its record has {}", in_quotes(key), size,
                stored.data.size());
    }
  }

  /// Five pickles (magic number, protocol, machine, data, keys of the storages), then the storages in the keys' order,
  /// each with its number of elements before it.
  void read_legacy() {
    uint64_t position = 0;
    const Pickle magic = read_pickle(bytes_, position, budget_);
    QAT_CHECK(magic.at(magic.root).kind == Kind::kLong && magic.at(magic.root).text == kLegacyMagic,
              "a pickle that torch.save did not write; expected a .pth file with a state dict");
    const Pickle protocol = read_pickle(bytes_, position, budget_);
    QAT_CHECK(protocol.at(protocol.root).kind == Kind::kInt && protocol.at(protocol.root).number == kLegacyProtocol,
              "expected torch.save's protocol version {}", kLegacyProtocol);
    const Pickle machine = read_pickle(bytes_, position, budget_);
    QAT_CHECK(machine.at(machine.root).kind == Kind::kDict, "torch.save's system information is no dict");
    const Value* little = find(machine, machine.at(machine.root), "little_endian");
    QAT_CHECK(little == nullptr || (little->kind == Kind::kBool && little->number == 1),
              "written on a big-endian machine in the format of PyTorch 1.5 and older, which is not supported");
    pickle_ = read_pickle(bytes_, position, budget_);
    list_storages();
    const Pickle keys = read_pickle(bytes_, position, budget_);
    QAT_CHECK(keys.at(keys.root).kind == Kind::kList, "its list of storages is no list");
    size_t found = 0;
    for (const uint32_t item : keys.at(keys.root).items) {
      const Value& key = keys.at(item);
      QAT_CHECK(key.kind == Kind::kText, "a storage's key is no text");
      const auto stored = stored_.find(key.text);
      QAT_CHECK(stored != stored_.end(), "it has a storage {} of unknown type", in_quotes(key.text));
      const std::string where = in_quotes(key.text);
      QAT_CHECK(stored->second.data.data() == nullptr, "storage {} comes twice", where);
      const uint64_t left = bytes_.size() - position;
      const uint64_t size = static_cast<uint64_t>(stored->second.elements) * dtype_bytes(stored->second.dtype);
      QAT_CHECK(left >= 8 && get_number(bytes_, position, 8) == static_cast<uint64_t>(stored->second.elements),
                "storage {} has another number of elements before it than the expected {}", where,
                stored->second.elements);
      QAT_CHECK(size <= left - 8, "it is cut short: storage {} needs {} bytes, {} are left", where, size, left - 8);
      stored->second.data = bytes_.substr(position + 8, size);
      position += 8 + size;
      ++found;
    }
    QAT_CHECK(found == stored_.size(), "it has {} of {} storages", found, stored_.size());
  }

  /// One entry for each storage that tensors name; its size fits the file.
  void list_storages() {
    for (const Storage& storage : pickle_.storages) {
      budget_.charge(kTensorMemory);
      const auto [at, is_new] = stored_.try_emplace(storage.key, Stored{storage.dtype, storage.elements, {}});
      QAT_CHECK(at->second.dtype == storage.dtype && at->second.elements == storage.elements,
                "storage {} has two types or sizes", in_quotes(storage.key));
      QAT_CHECK(static_cast<uint64_t>(storage.elements) <= bytes_.size() / dtype_bytes(storage.dtype),
                "storage {} declares {} elements of {}, more than the file's {} bytes", in_quotes(storage.key),
                storage.elements, storage.dtype, bytes_.size());
    }
  }

  /// Tensors in or below `index`, whose names start with `name`.
  void collect(uint32_t index, const std::string& name, int depth) {
    QAT_CHECK(depth <= kMaxDepth, "{} is nested more than {} deep", in_quotes(name), kMaxDepth);
    budget_.charge(kVisitMemory);
    const Value& value = pickle_.at(index);
    const auto below = [&](std::string_view key) {
      budget_.charge(name.size() + key.size());
      return name.empty() ? std::string(key) : fmt::format("{}/{}", name, key);
    };
    if (value.kind == Kind::kTensor) {
      add(value, name);
    } else if (value.kind == Kind::kDict) {
      for (size_t i = 0; i < value.items.size(); i += 2) {
        const Value& key = pickle_.at(value.items[i]);
        if (key.kind == Kind::kText) collect(value.items[i + 1], below(key.text), depth + 1);
        if (key.kind == Kind::kInt) collect(value.items[i + 1], below(std::to_string(key.number)), depth + 1);
      }
    } else if (value.kind == Kind::kList || value.kind == Kind::kTuple) {
      for (size_t i = 0; i < value.items.size(); ++i) collect(value.items[i], below(std::to_string(i)), depth + 1);
    }
  }

  std::vector<int64_t> sizes(uint32_t tuple, const std::string& name) const {
    std::vector<int64_t> result;
    for (const uint32_t item : pickle_.at(tuple).items) {
      const Value& size = pickle_.at(item);
      QAT_CHECK(size.kind == Kind::kInt && size.number >= 0 && result.size() < kMaxRank,
                "{} has an impossible shape, stride or offset", in_quotes(name));
      result.push_back(size.number);
    }
    return result;
  }

  void add(const Value& tensor, const std::string& name) {
    budget_.charge(kTensorMemory + name.size());
    const Storage& storage = pickle_.storages[static_cast<size_t>(pickle_.at(tensor.items[0]).number)];
    const size_t element = dtype_bytes(storage.dtype);
    const int64_t offset = pickle_.at(tensor.items[1]).number;
    const std::vector<int64_t> shape = sizes(tensor.items[2], name);
    const std::vector<int64_t> strides = sizes(tensor.items[3], name);
    QAT_CHECK(offset >= 0 && shape.size() == strides.size(), "{} has an impossible shape, stride or offset",
              in_quotes(name));
    QAT_CHECK(names_.insert(name).second, "it has two tensors of the name {}", in_quotes(name));

    const bool empty = std::ranges::find(shape, 0) != shape.end();
    uint64_t bytes = empty ? 0 : element;
    int64_t last = offset;
    bool fits = true;
    for (size_t d = 0; d < shape.size() && !empty; ++d) {
      int64_t reach = 0;
      fits = fits && !__builtin_mul_overflow(bytes, static_cast<uint64_t>(shape[d]), &bytes) &&
             !__builtin_mul_overflow(shape[d] - 1, strides[d], &reach) && !__builtin_add_overflow(last, reach, &last);
    }
    const Stored& stored = stored_.at(storage.key);
    QAT_CHECK(fits && (empty || last < storage.size), "{} {} [{}] reaches beyond the {} elements of its storage",
              in_quotes(name), storage.dtype, fmt::join(shape, ", "), storage.size);
    // Charged also when no copy is needed: who reads the tensors copies each.
    budget_.charge(bytes);
    const auto first = static_cast<uint64_t>(storage.offset + (empty ? 0 : offset)) * element;
    const char* start = empty ? nullptr : stored.data.data() + first;
    const bool swap = big_endian_ && element > 1;
    const void* data = start;
    if (!empty && (swap || !is_row_major(shape, strides) || reinterpret_cast<uintptr_t>(start) % element != 0)) {
      auto copy = std::make_unique<std::byte[]>(bytes);
      gather(start, shape, strides, element, copy.get(), bytes);
      if (swap) reverse_elements(copy.get(), bytes, element);
      data = copy.get();
      file_.copies_.push_back(std::move(copy));
    }
    file_.tensors_.push_back({name, std::string(storage.dtype), shape, data, bytes});
  }

  std::string_view bytes_;
  PthFile& file_;
  Budget budget_;
  bool big_endian_ = false;
  Pickle pickle_;
  std::map<std::string_view, Stored> stored_;
  std::set<std::string> names_;
};

PthFile PthFile::open(const std::string& path) { return parse(read_file(path), path); }

PthFile PthFile::parse(std::string bytes, const std::string& source) {
  PthFile file;
  file.bytes_ = std::make_unique<std::string>(std::move(bytes));
  try {
    refuse_other_formats(*file.bytes_);
    PthReader(*file.bytes_, file).read();
  } catch (const Error& error) {
    throw FileError(fmt::format("{}: {}", source, error.what()));
  }
  return file;
}

}  // namespace qat::archive
