// Compiled once for every vector target (Highway's foreach_target); mul and relu are plain loops that the compiler
// vectorizes. std::fma is one instruction on targets that have it and the C library's exact function on the others, so
// that all targets give the same codes.
#include "core/ops/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/pointwise.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/ops/mask.h"
#include "core/ops/periods.h"
#include "core/ops/pieces.h"
#include "core/ops/round.h"
#include "core/ops/sums_inl.h"
#include "core/ops/vector_inl.h"

#ifndef QAT_OPS_POINTWISE_CONSTANTS  // not once per target
#define QAT_OPS_POINTWISE_CONSTANTS
namespace qat::ops {

/// value = fma(q_a, ra, fma(q_b, rb, f)).
struct AddConstants {
  float ra, rb, f, lo, hi;
  bool small;  // all values lie within 2^30
};

/// The least float inside: at least lo and more than `above`.
inline float least_inside(float lo, float above) {
  return std::max(lo, std::nextafter(above, std::numeric_limits<float>::infinity()));
}

struct MulConstants {
  int32_t zero_a, zero_b;
  float m, zero_y, lo, hi;
};

}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {

using F32 = hn::CappedTag<float, kStep>;
using I32 = hn::Rebind<int32_t, F32>;
constexpr int64_t kLanes = hn::MaxLanes(F32()), kVectors = kStep / kLanes;

template <class D, class Code>
HWY_INLINE hn::Vec<D> floats(D d, const Code* codes) {
  const hn::Rebind<int32_t, D> di;
  return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(hn::Rebind<Code, D>(), codes)));
}

template <class D, class Code>
HWY_INLINE hn::Vec<D> sum_of(D d, const Code* a, const Code* b, const AddConstants& k) {
  const auto inner = fused(d, floats(d, b), hn::Set(d, k.rb), hn::Set(d, k.f));
  return fused(d, floats(d, a), hn::Set(d, k.ra), inner);
}

#if HWY_TARGET == HWY_AVX2
/// add_step() where no value leaves the range of int32 and codes have no sign: their narrowing clips, and the bits of
/// floats that are not negative have the floats' order.
HWY_INLINE uint32_t add_unsigned_step(const uint8_t* a, const uint8_t* b, const AddConstants& k, float least,
                                      uint8_t* y) {
  const F32 d;
  const auto ra = hn::Set(d, k.ra), rb = hn::Set(d, k.rb), f = hn::Set(d, k.f);
  const auto bits = [](float v) { return std::bit_cast<uint32_t>(v); };
  // least <= value <= hi as one comparison of int32: both ends moved to its lowest value.
  const __m256i shift = _mm256_set1_epi32(static_cast<int32_t>(0x80000000u - bits(least)));
  const __m256i end = _mm256_set1_epi32(static_cast<int32_t>(0x80000001u + (bits(k.hi) - bits(least))));
  __m256i codes[4], inside[4];
#pragma GCC unroll 4
  for (int64_t v = 0; v < 4; ++v) {
    const auto inner = fused(d, hn::ConvertTo(d, step_part(I32(), b, v)), rb, f);
    const auto value = fused(d, hn::ConvertTo(d, step_part(I32(), a, v)), ra, inner);
    codes[v] = _mm256_cvtps_epi32(value.raw);
    inside[v] = _mm256_cmpgt_epi32(end, _mm256_add_epi32(_mm256_castps_si256(value.raw), shift));
  }
  const __m256i lo = _mm256_set1_epi8(static_cast<char>(k.lo)), hi = _mm256_set1_epi8(static_cast<char>(k.hi));
  const __m256i clipped = _mm256_min_epu8(_mm256_max_epu8(narrowed<uint8_t>(codes), lo), hi);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), clipped);
  return static_cast<uint32_t>(_mm256_movemask_epi8(narrowed<int8_t>(inside)));
}
#endif

