// How the gradients of convolutions are split. Internal to core/ops/cuda.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ops/cuda/convolve_gradient.h"
#include "core/ops/cuda/convolve_kernels.h"

namespace qat::ops::cuda {
struct Bfloat16;
}  // namespace qat::ops::cuda

namespace qat::ops::cuda::kernels {

/// Channels of the copies that the tensor cores read: 16 bytes of bfloat16 lie in one pixel. Zeros behind.
constexpr int64_t padded_channels(int64_t channels) { return (channels + 7) / 8 * 8; }

/// Planes of an operand.
constexpr int planes(GradientPrecision precision) { return precision == GradientPrecision::kFloat ? 2 : 1; }

/// is_dense(): on the tensor cores. operand: bfloat16 [planes][rows][padded_channels(out_c)], whose sum is dy *
/// scale_w.
size_t input_gradient_dense_scratch(const ConvShape& s);
void input_gradient_dense(const ConvShape& s, GradientPrecision precision, const void* operand, const int8_t* w,
                          bool add, float* dx, void* scratch, cudaStream_t stream);
/// Kernels three wide whose output has the input's size: w as bfloat16 [in_c][kernel_h * 3][padded_channels(out_c)].
bool is_same(const ConvShape& s);
void input_gradient_same(const ConvShape& s, GradientPrecision precision, const Bfloat16* operand, const Bfloat16* w,
                         bool add, float* dx, cudaStream_t stream);
size_t weight_gradient_dense_scratch(const ConvShape& s);
void weight_gradient_dense(const ConvShape& s, GradientPrecision precision, const uint8_t* x, const int32_t* zero_point,
                           const void* operand, const float* factor, float* dw, void* scratch, cudaStream_t stream);

/// Any groups and kernels, also one group with a larger kernel. operand: float [rows][out_c], dy * scale_w.
void input_gradient_grouped(const ConvShape& s, const float* operand, const int8_t* w, bool add, float* dx,
                            cudaStream_t stream);
size_t weight_gradient_grouped_scratch(const ConvShape& s);
void weight_gradient_grouped(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const float* operand,
                             const float* factor, float* dw, void* scratch, cudaStream_t stream);

}  // namespace qat::ops::cuda::kernels
