// How convolve() is split. Internal to core/ops/cuda.
#pragma once

#include <cstdint>

#include "core/ops/cuda/launch.h"
#include "core/ops/cuda/statistics.h"

namespace qat::ops::cuda::kernels {

/// ConvGeometry as the kernels want it: 32 bits, the output's sizes made.
struct ConvShape {
  explicit ConvShape(const ConvGeometry& g);
  int batch, in_h, in_w, in_c, out_h, out_w, out_c;
  int kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
  int rows, depth;  // of one group
};

/// Throws qat::Error "<kernel>: ..." for a geometry that the kernels do not take; see convolve.h.
void check(const char* kernel, const ConvGeometry& g);

/// Whether the tensor cores do it: one group and a kernel of up to 31x31.
bool is_dense(const ConvGeometry& g);

/// Multiprocessors of the GPU.
int processors();

/// One group and a kernel of up to 31x31: an implicit matrix product [rows][depth] x [depth][out_c] on the tensor
/// cores. sums as in convolve().
void convolve_dense(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc,
                    const ChannelSums& sums, cudaStream_t stream);

/// Anything; depthwise convolutions have a kernel of their own.
void convolve_grouped(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc,
                      cudaStream_t stream);

}  // namespace qat::ops::cuda::kernels
