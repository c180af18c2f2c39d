// Gradients of convolutions of codes on the GPU; see core/ops/convolve_gradient.h for what they are. The tensor cores'
// products are of bfloat16: codes are exact in it, gradients are one bfloat16 or the sum of two.
//
//   dx[pixel][ci] = sum over taps, co of dy[row][co] * scale_w[co] * w[co][tap][ci]
//   dw[co][tap][ci] = factor[co] * sum over rows of dy[row][co] * scale_w[co] * (x[pixel][ci] - zero_point)
//
// Sums are of float32, parts of a weight's in double, in an order that does not depend on timing: the same numbers every time on the same GPU.
#pragma once

#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

enum class GradientPrecision {
  kFloat,     // dy as two bfloat16: relative errors of 2^-16
  kBfloat16,  // dy as one: 2^-9
};

/// dy [rows][out_c], the gradient of the accumulators times their scale, in parts:
///   dy = (inside ? slope[co] * g : 0) + (inner[co] * acc + constant[co]), or without these numbers
///   dy = inside ? g : 0.
/// That is what ops::batch_norm_gradient and ops::mask_gradient make.
struct ProductGradient {
  const float* g = nullptr;         // [rows][out_c]
  const uint8_t* inside = nullptr;  // a bit an element; null: all
  const float *slope = nullptr, *inner = nullptr, *constant = nullptr;  // [out_c], all or none
  KeptAccumulators kept = {};                                           // with them; none: acc = 0
};

/// dy scaled by scale_w [out_c] and split, as both products read it. Bytes of the operand; aligned to 16.
size_t gradient_operand_bytes(const ConvGeometry& g, GradientPrecision precision);
void gradient_operand(const ConvGeometry& g, GradientPrecision precision, const ProductGradient& dy,
                      const float* scale_w, void* operand, cudaStream_t stream);

/// w [out_c][kernel_h][kernel_w][in_c / groups] codes; dx NHWC. add: dx += instead of dx =. scratch: bytes aligned
/// to 16.
size_t input_gradient_scratch(const ConvGeometry& g, GradientPrecision precision);
void input_gradient(const ConvGeometry& g, GradientPrecision precision, const void* operand, const int8_t* w, bool add,
                    float* dx, void* scratch, cudaStream_t stream);

/// x NHWC codes, zero_point [1], factor [out_c]; dw [out_c][kernel_h][kernel_w][in_c / groups].
size_t weight_gradient_scratch(const ConvGeometry& g, GradientPrecision precision);
void weight_gradient(const ConvGeometry& g, GradientPrecision precision, const uint8_t* x, const int32_t* zero_point,
                     const void* operand, const float* factor, float* dw, void* scratch, cudaStream_t stream);

}  // namespace qat::ops::cuda