/// kStep codes; returns their mask bits. y may be a or b.
template <class Code>
HWY_INLINE uint32_t add_step(const Code* a, const Code* b, const AddConstants& k, float least, Code* y) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (std::is_same_v<Code, uint8_t>) {
    if (k.small) return add_unsigned_step(a, b, k, least, y);
  }
#endif
  const F32 d;
  const auto hi = hn::Set(d, k.hi), from = hn::Set(d, least);
  const auto ra = hn::Set(d, k.ra), rb = hn::Set(d, k.rb), f = hn::Set(d, k.f);
  hn::Vec<I32> codes[kVectors];
  hn::Mask<F32> inside[kVectors];
#pragma GCC unroll 8
  for (int64_t v = 0; v < kVectors; ++v) {
    const auto inner = fused(d, hn::ConvertTo(d, step_part(I32(), b, v)), rb, f);
    const auto value = fused(d, hn::ConvertTo(d, step_part(I32(), a, v)), ra, inner);
    const auto clipped = hn::Min(hn::Max(value, from), hi);  // `least` rounds to `lo`
    inside[v] = hn::Eq(value, clipped);
    codes[v] = nearest(clipped);
  }
  store_step(I32(), codes, y);
  return step_bits(d, inside);
}

/// n starts at a whole byte of the mask, which may be null.
template <class Code>
HWY_INLINE void add_piece(const Code* a, const Code* b, int64_t n, const AddConstants k, float above, Code* y,
                          uint8_t* inside) {
  const float least = least_inside(k.lo, above);
  const uint32_t any = least > k.hi ? 0 : ~0u;  // of a ReLU's only code
  const int64_t whole = n / kStep * kStep, rest = n - whole;
  for (int64_t i = 0; i < whole; i += kStep) {
    if (i % 64 == 0) hwy::Prefetch(a + i + kAhead), hwy::Prefetch(b + i + kAhead), hwy::Prefetch(y + i + kAhead);
    const uint32_t bits = add_step(a + i, b + i, k, least, y + i) & any;
    if (inside != nullptr) std::memcpy(inside + i / 8, &bits, sizeof(bits));
  }
  if (rest == 0) return;
  Code last_a[kStep] = {}, last_b[kStep] = {}, last_y[kStep];
  std::memcpy(last_a, a + whole, static_cast<size_t>(rest));
  std::memcpy(last_b, b + whole, static_cast<size_t>(rest));
  const uint32_t bits = add_step(last_a, last_b, k, least, last_y) & any & ((1u << rest) - 1);
  std::memcpy(y + whole, last_y, static_cast<size_t>(rest));
  if (inside == nullptr) return;
  for (int64_t bit = 0; bit < rest; bit += 8) inside[(whole + bit) / 8] = static_cast<uint8_t>(bits >> bit);
}

/// Sum of g * (y - (inside ? value : z)); dx may be null.
double add_gradient(const float* g, const uint8_t* a, const uint8_t* b, const uint8_t* y, const uint8_t* inside,
                    int64_t n, const AddConstants& k, float zero_y, float* dx) {
  return sum_of_products(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto gradient = hn::LoadU(d, g + i);
    auto t = sum_of(d, a + i, b + i, k), slope = gradient;
    if (inside != nullptr) {
      const auto mask = load_mask(d, inside, i);
      t = hn::IfThenElse(mask, t, hn::Set(d, zero_y));
      slope = hn::IfThenElseZero(mask, gradient);
    }
    if (dx != nullptr) hn::StoreU(slope, d, dx + i);
    return std::pair(gradient, hn::Sub(floats(d, y + i), t));
  });
}

template <class Code>
void mul_piece(const Code* a, const Code* b, int64_t n, const MulConstants k, Code* y) {
  for (int64_t i = 0; i < n; ++i) {
    const auto product = static_cast<float>((a[i] - k.zero_a) * (b[i] - k.zero_b));
    const float scaled = product * k.m;
    y[i] = static_cast<Code>(static_cast<int32_t>(round_even(clip(scaled + k.zero_y, k.lo, k.hi))));
  }
}

