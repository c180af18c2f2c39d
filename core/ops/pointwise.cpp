// Compiled once for every vector target (Highway's foreach_target): the kernels are plain loops that the compiler
// vectorizes. std::fma is one instruction on targets that have it and the C library's exact function on the others, so
// that all targets give the same codes.
#include "core/ops/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/pointwise.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/ops/mask.h"
#include "core/ops/pieces.h"
#include "core/ops/round.h"

#ifndef QAT_OPS_POINTWISE_CONSTANTS  // not once per target
#define QAT_OPS_POINTWISE_CONSTANTS
namespace qat::ops {

/// value = fma(q_a, ra, fma(q_b, rb, f)).
struct AddConstants {
  float ra, rb, f, lo, hi;
};

struct MulConstants {
  int32_t zero_a, zero_b;
  float m, zero_y, lo, hi;
};

}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {

template <class Code>
void add_piece(const Code* a, const Code* b, int64_t n, const AddConstants k, Code* y) {
  for (int64_t i = 0; i < n; ++i) {
    const float v = std::fma(static_cast<float>(a[i]), k.ra, std::fma(static_cast<float>(b[i]), k.rb, k.f));
    y[i] = static_cast<Code>(static_cast<int32_t>(round_even(clip(v, k.lo, k.hi))));
  }
}

template <class Code>
void add_flags_piece(const Code* __restrict a, const Code* __restrict b, int64_t n, const AddConstants k, float above,
                     uint8_t* __restrict flags) {
  for (int64_t i = 0; i < n; ++i) {
    const float v = std::fma(static_cast<float>(a[i]), k.ra, std::fma(static_cast<float>(b[i]), k.rb, k.f));
    flags[i] = static_cast<uint8_t>((v >= k.lo) & (v <= k.hi) & (v > above));
  }
}

/// Sum of g * (y - (inside ? value : z)) in 16 lanes.
template <class Code>
double add_gradient_piece(const float* __restrict g, const Code* __restrict a, const Code* __restrict b,
                          const Code* __restrict y, const uint8_t* __restrict inside, int64_t n, const AddConstants k,
                          float zero_y) {
  constexpr int64_t kLanes = 16;
  double lanes[kLanes] = {};
  for (int64_t begin = 0; begin < n; begin += kLanes) {
    const int64_t count = n - begin < kLanes ? n - begin : kLanes;
    for (int64_t l = 0; l < count; ++l) {
      const int64_t i = begin + l;
      const float v = std::fma(static_cast<float>(a[i]), k.ra, std::fma(static_cast<float>(b[i]), k.rb, k.f));
      const float t = mask_bit(inside, i) ? v : zero_y;
      lanes[l] += static_cast<double>(g[i]) * static_cast<double>(static_cast<float>(y[i]) - t);
    }
  }
  double sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += lanes[l];
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
  void add_##suffix(const Code* a, const Code* b, int64_t n, AddConstants k, Code* y) { add_piece(a, b, n, k, y); } \
  void add_flags_##suffix(const Code* a, const Code* b, int64_t n, AddConstants k, float above, uint8_t* flags) {   \
    add_flags_piece(a, b, n, k, above, flags);                                                                      \
  }                                                                                                                 \
  double add_gradient_##suffix(const float* g, const Code* a, const Code* b, const Code* y, const uint8_t* inside,  \
                               int64_t n, AddConstants k, float zero_y) {                                           \
    return add_gradient_piece(g, a, b, y, inside, n, k, zero_y);                                                    \
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
QAT_EXPORT(add_flags)
QAT_EXPORT(add_gradient)
QAT_EXPORT(mul)
QAT_EXPORT(relu)
#undef QAT_EXPORT

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
    // The mask first: y may be a or b.
    uint8_t flags[kPiece];
    if (inside != nullptr) {
      QAT_KERNEL(add_flags)(a + begin, b + begin, count, k, above, flags);
      pack_mask(flags, count, inside + begin / 8);
    }
    QAT_KERNEL(add)(a + begin, b + begin, count, k, y + begin);
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
    QAT_KERNEL(add)(a + row * channels, b + row / pixels * channels, channels, k, y + row * channels);
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

template <class Code>
double add_scale_gradient(const float* g, const Code* a, const Code* b, const Code* y, const uint8_t* inside, int64_t n,
                          const BinaryParams& p) {
  const AddConstants k = add_constants(p);
  std::vector<double> sums((n + kPiece - 1) / kPiece);
  for_pieces(n, [&](int64_t piece, int64_t begin, int64_t count) {
    const uint8_t* mask = inside == nullptr ? nullptr : inside + begin / 8;
    sums[piece] = QAT_KERNEL(add_gradient)(g + begin, a + begin, b + begin, y + begin, mask, count, k,
                                           static_cast<float>(p.range.zero_point));
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
  template void lookup<Code>(const Code*, int64_t, const int16_t*, Code*);                                            \
  template double add_scale_gradient<Code>(const float*, const Code*, const Code*, const Code*, const uint8_t*,       \
                                           int64_t, const BinaryParams&);
QAT_INSTANTIATE(uint8_t)
QAT_INSTANTIATE(int8_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
#endif  // HWY_ONCE
