// The sums of a layer's gradient by channel, and all that backward makes of them, in one launch. Matrices are
// [rows][channels], per-channel arrays [channels].
#pragma once

#include "core/ops/cuda/requantize.h"

namespace qat::ops::cuda {

/// The gradient g of a layer's output; inside may be null.
struct LayerGradient {
  int64_t rows = 0, channels = 0;
  const float* g = nullptr;
  const uint8_t* inside = nullptr;
  KeptAccumulators kept;
};

/// What the sums are multiplied with.
struct LayerFactors {
  const double *p = nullptr, *q = nullptr, *gain = nullptr;  // LiveNumbers (batch_norm.h); null: a folded layer
  bool running_statistics = false;                           // LiveLayer's
  const double* k = nullptr;                                 // FoldedNumbers'
  const float* scale_x = nullptr;                            // [1]
  const double* weight_factor = nullptr;                     // or null: 1
  const float* scale_ran = nullptr;
};

/// What is made of a channel's sums s1 = sum of g where inside and s2 = sum of g * a there; null: nobody asks. Of a
/// live batch norm a, b, c of batch_norm_gradient() and dgamma = p * s2 + q * s1; dbeta = s1; dbias = s1 * k, or s1 *
/// gain with running statistics, or 0: the batch's mean takes the bias away again. weight_factor = float(scale_x *
/// weight_factor) / scale_ran, for weight_gradient() (convolve_gradient.h), needs no sums.
struct LayerGradients {
  double *s1 = nullptr, *s2 = nullptr;
  float *a = nullptr, *b = nullptr, *c = nullptr;
  float *dgamma = nullptr, *dbeta = nullptr, *dbias = nullptr;
  float* weight_factor = nullptr;
};

/// ops::ScaleGradient on the device: gradient [1] = float(factor * the sum); null: nobody asks.
struct ScaleGradient {
  const uint8_t* codes = nullptr;
  const float* multiplier = nullptr;
  const float* offset = nullptr;        // may be null
  const int32_t* zero_point = nullptr;  // [1]
  double factor = 1;
  float* gradient = nullptr;
};

/// bytes: reduce_gradient_scratch(), aligned to 16. arrived: reduce_gradient_counters() zeros, which are left as zeros.
struct ReduceScratch {
  void* bytes = nullptr;
  int32_t* arrived = nullptr;
};
size_t reduce_gradient_scratch(int64_t rows, int64_t channels);
int64_t reduce_gradient_counters(int64_t channels);

/// The sums are as accurate as those of ops::reduce_gradient(), and always the same, but their order is the GPU's own:
/// up to eight terms in float, all else in double; with products of accumulators kept as int32 all in double. What
/// nobody asks for is not read. Results of s2, and a scale's gradient, need kept accumulators.
void reduce_gradient(const LayerGradient& layer, const LayerFactors& factors, const LayerGradients& gradients,
                     const ScaleGradient& scale, const ReduceScratch& scratch, cudaStream_t stream);

}  // namespace qat::ops::cuda