template <class Code>
void relu_piece(const Code* x, int64_t n, Code zero_point, Code* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] > zero_point ? x[i] : zero_point;
}

#define QAT_KERNELS(suffix, Code)                                                                                   \
  void add_##suffix(const Code* a, const Code* b, int64_t n, const AddConstants& k, float above, Code* y,           \
                    uint8_t* inside) {                                                                              \
    add_piece(a, b, n, k, above, y, inside);                                                                        \
  }                                                                                                                 \
  void mul_##suffix(const Code* a, const Code* b, int64_t n, MulConstants k, Code* y) { mul_piece(a, b, n, k, y); } \
  void relu_##suffix(const Code* x, int64_t n, Code zero_point, Code* y) { relu_piece(x, n, zero_point, y); }
QAT_KERNELS(u8, uint8_t)
QAT_KERNELS(i8, int8_t)
#undef QAT_KERNELS

}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {
namespace {

#define QAT_EXPORT(name) \
  HWY_EXPORT(name##_u8); \
  HWY_EXPORT(name##_i8);
QAT_EXPORT(add)
QAT_EXPORT(mul)
QAT_EXPORT(relu)
#undef QAT_EXPORT
HWY_EXPORT(add_gradient);

template <class Code, class KernelU8, class KernelI8>
constexpr auto select(KernelU8 u8, KernelI8 i8) {
  if constexpr (std::is_same_v<Code, uint8_t>) {
    return u8;
  } else {
    return i8;
  }
}

// The kernel for Code on this machine.
#define QAT_KERNEL(name) select<Code>(HWY_DYNAMIC_DISPATCH(name##_u8), HWY_DYNAMIC_DISPATCH(name##_i8))

AddConstants add_constants(const BinaryParams& p) {
  const float ra = p.scale_a / p.scale_y, rb = p.scale_b / p.scale_y;
  const float fixed_b = rb * static_cast<float>(p.zero_b);
  const float fixed = std::fma(ra, static_cast<float>(p.zero_a), fixed_b);
  return {.ra = ra,
          .rb = rb,
          .f = static_cast<float>(p.range.zero_point) - fixed,
          .lo = static_cast<float>(p.range.lo),
          .hi = static_cast<float>(p.range.hi),
          .small =
              255 * (std::abs(ra) + std::abs(rb)) + std::abs(static_cast<float>(p.range.zero_point) - fixed) < 0x1p30f};
}

MulConstants mul_constants(const BinaryParams& p) {
  const float product = p.scale_a * p.scale_b;
  return {.zero_a = p.zero_a,
          .zero_b = p.zero_b,
          .m = product / p.scale_y,
          .zero_y = static_cast<float>(p.range.zero_point),
          .lo = static_cast<float>(p.range.lo),
          .hi = static_cast<float>(p.range.hi)};
}

}  // namespace

template <class Code>
void add(const Code* a, const Code* b, int64_t n, const BinaryParams& p, Code* y, uint8_t* inside, bool relu) {
  const AddConstants k = add_constants(p);
  const float above = relu ? k.lo : -std::numeric_limits<float>::infinity();
  for_pieces(n, [&](int64_t, int64_t begin, int64_t count) {
    QAT_KERNEL(add)(a + begin, b + begin, count, k, above, y + begin, inside == nullptr ? nullptr : inside + begin / 8);
  });
}

template <class Code>
void add_broadcast(const Code* a, bool broadcast_a, const Code* b, int64_t batch, int64_t pixels, int64_t channels,
                   const BinaryParams& p, Code* y) {
  BinaryParams order = p;
  if (broadcast_a) {
    std::swap(a, b);
    std::swap(order.scale_a, order.scale_b);
    std::swap(order.zero_a, order.zero_b);
  }
  const AddConstants k = add_constants(order);
#pragma omp parallel for schedule(static) if (batch * pixels * channels >= 16 * kPiece)
  for (int64_t row = 0; row < batch * pixels; ++row) {
    QAT_KERNEL(add)
    (a + row * channels, b + row / pixels * channels, channels, k, -std::numeric_limits<float>::infinity(),
     y + row * channels, nullptr);
  }
}

template <class Code>
void mul(const Code* a, const Code* b, int64_t n, const BinaryParams& p, Code* y) {
  const MulConstants k = mul_constants(p);
  for_pieces(n, [&](int64_t, int64_t begin, int64_t count) {
    QAT_KERNEL(mul)(a + begin, b + begin, count, k, y + begin);
  });
}

template <class Code>
void mul_broadcast(const Code* a, const Code* b, int64_t batch, int64_t pixels, int64_t channels, const BinaryParams& p,
                   Code* y) {
  const MulConstants k = mul_constants(p);
#pragma omp parallel for schedule(static) if (batch * pixels * channels >= 16 * kPiece)
  for (int64_t row = 0; row < batch * pixels; ++row) {
    QAT_KERNEL(mul)(a + row * channels, b + row / pixels * channels, channels, k, y + row * channels);
  }
}

template <class Code>
void relu(const Code* x, int64_t n, int32_t zero_point, Code* y, uint8_t* inside) {
  for_pieces(n, [&](int64_t, int64_t begin, int64_t count) {
    uint8_t flags[kPiece];
    if (inside != nullptr) {
      for (int64_t i = 0; i < count; ++i) flags[i] = x[begin + i] > zero_point;
      pack_mask(flags, count, inside + begin / 8);
    }
    QAT_KERNEL(relu)(x + begin, count, static_cast<Code>(zero_point), y + begin);
  });
}

template <class Code>
void lookup(const Code* x, int64_t n, const int16_t* table, Code* y) {
  for_pieces(n, [&](int64_t, int64_t begin, int64_t count) {
    constexpr int32_t kLowest = std::numeric_limits<Code>::lowest();
    for (int64_t i = begin; i < begin + count; ++i) y[i] = static_cast<Code>(table[x[i] - kLowest]);
  });
}

double add_scale_gradient(const float* g, const StoredCodes& a, const StoredCodes& b, const StoredCodes& y,
                          const uint8_t* inside, int64_t n, const BinaryParams& p, float* dx) {
  const AddConstants k = add_constants(p);
  std::vector<double> sums((n + kPiece - 1) / kPiece);
  for_pieces(n, [&](int64_t piece, int64_t begin, int64_t count) {
    uint8_t memory[3][unpacked_bytes(kPiece)];
    sums[piece] = HWY_DYNAMIC_DISPATCH(add_gradient)(
        g + begin, codes_in(a, begin, count, memory[0]), codes_in(b, begin, count, memory[1]),
        codes_in(y, begin, count, memory[2]), inside == nullptr ? nullptr : inside + begin / 8, count, k,
        static_cast<float>(p.range.zero_point), dx == nullptr ? nullptr : dx + begin);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

#define QAT_INSTANTIATE(Code)                                                                                         \
  template void add<Code>(const Code*, const Code*, int64_t, const BinaryParams&, Code*, uint8_t*, bool);             \
  template void add_broadcast<Code>(const Code*, bool, const Code*, int64_t, int64_t, int64_t, const BinaryParams&,   \
                                    Code*);                                                                           \
  template void mul<Code>(const Code*, const Code*, int64_t, const BinaryParams&, Code*);                             \
  template void mul_broadcast<Code>(const Code*, const Code*, int64_t, int64_t, int64_t, const BinaryParams&, Code*); \
  template void relu<Code>(const Code*, int64_t, int32_t, Code*, uint8_t*);                                           \
  template void lookup<Code>(const Code*, int64_t, const int16_t*, Code*);
QAT_INSTANTIATE(uint8_t)
QAT_INSTANTIATE(int8_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
#endif  // HWY_ONCE
