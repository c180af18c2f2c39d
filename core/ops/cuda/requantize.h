// Accumulator -> code and the fused passes of a training step on the GPU; see core/ops/requantize.h. Matrices are
// [rows][channels], per-channel arrays [channels].
#pragma once

#include "core/ops/cuda/types.h"
#include "core/ops/requantize.h"

namespace qat::ops::cuda {

using ops::KeptAccumulators;  // here with device pointers

/// bias and inside may be null.
void requantize(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* bias, const float* multiplier,
                DeviceRange range, uint8_t* codes, uint8_t* inside, bool relu, cudaStream_t stream);

/// Where a pass leaves the accumulators for backward.
struct Compact {
  const int32_t* middle = nullptr;
  const float* gain = nullptr;
  int16_t* kept = nullptr;  // [rows][channels]; null: nothing is kept
};

/// The live pass: requantize_affine of core/ops and, with keep.kept, compact() of the accumulators in the same read.
void requantize_affine(const int32_t* acc, int64_t rows, int64_t channels, const float* multiplier, const float* offset,
                       DeviceRange range, uint8_t* codes, uint8_t* inside, bool relu, const Compact& keep,
                       cudaStream_t stream);

/// bias may be null.
void dequantize_accumulators(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* bias,
                             const float* multiplier, float* y, cudaStream_t stream);

void compact(const int32_t* acc, int64_t rows, int64_t channels, const Compact& keep, cudaStream_t stream);

void mask_gradient(const float* g, const uint8_t* inside, int64_t n, float* dx, cudaStream_t stream);

/// Bytes of scratch memory that encode_scale_gradient needs; aligned to 16.
size_t encode_scale_gradient_scratch(int64_t n);

/// gradient [1] = float(factor * ops::encode_scale_gradient()); scale [1].
void encode_scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x,
                           const float* scale, const int32_t* zero_point, int64_t n, double factor, float* gradient,
                           void* scratch, cudaStream_t stream);

}  // namespace qat::ops::cuda
