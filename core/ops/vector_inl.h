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
    std::memcpy(bits, mask + i / 8, hn::MaxLanes(D()) / 8);
  } else {
    bits[0] = static_cast<uint8_t>(mask[i / 8] >> (i % 8));
  }
  return hn::LoadMaskBits(d, bits);
}

/// The lanes of a mask in the low bits.
template <class D>
HWY_INLINE uint32_t bits_of(D d, hn::Mask<D> mask) {
  uint8_t bytes[8] = {};
  hn::StoreMaskBits(d, mask, bytes);
  uint32_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return bits;
}

}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
