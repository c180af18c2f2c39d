// Float <-> code. Encode divides (a reciprocal differs at near-ties); requantization is another arithmetic
// (requantize.h).
#pragma once

#include <cstdint>

#include "core/ops/types.h"

namespace qat::ops {

/// codes[i] = rne(clip(fl32(x[i] / scale), lo - z, hi - z)) + z. Infinities saturate, NaN gives lo.
/// inside (optional): bit i % 8 of byte i / 8 is set where lo - z <= x / scale <= hi - z; (n + 7) / 8 bytes, unused
/// bits 0.
template <class Code>
void encode(const float* x, int64_t n, float scale, CodeRange range, Code* codes, uint8_t* inside = nullptr);

/// The same per channel for x [channels][depth] (a weight, output channels first); one zero point 0.
void encode_per_channel(const float* x, int64_t channels, int64_t depth, const float* scale, int32_t lo, int32_t hi,
                        int8_t* codes);

/// x[i] = fl32(scale * float(codes[i] - zero_point)).
template <class Code>
void dequantize(const Code* codes, int64_t n, float scale, int32_t zero_point, float* x);

}  // namespace qat::ops
