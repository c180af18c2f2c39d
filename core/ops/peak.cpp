#include "core/ops/peak.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/peak.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::CappedTag<float, 16>;
using I32 = hn::CappedTag<int32_t, 16>;
constexpr int64_t kChains = 10;

/// Tells the compiler that a value may have changed.
template <class V>
HWY_INLINE void hide(V& value) {
  asm volatile("" : "+m"(value));
}

/// Values of which the compiler does not know that they are equal: it would make one chain of all.
template <class D>
HWY_INLINE void start(D d, hn::Vec<D> (&sum)[kChains]) {
#pragma GCC unroll 10
  for (auto& s : sum) {
    auto zero = hn::Zero(d);
    hide(zero);
    s = zero;
  }
}

int64_t floats(int64_t products) {
  const F32 d;
  auto a = hn::Set(d, 1.0f), b = hn::Set(d, 1e-9f);
  hide(a);
  hide(b);
  hn::Vec<F32> sum[kChains];
  start(d, sum);
  const int64_t rounds = products / (kChains * hn::MaxLanes(d)) + 1;
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
    for (auto& s : sum) s = hn::MulAdd(s, a, b);
  }
  auto total = hn::Zero(d);
#pragma GCC unroll 10
  for (const auto& s : sum) total = hn::Add(total, s);
  hide(total);
  return rounds * kChains * hn::MaxLanes(d);
}

int64_t pairs(int64_t products) {
#if HWY_TARGET == HWY_SCALAR
  return floats(products);
#else
  const I32 d;
  const hn::Repartition<int16_t, I32> d16;
  auto a = hn::Set(d16, int16_t{1});
  hide(a);
  const int64_t rounds = products / (2 * kChains * hn::MaxLanes(d)) + 1;
  auto total = hn::Zero(d);
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
  // Assembly, which no compiler moves out of the loop; arrays of Highway's classes would stay in memory.
  using Words = decltype(total.raw);
  Words sum[kChains], factor = total.raw;
  std::memcpy(&factor, &a.raw, sizeof(factor));
#pragma GCC unroll 10
  for (auto& s : sum) s = total.raw;
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
    for (auto& s : sum) {
      Words product;
      asm volatile("vpmaddwd %1, %1, %0" : "=v"(product) : "v"(factor));
      s = hn::Add(hn::Vec<I32>{s}, hn::Vec<I32>{product}).raw;
    }
  }
#pragma GCC unroll 10
  for (const auto& s : sum) total = hn::Add(total, hn::Vec<I32>{s});
#else
  hn::Vec<I32> sum[kChains], odd = hn::Zero(d);
  start(d, sum);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
    for (auto& s : sum) s = hn::ReorderWidenMulAccumulate(d, a, hn::BitCast(d16, s), s, odd);
  }
  total = odd;
#pragma GCC unroll 10
  for (const auto& s : sum) total = hn::Add(total, s);
#endif
  hide(total);
  return rounds * 2 * kChains * hn::MaxLanes(d);
#endif
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(floats);
HWY_EXPORT(pairs);

int64_t multiply_in_registers(Product kind, int64_t products) {
  return kind == Product::kFloat ? HWY_DYNAMIC_DISPATCH(floats)(products) : HWY_DYNAMIC_DISPATCH(pairs)(products);
}

}  // namespace qat::ops
#endif  // HWY_ONCE
