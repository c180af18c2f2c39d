#include "core/engine/layout.h"

#include "core/base/error.h"

namespace qat::engine {
namespace {

/// [batch][rows][columns] -> [batch][columns][rows].
template <class T>
std::vector<T> transposed(const std::vector<T>& x, int64_t rows, int64_t columns) {
  std::vector<T> y(x.size());
  const auto map = static_cast<size_t>(rows * columns);
  for (size_t at = 0; at < x.size(); at += map) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c)
        y[at + static_cast<size_t>(c * rows + r)] = x[at + static_cast<size_t>(r * columns + c)];
    }
  }
  return y;
}

void check_size(const Value& value, const integer::Tensor& tensor) {
  const auto expected = static_cast<size_t>(value.batch * tensor.size());
  QAT_CHECK(value.codes.size() + value.values.size() == expected, "{}: expected {} elements, found {}", tensor.name,
            expected, value.codes.size() + value.values.size());
}

Value transposed(const Value& x, int64_t rows, int64_t columns) {
  return {.batch = x.batch, .codes = transposed(x.codes, rows, columns), .values = transposed(x.values, rows, columns)};
}

}  // namespace

Value to_nchw(const Value& nhwc, const integer::Tensor& tensor) {
  check_size(nhwc, tensor);
  return transposed(nhwc, tensor.size() / tensor.shape[0], tensor.shape[0]);
}

Value to_nhwc(const Value& nchw, const integer::Tensor& tensor) {
  check_size(nchw, tensor);
  return transposed(nchw, tensor.shape[0], tensor.size() / tensor.shape[0]);
}

}  // namespace qat::engine
