// Small helpers for tests on tensors.
#pragma once

#include <ATen/ATen.h>

#include "core/autograd/functions.h"

namespace qat::test {

/// |a - b| / |b| in the 2-norm.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).norm() / y.norm().clamp_min(1e-30)).item<double>();
}

/// Random codes in [lo, hi] as a quantized tensor whose handle is a leaf that gathers its gradient.
inline autograd::QuantizedTensor random_codes(at::IntArrayRef sizes, float scale, ops::CodeRange range,
                                              bool requires_grad = true) {
  at::Tensor codes = autograd::empty_kernel_layout(sizes, at::kByte);
  codes.copy_(at::randint(range.lo, range.hi + 1, sizes, at::kLong));
  at::Tensor handle = autograd::make_handle(sizes);
  handle.set_requires_grad(requires_grad);
  return {codes, scale, range, handle};
}

/// The real values of a quantized tensor in double.
inline at::Tensor real(const autograd::QuantizedTensor& x) {
  return (x.codes().to(at::kDouble) - x.zero_point()) * static_cast<double>(x.scale());
}

inline autograd::OutputQuantizer output_quantizer(float scale, int zero_point, int hi = 255) {
  autograd::OutputQuantizer q;
  q.scale = at::full({1}, scale, at::kFloat);
  q.zero_point = at::full({1}, zero_point, at::kInt);
  q.lo = 0;
  q.hi = hi;
  return q;
}

}  // namespace qat::test
