// Shared by the convolution kernels, which are compiled once per vector target; included after hwy/highway.h.
#if defined(QAT_CORE_OPS_PIXELS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef QAT_CORE_OPS_PIXELS_INL_H
#undef QAT_CORE_OPS_PIXELS_INL_H
#else
#define QAT_CORE_OPS_PIXELS_INL_H
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/ops/convolve_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using I32 = hn::CappedTag<int32_t, kBlock>;
using F32 = hn::Rebind<float, I32>;
constexpr int64_t kLanes = hn::MaxLanes(I32());
constexpr int64_t kVectors = kBlock / kLanes;  // of a block

// Registers: pixels * vectors accumulators, the vectors' weights and one broadcast must fit (32 or 16 of them).
#if HWY_TARGET <= HWY_AVX3
constexpr int64_t kPixels = 12;
constexpr int64_t kWide = 2 * kVectors;
#else
constexpr int64_t kPixels = kVectors >= 4 ? 3 : 6;
constexpr int64_t kWide = kVectors;
#endif

/// Calls run(pixels as a constant, first pixel) until all are covered; the last call may cover some a second time.
template <int64_t kMost, class Run>
HWY_INLINE void cover(int64_t pixel_count, const Run& run) {
  const auto with = [&](auto size) {
    for (int64_t p = 0; p < pixel_count; p += size) run(size, std::min<int64_t>(p, pixel_count - size));
  };
  constexpr int64_t kSmall = 4;
  if (pixel_count >= kMost) {
    with(std::integral_constant<int64_t, kMost>());
  } else if (kSmall < kMost && pixel_count >= kSmall) {
    with(std::integral_constant<int64_t, kSmall>());
  } else {
    with(std::integral_constant<int64_t, 1>());
  }
}

/// Codes of kLanes outputs from the task's channel `channel`; `count` of them are written.
HWY_INLINE void store_codes(const CodeOutput& c, hn::Vec<I32> sum, int64_t channel, int64_t count, uint8_t* codes) {
  const I32 d32;
  const F32 df;
  if (c.bias != nullptr) sum = hn::Add(sum, hn::LoadU(d32, c.bias + channel));
  // Never NaN: the sum and the multiplier are finite.
  const auto t = hn::Mul(hn::ConvertTo(df, sum), hn::LoadU(df, c.multiplier + channel));
  const auto clipped = hn::Min(hn::Max(t, hn::Set(df, c.lo)), hn::Set(df, c.hi));
  // Adding 1.5 * 2^23 rounds to even and leaves the integer in the low bits.
  const auto bits = hn::BitCast(d32, hn::Add(clipped, hn::Set(df, 0x1.8p23f)));
  const auto code = hn::Sub(bits, hn::Set(d32, 0x4b400000 - c.zero_point));
  alignas(64) uint8_t some[kLanes];
  uint8_t* to = count >= kLanes ? codes : some;
  if (c.is_signed) {
    const hn::Rebind<int8_t, I32> d8;
    hn::StoreU(hn::DemoteTo(d8, code), d8, reinterpret_cast<int8_t*>(to));
  } else {
    const hn::Rebind<uint8_t, I32> d8;
    hn::StoreU(hn::DemoteTo(d8, code), d8, to);
  }
  if (count < kLanes) std::memcpy(codes, some, static_cast<size_t>(count));
}

#if HWY_TARGET == HWY_AVX2
/// The same of 2 * kLanes outputs: narrowing two vectors takes no longer than one.
HWY_INLINE void store_pair_of_codes(const CodeOutput& c, hn::Vec<I32> first, hn::Vec<I32> second, int64_t channel,
                                    uint8_t* codes) {
  const auto rounded = [&](hn::Vec<I32> sum, int64_t at) HWY_ATTR {
    if (c.bias != nullptr) sum = hn::Add(sum, hn::LoadU(I32(), c.bias + at));
    const auto t = hn::Mul(hn::ConvertTo(F32(), sum), hn::LoadU(F32(), c.multiplier + at));
    // Below, what exceeds int32 becomes its lowest value, as it should; above, it must not come to that.
    return _mm256_cvtps_epi32(hn::Min(t, hn::Set(F32(), c.hi)).raw);
  };
  __m256i both = _mm256_packs_epi32(rounded(first, channel), rounded(second, channel + kLanes));
  both = _mm256_max_epi16(both, _mm256_set1_epi16(static_cast<int16_t>(c.lo)));
  both = _mm256_add_epi16(both, _mm256_set1_epi16(static_cast<int16_t>(c.zero_point)));
  both = c.is_signed ? _mm256_packs_epi16(both, both) : _mm256_packus_epi16(both, both);
  const __m128i in_order = _mm_unpacklo_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), in_order);
}
#endif

/// Codes of kV vectors of outputs from the task's channel `channel`; `count` of them are written.
template <int64_t kV>
HWY_INLINE void store_row_of_codes(const CodeOutput& c, const hn::Vec<I32> (&sums)[kV], int64_t channel, int64_t count,
                                   uint8_t* codes) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (kV % 2 == 0) {
    if (count >= kV * kLanes) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; v += 2) {
        store_pair_of_codes(c, sums[v], sums[v + 1], channel + v * kLanes, codes + v * kLanes);
      }
      return;
    }
  }
#endif
#pragma GCC unroll 4
  for (int64_t v = 0; v < kV; ++v) {
    if (v * kLanes >= count) break;
    store_codes(c, sums[v], channel + v * kLanes, count - v * kLanes, codes + v * kLanes);
  }
}

}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
