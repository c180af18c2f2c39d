// Shared by the files that are compiled once per vector target; included after hwy/highway.h in each of them.
#if defined(QAT_CORE_OPS_VECTOR_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef QAT_CORE_OPS_VECTOR_INL_H
#undef QAT_CORE_OPS_VECTOR_INL_H
#else
#define QAT_CORE_OPS_VECTOR_INL_H
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// a * b + c with one rounding, on every machine.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V fused(D d, V a, V b, V c) {
#if HWY_NATIVE_FMA
  (void)d;
  return hn::MulAdd(a, b, c);
#else
  constexpr size_t kLanes = hn::MaxLanes(D());
  float x[kLanes], y[kLanes], z[kLanes];
  hn::StoreU(a, d, x);
  hn::StoreU(b, d, y);
  hn::StoreU(c, d, z);
  for (size_t i = 0; i < kLanes; ++i) x[i] = std::fma(x[i], y[i], z[i]);
  return hn::LoadU(d, x);
#endif
}

/// The lanes of elements i, i + 1, ... of a mask of bits; i is a multiple of the lanes.
template <class D>
HWY_INLINE hn::Mask<D> load_mask(D d, const uint8_t* mask, int64_t i) {
  uint8_t bits[8] = {};
  if constexpr (hn::MaxLanes(D()) >= 8) {
    std::memcpy(bits, mask + static_cast<uint64_t>(i) / 8, hn::MaxLanes(D()) / 8);
  } else {
    bits[0] = static_cast<uint8_t>(mask[i / 8] >> (i % 8));
  }
  return hn::LoadMaskBits(d, bits);
}

#if HWY_TARGET == HWY_AVX2
/// Four vectors as bytes, 4 of each vector's lower half after those of the one before, then the upper halves.
template <class Code>
HWY_INLINE __m256i narrowed(const __m256i (&parts)[4]) {
  const __m256i low = _mm256_packs_epi32(parts[0], parts[1]), high = _mm256_packs_epi32(parts[2], parts[3]);
  return std::is_signed_v<Code> ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
}

/// Flags as bytes, of which one instruction takes all bits.
template <class D>
HWY_INLINE __m256i narrowed_masks(D d, const hn::Mask<D> (&masks)[4]) {
  __m256i raw[4];
  for (int64_t k = 0; k < 4; ++k) raw[k] = _mm256_castps_si256(hn::VecFromMask(d, masks[k]).raw);
  return narrowed<int8_t>(raw);
}

/// Such bytes in the vectors' order.
HWY_INLINE __m256i in_order(__m256i bytes) {
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#endif

/// The lanes of kCount masks, the first ones in the lowest of 32 bits.
template <int64_t kCount, class D>
HWY_INLINE uint32_t bits_of(D d, const hn::Mask<D> (&masks)[kCount]) {
  constexpr int64_t kWidth = hn::MaxLanes(D());
  static_assert(kCount * kWidth == 32);
#if HWY_TARGET == HWY_AVX2
  if constexpr (kWidth == 8) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(in_order(narrowed_masks(d, masks))));
  }
#endif
  uint32_t all = 0;
#pragma GCC unroll 32
  for (int64_t k = 0; k < kCount; ++k) {
#if HWY_TARGET <= HWY_AVX3
    (void)d;
    const uint32_t bits = masks[k].raw;
#else
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, masks[k], bytes);
    uint32_t bits;
    std::memcpy(&bits, bytes, sizeof(bits));
#endif
    all |= bits << (k * kWidth);
  }
  return all;
}

/// Elements between what is read and what is fetched for later: at least a page, where the machine's own fetching ends.
constexpr int64_t kAhead = 4096;

/// The k-th part of a vector of floats as doubles; 32-bit vectors have as many lanes as kParts vectors of doubles.
using F64 = hn::ScalableTag<double>;
constexpr int64_t kDoubles = hn::MaxLanes(F64());
constexpr int64_t kParts = HWY_TARGET == HWY_SCALAR ? 1 : 2;
template <class D>
HWY_INLINE hn::Vec<F64> doubles(D, hn::Vec<D> v, int64_t k) {
  static_assert(static_cast<int64_t>(hn::MaxLanes(D())) == kParts * kDoubles);
#if HWY_TARGET == HWY_SCALAR
  (void)k;
  return hn::PromoteTo(F64(), v);
#else
  return hn::PromoteTo(F64(), k == 0 ? hn::LowerHalf(v) : hn::UpperHalf(hn::Half<D>(), v));
#endif
}

