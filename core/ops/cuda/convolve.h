// Convolution of codes on the GPU: the exact int32 accumulators of core/ops/convolve.h (modulo 2^32).
#pragma once

#include "core/ops/cuda/statistics.h"
#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// x NHWC codes, zero_point [1] in [0, 255], w [co][kh][kw][ci / groups] codes, acc [rows][out_c].
/// One group runs on the tensor cores (kernels up to 31x31; fastest where in_c is a multiple of 16), all else on
/// dot-product instructions. Throws qat::Error if sizes, strides or groups are not possible, the kernel is larger than
/// the padded input, or pixels or the bytes of a padded image reach 2^30. An empty batch is fine.
/// sums: those of the accumulators are added to it, if it has words.
void convolve(const ConvGeometry& g, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc,
              const ChannelSums& sums, cudaStream_t stream);

}  // namespace qat::ops::cuda
