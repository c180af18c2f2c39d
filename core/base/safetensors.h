// The safetensors container (https://github.com/huggingface/safetensors), read with suspicion and written
// deterministically: u64 little-endian header length, JSON header, data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"

namespace qat {

/// The safetensors name of a C++ type.
template <class T>
constexpr std::string_view safetensors_dtype() = delete;
// clang-format off
template <> constexpr std::string_view safetensors_dtype<float>() { return "F32"; }
template <> constexpr std::string_view safetensors_dtype<double>() { return "F64"; }
template <> constexpr std::string_view safetensors_dtype<int8_t>() { return "I8"; }
template <> constexpr std::string_view safetensors_dtype<uint8_t>() { return "U8"; }
template <> constexpr std::string_view safetensors_dtype<int16_t>() { return "I16"; }
template <> constexpr std::string_view safetensors_dtype<int32_t>() { return "I32"; }
template <> constexpr std::string_view safetensors_dtype<int64_t>() { return "I64"; }
// clang-format on

/// A named, contiguous, row-major tensor that somebody else owns. dtype is one of F64 F32 F16 BF16 I64 I32 I16 I8 U8
/// BOOL; shape [] is a scalar; a zero in the shape means no elements. Data of a read file is aligned to its element.
struct TensorView {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  size_t bytes = 0;

  /// A view of `values`; their number must be the product of the shape (checked when written).
  template <class T>
  static TensorView of(std::string name, std::vector<int64_t> shape, std::span<const T> values) {
    return {std::move(name), std::string(safetensors_dtype<T>()), std::move(shape), values.data(), values.size_bytes()};
  }

  /// The elements. Throws Error unless dtype is that of T.
  template <class T>
  std::span<const T> values() const {
    QAT_CHECK(dtype == safetensors_dtype<T>(), "{}: expected dtype {}, found {}", name, safetensors_dtype<T>(), dtype);
    return {static_cast<const T*>(data), bytes / sizeof(T)};
  }
};

/// Bytes of one element. Throws Error for an unknown dtype.
size_t dtype_bytes(std::string_view dtype);

/// A whole safetensors file in memory; views stay valid as long as it (or a file moved from it) lives.
class SafetensorsFile {
 public:
  /// Throws FileError "path: cause" for anything but a sound file: the header's length and every size and offset are
  /// checked against the bytes present before anything is allocated; duplicate names, overlaps, holes, uncovered
  /// bytes and unknown dtypes are refused.
  static SafetensorsFile open(const std::string& path);

  /// The same from bytes in memory; `source` names them in errors.
  static SafetensorsFile parse(std::string bytes, const std::string& source);

  /// In the header's order.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return index_.count(name) != 0; }

  /// Throws FileError with the nearest name when there is none.
  const TensorView& at(const std::string& name) const;

  /// The texts under __metadata__; empty when absent.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::string source_;
  std::unique_ptr<std::string> bytes_;  // on the heap: views survive a move
  std::vector<std::unique_ptr<std::byte[]>> copies_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// The bytes of a file with these tensors, in this order: equal input, equal bytes. The data section starts at a
/// multiple of 8 (the header is padded with spaces); tensors follow one another without holes, as the format demands.
/// Throws Error for a duplicate name, an unknown dtype, or a size that does not fit shape and dtype.
std::string write_safetensors(std::span<const TensorView> tensors, const std::map<std::string, std::string>& metadata);

}  // namespace qat
