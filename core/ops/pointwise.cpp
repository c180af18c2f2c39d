// Compiled once for every vector target (Highway's foreach_target): most kernels are plain loops that the compiler
// vectorizes. std::fma is one instruction on targets that have it and the C library's exact function on the others, so
// that all targets give the same codes.
#include "core/ops/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/pointwise.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
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
#include "core/ops/vector_inl.h"

#ifndef QAT_OPS_POINTWISE_CONSTANTS  // not once per target
#define QAT_OPS_POINTWISE_CONSTANTS
namespace qat::ops {

/// value = fma(q_a, ra, fma(q_b, rb, f)).
struct AddConstants {
  float ra, rb, f, lo, hi;
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
using Half = hn::Rebind<float, F64>;
constexpr int64_t kLanes = hn::MaxLanes(F32());

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

/// kStep codes; returns their mask bits. y may be a or b.
template <class Code>
HWY_INLINE uint32_t add_step(const Code* a, const Code* b, const AddConstants& k, float least, Code* y) {
  const F32 d;
  const auto lo = hn::Set(d, k.lo), hi = hn::Set(d, k.hi), from = hn::Set(d, least);
  uint32_t inside = 0;
  hn::Vec<I32> codes[kStep / kLanes];
#pragma GCC unroll 8
  for (int64_t i = 0; i < kStep; i += kLanes) {
    const auto v = sum_of(d, a + i, b + i, k);
    inside |= bits_of(d, hn::And(hn::Ge(v, from), hn::Le(v, hi))) << i;
    codes[i / kLanes] = nearest(hn::Min(hn::Max(v, lo), hi));
  }
  store_narrow<Code>(I32(), codes, y);
  return inside;
}

/// n starts at a whole byte of the mask, which may be null.
template <class Code>
HWY_INLINE void add_piece(const Code* a, const Code* b, int64_t n, const AddConstants& k, float above, Code* y,
                          uint8_t* inside) {
  const float least = least_inside(k.lo, above);
  for (int64_t i = 0; i < n; i += kStep) {
    const int64_t count = std::min(kStep, n - i);
    uint32_t bits;
    if (count == kStep) {
      bits = add_step(a + i, b + i, k, least, y + i);
    } else {
      Code last_a[kStep] = {}, last_b[kStep] = {}, last_y[kStep];
      std::memcpy(last_a, a + i, static_cast<size_t>(count));
      std::memcpy(last_b, b + i, static_cast<size_t>(count));
      bits = add_step(last_a, last_b, k, least, last_y) & ((1u << count) - 1);
      std::memcpy(y + i, last_y, static_cast<size_t>(count));
    }
    if (inside == nullptr) continue;
    for (int64_t bit = 0; bit < count; bit += 8) inside[(i + bit) / 8] = static_cast<uint8_t>(bits >> bit);
  }
}

/// Smallest and largest scale_a * (a - zero_a) + scale_b * (b - zero_b).
template <class Code>
HWY_INLINE void range_piece(const Code* a, const Code* b, int64_t n, const BinaryParams& p, float* lowest,
                            float* highest) {
  const auto run = [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    using D = decltype(d);
    auto lo = hn::Set(d, *lowest), hi = hn::Set(d, *highest);
    const auto zero_a = hn::Set(d, static_cast<float>(p.zero_a)), zero_b = hn::Set(d, static_cast<float>(p.zero_b));
    const auto scale_a = hn::Set(d, p.scale_a), scale_b = hn::Set(d, p.scale_b);
    for (int64_t i = begin; i < end; i += hn::MaxLanes(D())) {
      const auto v = hn::Add(hn::Mul(scale_a, hn::Sub(floats(d, a + i), zero_a)),
                             hn::Mul(scale_b, hn::Sub(floats(d, b + i), zero_b)));
      lo = hn::Min(lo, v);
      hi = hn::Max(hi, v);
    }
    *lowest = hn::GetLane(hn::MinOfLanes(d, lo));
    *highest = hn::GetLane(hn::MaxOfLanes(d, hi));
  };
  const int64_t whole = n / kLanes * kLanes;
  run(F32(), 0, whole);
  run(hn::CappedTag<float, 1>(), whole, n);
}

/// Sum of g * (y - (inside ? value : z)) in 16 lanes, which are added in their order; dx may be null.
double add_gradient(const float* g, const uint8_t* a, const uint8_t* b, const uint8_t* y, const uint8_t* inside,
                    int64_t n, const AddConstants& k, float zero_y, float* dx) {
  constexpr int64_t kSums = 16;
  const Half d;
  const F64 dd;
  double lanes[kSums] = {};
  hn::Vec<F64> sums[kSums / kDoubles];
#pragma GCC unroll 16
  for (auto& sum : sums) sum = hn::Zero(dd);
  const int64_t whole = n / kSums * kSums;
  for (int64_t i = 0; i < whole; i += kSums) {
#pragma GCC unroll 16
    for (int64_t v = 0; v < kSums / kDoubles; ++v) {
      const int64_t at = i + v * kDoubles;
      const auto gradient = hn::LoadU(d, g + at);
      auto t = sum_of(d, a + at, b + at, k), slope = gradient;
      if (inside != nullptr) {
        const auto mask = load_mask(d, inside, at);
        t = hn::IfThenElse(mask, t, hn::Set(d, zero_y));
        slope = hn::IfThenElseZero(mask, gradient);
      }
      if (dx != nullptr) hn::StoreU(slope, d, dx + at);
      const auto difference = hn::PromoteTo(dd, hn::Sub(floats(d, y + at), t));
      // The product of two floats is exact in double: fused or not, the sum is the same.
      sums[v] = hn::MulAdd(hn::PromoteTo(dd, gradient), difference, sums[v]);
    }
  }
#pragma GCC unroll 16
  for (int64_t v = 0; v < kSums / kDoubles; ++v) hn::StoreU(sums[v], dd, lanes + v * kDoubles);
  for (int64_t i = whole; i < n; ++i) {
    const float v = std::fma(static_cast<float>(a[i]), k.ra, std::fma(static_cast<float>(b[i]), k.rb, k.f));
    const bool in = mask_bit(inside, i);
    const float t = in ? v : zero_y;
    if (dx != nullptr) dx[i] = in ? g[i] : 0.0f;
    lanes[i - whole] += static_cast<double>(g[i]) * static_cast<double>(static_cast<float>(y[i]) - t);
  }
  double sum = 0;
  for (int64_t l = 0; l < kSums; ++l) sum += lanes[l];
  return sum;
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
  void range_##suffix(const Code* a, const Code* b, int64_t n, const BinaryParams& p, float* lo, float* hi) {       \
    range_piece(a, b, n, p, lo, hi);                                                                                \
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
QAT_EXPORT(range)
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
          .hi = static_cast<float>(p.range.hi)};
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
std::pair<float, float> add_range(const Code* a, const Code* b, int64_t n, const BinaryParams& p) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<std::pair<float, float>> ranges((n + kPiece - 1) / kPiece, {kInfinity, -kInfinity});
  for_pieces(n, [&](int64_t piece, int64_t begin, int64_t count) {
    QAT_KERNEL(range)(a + begin, b + begin, count, p, &ranges[piece].first, &ranges[piece].second);
  });
  std::pair<float, float> all{kInfinity, -kInfinity};
  for (const auto& [lo, hi] : ranges) all = {std::min(all.first, lo), std::max(all.second, hi)};
  return all;
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
  template std::pair<float, float> add_range<Code>(const Code*, const Code*, int64_t, const BinaryParams&);           \
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
