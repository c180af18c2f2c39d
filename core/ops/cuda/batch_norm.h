// The few numbers a channel that stand between the passes of a step: those that the CPU makes on the host in
// core/autograd/conv.cpp and core/ops/fold.cpp, bit for bit. Arrays are [channels] but where said; "or null" marks what
// may be absent.
#pragma once

#include "core/ops/cuda/follow.h"
#include "core/ops/cuda/statistics.h"
#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

struct BatchNorm {
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float* running_mean = nullptr;
  float* running_var = nullptr;
  double eps = 1e-5, momentum = 0.1;
};

/// The scale of a layer's output codes: `scale` [1], which `follow` (if not null) moves first. No scale: float values.
struct OutputScale {
  const float* scale = nullptr;
  const FollowedRange* follow = nullptr;
  bool relu = false;
};

/// How accumulators are kept as int16: core/ops' compact(). No pointers: they are not.
struct CompactNumbers {
  int32_t* middle = nullptr;
  float* gain = nullptr;
  float* step = nullptr;
};

/// A layer whose batch norm uses the batch's statistics (or, with running_statistics, those it had before the batch).
struct LiveLayer {
  int64_t rows = 0, channels = 0;
  ChannelSums sums;                     // of the accumulators
  const float* scale_x = nullptr;       // [1]
  const float* scale_w = nullptr;       // of the codes
  const double* weight_gain = nullptr;  // in the codes; or null
  const float* bias = nullptr;          // or null
  BatchNorm norm;
  bool running_statistics = false;
};

/// xhat = p * acc + q;  gain = gamma / sqrt(var + eps);  code = rne(fma(acc, multiplier, offset)). scale_ran,
/// weight_factor: autograd::ConvBackward's w_scale (divided by weight_gain where there is one) and weight_factor (1 /
/// weight_gain, or 1).
struct LiveNumbers {
  double *p = nullptr, *q = nullptr, *gain = nullptr, *weight_factor = nullptr;
  float *multiplier = nullptr, *offset = nullptr, *scale_ran = nullptr;
};

/// Also updates the running statistics. One launch of one block. failed as in follow_range(); also where a statistic is
/// not finite.
void live_layer(const LiveLayer& layer, const OutputScale& output, const LiveNumbers& numbers,
                const CompactNumbers& compact, int32_t* failed, cudaStream_t stream);

/// A layer with frozen statistics, or without batch norm (norm.gamma null).
struct FoldedLayer {
  int64_t channels = 0, depth = 0;
  const int8_t* codes = nullptr;   // [channels][depth], raw
  const float* scale_x = nullptr;  // [1]
  const float* scale_w = nullptr;
  bool gain_in_codes = false;
  const float* bias = nullptr;  // or null
  BatchNorm norm;
};

/// ops::Folded.
struct FoldedNumbers {
  int8_t* codes = nullptr;  // [channels][depth]; not FoldedLayer::codes
  float* scale = nullptr;
  int32_t* bias = nullptr;
  double* k = nullptr;
};

/// ops::fold(). failed is set to 1 where that throws; what is written is undefined then.
void fold(const FoldedLayer& layer, const FoldedNumbers& numbers, int32_t* failed, cudaStream_t stream);

/// What a folded layer's accumulators are multiplied with, after its range has followed. sums: needed with
/// output.follow or compact; otherwise none. Without an output scale: multiplier = fl32(scale_x * scale). offset =
/// fl32(multiplier * float(bias)); or null. One launch of one block.
void folded_multipliers(int64_t channels, const ChannelSums& sums, const float* scale_x, const FoldedNumbers& folded,
                        const OutputScale& output, float* multiplier, float* offset, const CompactNumbers& compact,
                        int32_t* failed, cudaStream_t stream);

/// out [n] = float(sum [n] * factor), the gradients of n scales: the gradient scale is a constant.
void scale_gradient(const double* sum, double factor, float* out, int64_t n, cudaStream_t stream);

/// autograd::BatchNorm::running_gain().
void running_gain(const BatchNorm& norm, int64_t channels, double* gain, cudaStream_t stream);

}  // namespace qat::ops::cuda
