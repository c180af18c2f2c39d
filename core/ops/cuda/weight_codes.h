// Codes of weights and their gradient on the GPU; see core/ops/weight_codes.h. A weight is [channels][depth], one scale
// a channel or one for several neighbours: then channels are the scales and depth covers them.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// quantizers::largest_scale(): the scale of each channel with which its largest magnitude has the code `levels`.
/// failed [1] is set to 1 where a weight is not finite.
void largest_scales(const float* x, int64_t channels, int64_t depth, double levels, float* scale, int32_t* failed,
                    cudaStream_t stream);

/// A weight of a list. Codes as ops::encode_per_channel: clip(x / scale, lo, hi), rounded half to even.
struct EncodedWeight {
  const float* x = nullptr;   // [channels][depth]
  int8_t* codes = nullptr;    // [channels][depth]
  float* scale = nullptr;     // [scales]: of channels / scales neighbours each
  float* repeated = nullptr;  // [channels], gets each channel's scale; or null
  int64_t depth = 0;
  int32_t channels = 0, scales = 1, lo = -127, hi = 127;
  bool follows = false;  // scales are made as by largest_scales, with hi levels; one a channel
  int32_t first = 0;     // channels of the weights before it in the list
};

/// Encodes all weights of a list [count] on the device; channels: of all together.
void encode_weights(const EncodedWeight* list, int64_t count, int64_t channels, int32_t* failed, cudaStream_t stream);

/// x and g [channels][depth]. dx may be null or g; dscale [channels] may be null.
void encode_weights_gradient(const float* x, const float* g, int64_t channels, int64_t depth, const float* scale,
                             int32_t lo, int32_t hi, bool by_code, float* dx, double* dscale, cudaStream_t stream);

/// out = x * float(factor[c]); out may be x.
void scale_rows(const float* x, int64_t channels, int64_t depth, const double* factor, float* out, cudaStream_t stream);

}  // namespace qat::ops::cuda
