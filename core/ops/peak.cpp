#include "core/ops/peak.h"

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

int64_t floats(int64_t products) {
  const F32 d;
  auto a = hn::Set(d, 1.0f), b = hn::Set(d, 1e-9f);
  hide(a);
  hide(b);
  hn::Vec<F32> sum[kChains];
#pragma GCC unroll 10
  for (auto& s : sum) s = hn::Zero(d);
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
  hn::Vec<I32> sum[kChains], odd = hn::Zero(d);
#pragma GCC unroll 10
  for (auto& s : sum) s = hn::Zero(d);
  const int64_t rounds = products / (2 * kChains * hn::MaxLanes(d)) + 1;
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
    for (auto& s : sum) s = hn::ReorderWidenMulAccumulate(d, a, hn::BitCast(d16, s), s, odd);
  }
  auto total = odd;
#pragma GCC unroll 10
  for (const auto& s : sum) total = hn::Add(total, s);
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
