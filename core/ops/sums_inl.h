// Sums that are the same on every machine; compiled once per vector target, like vector_inl.h.
#if defined(QAT_CORE_OPS_SUMS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef QAT_CORE_OPS_SUMS_INL_H
#undef QAT_CORE_OPS_SUMS_INL_H
#else
#define QAT_CORE_OPS_SUMS_INL_H
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "core/ops/periods.h"
#include "core/ops/vector_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {

/// Adds a vector of floats to as many doubles.
template <class D>
HWY_INLINE void add_to(D d, hn::Vec<D> v, double* to) {
  const F64 dd;
#pragma GCC unroll 2
  for (int64_t k = 0; k < kParts; ++k) {
    double* part = to + k * kDoubles;
    hn::StoreU(hn::Add(hn::LoadU(dd, part), doubles(d, v, k)), dd, part);
  }
}

/// Sum of products of n pairs in kStep lanes, which are added in their order: kGroup steps in float, one after another,
/// and their sum in double. factors(d, i): the two factors of elements i, i + 1, ...
template <class Factors>
HWY_INLINE double sum_of_products(int64_t n, const Factors& factors) {
  using D = hn::CappedTag<float, kStep>;
  constexpr int64_t kWidth = hn::MaxLanes(D()), kVectors = kStep / kWidth;
  const D d;
  double lanes[kStep] = {};
  const int64_t whole = n / kStep * kStep;
  for (int64_t first = 0; first < whole; first += kGroup * kStep) {
    const int64_t end = std::min(whole, first + kGroup * kStep);
    hn::Vec<D> sums[kVectors];
#pragma GCC unroll 32
    for (auto& sum : sums) sum = hn::Zero(d);
    for (int64_t i = first; i < end; i += kStep) {
#pragma GCC unroll 8
      for (int64_t v = 0; v < kVectors; ++v) {
        const auto [a, b] = factors(d, i + v * kWidth);
        sums[v] = fused(d, a, b, sums[v]);
      }
    }
    for (int64_t v = 0; v < kVectors; ++v) add_to(d, sums[v], lanes + v * kWidth);
  }
  const hn::CappedTag<float, 1> one;
  for (int64_t i = whole; i < n; ++i) {
    const auto [a, b] = factors(one, i);
    lanes[i - whole] += hn::GetLane(hn::Mul(a, b));
  }
  return std::accumulate(lanes, lanes + kStep, 0.0);
}

}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
