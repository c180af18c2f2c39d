// Codes of weights with one scale a channel, and the gradient of that step.
#pragma once

#include <cstdint>

namespace qat::ops {

/// encode_per_channel() (encode.h), telling whether any rounded code had to be clipped.
bool encode_weights(const float* x, int64_t channels, int64_t depth, const float* scale, int32_t lo, int32_t hi,
                    int8_t* codes);

/// x = code * scale[c].
void dequantize_weights(const int8_t* codes, int64_t channels, int64_t depth, const float* scale, float* x);

/// fake_quantize_gradient() (fake_quantize.h) with rounding half to even, for one zero point 0: t = x / scale[c],
///   dx      g where inside, else 0; inside: lo <= t <= hi, or with by_code lo <= round(t) <= hi. May be null
///   dscale  per channel, sum of g * (code - t) inside, g * code outside; 16 sums of doubles, then theirs. May be null
void encode_weights_gradient(const float* x, const float* g, int64_t channels, int64_t depth, const float* scale,
                             int32_t lo, int32_t hi, bool by_code, float* dx, double* dscale);

/// largest[c] = max |x| of a channel; NaN where one is.
void largest_magnitudes(const float* x, int64_t channels, int64_t depth, float* largest);

}  // namespace qat::ops