/// Rounds to the nearest integer, ties to even. What exceeds int32 becomes its lowest value or, but on x86, its
/// nearest.
template <class V>
HWY_INLINE auto nearest(V v) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (sizeof(v) == 32) return hn::Vec256<int32_t>{_mm256_cvtps_epi32(v.raw)};
#elif HWY_TARGET <= HWY_AVX3
  if constexpr (sizeof(v) == 64) return hn::Vec512<int32_t>{_mm512_cvtps_epi32(v.raw)};
#endif
  return hn::NearestInt(v);
}

/// kCount vectors of 32-bit integers that To holds, one behind another.
template <class To, int64_t kCount, class D>
HWY_INLINE void store_narrow(D, const hn::Vec<D> (&values)[kCount], To* to) {
#if HWY_TARGET == HWY_AVX2
  // Narrowing one vector alone takes as many instructions as two or four.
  constexpr bool kWhole = hn::MaxLanes(D()) == 8;
  if constexpr (kWhole && kCount % 2 == 0 && std::is_same_v<To, int16_t>) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kCount; k += 2) {
      const __m256i pair = _mm256_packs_epi32(values[k].raw, values[k + 1].raw);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8 * k), _mm256_permute4x64_epi64(pair, 0xD8));
    }
    return;
  }
  if constexpr (kWhole && kCount == 4 && sizeof(To) == 1) {
    const __m256i raw[4] = {values[0].raw, values[1].raw, values[2].raw, values[3].raw};
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), in_order(narrowed<To>(raw)));
    return;
  }
#endif
  const hn::Rebind<To, D> narrow;
#pragma GCC unroll 8
  for (int64_t k = 0; k < kCount; ++k) {
    hn::StoreU(hn::DemoteTo(narrow, values[k]), narrow, to + k * static_cast<int64_t>(hn::MaxLanes(D())));
  }
}

// 32 codes as vectors of integers, in the order whose narrowing needs no permutation: part v of them, the way back,
// and the bits of masks in the codes' own order.
template <class D, class Code>
HWY_INLINE hn::Vec<D> step_part(D d, const Code* codes, int64_t v) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (hn::MaxLanes(D()) == 8) {
    // Codes 4v to 4v + 3 and 16 + 4v to 16 + 4v + 3, each in the lowest byte, or in the highest one for its sign.
    constexpr int32_t kNext = std::is_signed_v<Code> ? 1 << 24 : 1;
    constexpr int32_t kFirst = std::is_signed_v<Code> ? 0x00808080 : static_cast<int32_t>(0x80808000);
    const __m256i step = _mm256_set1_epi32(static_cast<int32_t>(4 * v * kNext));
    const __m256i first = _mm256_setr_epi32(kFirst, kFirst + kNext, kFirst + 2 * kNext, kFirst + 3 * kNext, kFirst,
                                            kFirst + kNext, kFirst + 2 * kNext, kFirst + 3 * kNext);
    const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i part = _mm256_shuffle_epi8(all, _mm256_add_epi32(first, step));
    return hn::Vec<D>{std::is_signed_v<Code> ? _mm256_srai_epi32(part, 24) : part};
  }
#endif
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<Code, D>(), codes + v * static_cast<int64_t>(hn::MaxLanes(D()))));
}

template <class Code, int64_t kCount, class D>
HWY_INLINE void store_step(D d, const hn::Vec<D> (&parts)[kCount], Code* codes) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (kCount == 4) {
    const __m256i raw[4] = {parts[0].raw, parts[1].raw, parts[2].raw, parts[3].raw};
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), narrowed<Code>(raw));
    return;
  }
#endif
  store_narrow<Code>(d, parts, codes);
}

template <int64_t kCount, class D>
HWY_INLINE uint32_t step_bits(D d, const hn::Mask<D> (&masks)[kCount]) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (kCount == 4) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(narrowed_masks(d, masks)));
  }
#endif
  return bits_of(d, masks);
}

}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
