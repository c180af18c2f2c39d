// bfloat16 as its bits. Internal to core/ops/cuda.
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

/// Both, the first one in the lower half.
__device__ inline uint32_t to_bfloat16s(float first, float second) {
#if __CUDA_ARCH__ >= 800
  uint32_t both;  // a NaN has other bits than above
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
#else
  return static_cast<uint32_t>(to_bfloat16(second).bits) << 16 | to_bfloat16(first).bits;
#endif
}

}  // namespace qat::ops::cuda
