// bfloat16 as its bits, by integer arithmetic, so that every compiler makes the same ones. Internal to core/ops/cuda.
#pragma once

#include <cstdint>

namespace qat::ops::cuda {

struct Bfloat16 {
  uint16_t bits;
};

/// The nearest one, ties to even; NaN stays NaN.
__device__ inline Bfloat16 to_bfloat16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

__device__ inline float to_float(Bfloat16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }

}  // namespace qat::ops::cuda
