#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

#include "core/archive/bytes.h"
#include "core/archive/pth.h"
#include "core/archive/zip.h"
#include "core/base/text.h"

namespace qat::archive {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kStorages{{
    {"F64", "DoubleStorage"},
    {"F32", "FloatStorage"},
    {"F16", "HalfStorage"},
    {"BF16", "BFloat16Storage"},
    {"I64", "LongStorage"},
    {"I32", "IntStorage"},
    {"I16", "ShortStorage"},
    {"I8", "CharStorage"},
    {"U8", "ByteStorage"},
    {"BOOL", "BoolStorage"},
}};

/// Protocol 2 opcodes, named in CPython's pickletools.
class Pickler {
 public:
  std::string bytes = "\x80\x02";

  void text(std::string_view value) {
    bytes += 'X';
    put_number(bytes, value.size(), 4);
    bytes += value;
  }
  void integer(int64_t value) {
    bytes += "\x8a\x08";
    put_number(bytes, static_cast<uint64_t>(value), 8);
  }
  void global(std::string_view module, std::string_view name) { bytes += fmt::format("c{}\n{}\n", module, name); }
  void tuple(std::span<const int64_t> values) {
    bytes += '(';
    for (const int64_t value : values) integer(value);
    bytes += 't';
  }
  void empty_ordered_dict() {
    global("collections", "OrderedDict");
    bytes += ")R";
  }
};

std::vector<int64_t> row_major_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * std::max<int64_t>(shape[d], 1);
  return strides;
}

}  // namespace

std::string write_pth(std::span<const TensorView> tensors) {
  Pickler pickler;
  std::vector<ZipRecord> data;
  std::set<std::string_view> names;
  pickler.empty_ordered_dict();
  pickler.bytes += '(';
  for (const TensorView& tensor : tensors) {
    QAT_CHECK(names.insert(tensor.name).second, "cannot write the tensor name {} twice", in_quotes(tensor.name));
    QAT_CHECK(tensor.name.size() <= std::numeric_limits<uint32_t>::max(), "a tensor name of {} bytes",
              tensor.name.size());
    const size_t element = dtype_bytes(tensor.dtype);
    uint64_t bytes = element;
    bool fits = true;
    for (const int64_t size : tensor.shape) {
      fits = fits && size >= 0 && !__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes);
    }
    QAT_CHECK(fits && bytes == tensor.bytes, "{}: {} bytes are not {} [{}]", tensor.name, tensor.bytes, tensor.dtype,
              fmt::join(tensor.shape, ", "));
    const auto storage =
        std::ranges::find(kStorages, tensor.dtype, &std::pair<std::string_view, std::string_view>::first);
    const std::string key = std::to_string(data.size());
    pickler.text(tensor.name);
    pickler.global("torch._utils", "_rebuild_tensor_v2");
    pickler.bytes += "((";
    pickler.text("storage");
    pickler.global("torch", storage->second);
    pickler.text(key);
    pickler.text("cpu");
    pickler.integer(static_cast<int64_t>(bytes / element));
    pickler.bytes += "tQ";
    pickler.integer(0);  // offset
    pickler.tuple(tensor.shape);
    pickler.tuple(row_major_strides(tensor.shape));
    pickler.bytes += '\x89';       // requires_grad: False
    pickler.empty_ordered_dict();  // backward hooks
    pickler.bytes += "tR";
    data.push_back({"archive/data/" + key, {static_cast<const char*>(tensor.data), tensor.bytes}});
  }
  pickler.bytes += "u.";
  std::vector<ZipRecord> records{{"archive/data.pkl", pickler.bytes}, {"archive/byteorder", "little"}};
  records.insert(records.end(), data.begin(), data.end());
  records.push_back({"archive/version", "3\n"});
  return write_zip(records);
}

}  // namespace qat::archive
