// Quantization of floats to floats with gradients: what a quantizer's plain forward is made of, and the bridge from
// values on a grid to codes.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/autograd/quantized_tensor.h"
#include "core/ops/fake_quantize.h"

namespace qat::autograd {

/// An affine grid (ops/fake_quantize.h) whose scale and offset may learn.
struct AffineGrid {
  at::Tensor scale;       // float32 [n]: n is 1 or divides the size of `axis`: then sizes[axis] / n slices share one
  at::Tensor zero_point;  // int32 [n]
  at::Tensor offset;      // float32 [n] or undefined: the real value -scale * zero_point, where that learns
  int32_t lo = 0, hi = 255;
  int64_t axis = 0;
  ops::Rounding rounding = ops::Rounding::kHalfEven;
  uint64_t seed = 0;
  bool reciprocal = false;
  ops::GridGradient gradient;
  double gradient_scale = 1;  // factor on the gradients of scale and offset
};

/// float32 values -> values on the grid; gradients to x, scale and offset.
at::Tensor fake_quantize(const at::Tensor& x, const AffineGrid& grid);

/// `values` (no history), with the gradient passed to x unchanged, or only where `factor` (of x's sizes, or one) lets
/// it: dx = g * factor.
at::Tensor straight_through(const at::Tensor& values, const at::Tensor& x, const at::Tensor& factor = {});

/// The exact int8 codes of a weight whose values are scale * integer; scale [n], n divides the rows. The handle's
/// gradient goes to `values`. Throws qat::Error for values off the grid or codes that int8 cannot hold.
QuantizedWeight weight_codes(const at::Tensor& values, const at::Tensor& scale);

/// The exact codes of values s * (q - z), with the gradient passed to `values`.
QuantizedTensor activation_codes(const at::Tensor& values, float scale, ops::CodeRange range);

/// The codes of `codes` with a handle whose gradient goes to `values`, the same real values.
QuantizedTensor with_gradient(const QuantizedTensor& codes, const at::Tensor& values);

}  // namespace qat::autograd
