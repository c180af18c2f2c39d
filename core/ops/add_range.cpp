// The range of a sum of codes. Only few of the sums come near its ends: whole numbers, close enough to them, say which
// blocks these are in, and only there the formula itself is computed.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/ops/periods.h"
#include "core/ops/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/add_range.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/vector_inl.h"

#ifndef QAT_CORE_OPS_ADD_RANGE_CPP
#define QAT_CORE_OPS_ADD_RANGE_CPP
namespace qat::ops {
namespace {

/// Whole numbers close to sums: a * of_a + b * of_b, codes counted from the lowest one. Where two of them differ by
/// more than `tolerance`, so do the sums, in the same direction.
struct Approximation {
  int16_t of_a = 1, of_b = 1;
  int32_t tolerance = 0;
};

/// Codes that are skipped or not at once.
constexpr int64_t kBlock = 512;

template <class Code>
inline float sum_of(Code a, Code b, const BinaryParams& p) {
  const float left = p.scale_a * static_cast<float>(a - p.zero_a);
  return left + p.scale_b * static_cast<float>(b - p.zero_b);
}

struct Range {
  float lo = std::numeric_limits<float>::infinity(), hi = -std::numeric_limits<float>::infinity();
};

}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

using F32 = hn::CappedTag<float, kStep>;
using I16 = hn::CappedTag<int16_t, kStep>;

/// Widens `range` by the sums of n codes.
template <class Code, class D>
HWY_INLINE void add_exactly(D d, const Code* a, const Code* b, int64_t n, const BinaryParams& p, Range& range) {
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<Code, D> dc;
  auto lo = hn::Set(d, range.lo), hi = hn::Set(d, range.hi);
  const auto real = [&](const Code* codes, int32_t zero_point, float scale) HWY_ATTR {
    const auto centred = hn::Sub(hn::PromoteTo(di, hn::LoadU(dc, codes)), hn::Set(di, zero_point));
    return hn::Mul(hn::Set(d, scale), hn::ConvertTo(d, centred));
  };
  for (int64_t i = 0; i < n; i += hn::MaxLanes(D())) {
    const auto sum = hn::Add(real(a + i, p.zero_a, p.scale_a), real(b + i, p.zero_b, p.scale_b));
    lo = hn::Min(lo, sum);
    hi = hn::Max(hi, sum);
  }
  range.lo = hn::GetLane(hn::MinOfLanes(d, lo));
  range.hi = hn::GetLane(hn::MaxOfLanes(d, hi));
}

/// All lanes joined by `join`, half by half.
template <class D, class Join>
HWY_INLINE hn::TFromD<D> joined(D, hn::Vec<D> v, const Join& join) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (hn::MaxLanes(D()) > 1) {
    const hn::Half<D> half;
    return joined(half, join(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), join);
  }
#endif
  (void)join;
  return hn::GetLane(v);
}

template <class D>
HWY_INLINE std::pair<hn::TFromD<D>, hn::TFromD<D>> ends_of(D d, hn::Vec<D> least, hn::Vec<D> most) {
  return {joined(d, least, [](auto a, auto b) HWY_ATTR { return hn::Min(a, b); }),
          joined(d, most, [](auto a, auto b) HWY_ATTR { return hn::Max(a, b); })};
}

/// The ends of a block's approximations.
template <class Code>
HWY_INLINE std::pair<int16_t, int16_t> approximate(const Code* a, const Code* b, const Approximation& by) {
  constexpr int64_t kWords = hn::MaxLanes(I16());
  const I16 d;
  const hn::Rebind<Code, I16> dc;
  const auto of_a = hn::Set(d, by.of_a), of_b = hn::Set(d, by.of_b);
  const auto lowest = hn::Set(d, std::numeric_limits<Code>::lowest());
  auto least = hn::Set(d, std::numeric_limits<int16_t>::max()), most = hn::Zero(d);
  for (int64_t i = 0; i < kBlock; i += kStep) {
    hwy::Prefetch(a + i + kAhead);
    hwy::Prefetch(b + i + kAhead);
    for (int64_t k = i; k < i + kStep; k += kWords) {
      const auto left = hn::Sub(hn::PromoteTo(d, hn::LoadU(dc, a + k)), lowest);
      const auto right = hn::Sub(hn::PromoteTo(d, hn::LoadU(dc, b + k)), lowest);
      const auto sum = hn::Add(hn::Mul(left, of_a), hn::Mul(right, of_b));
      least = hn::Min(least, sum);
      most = hn::Max(most, sum);
    }
  }
  return ends_of(d, least, most);
}

/// The ends of a block's codes.
template <class Code>
HWY_INLINE std::pair<Code, Code> ends_of(const Code* codes) {
  const hn::CappedTag<Code, kStep> d;
  auto least = hn::LoadU(d, codes), most = least;
  for (int64_t i = 0; i < kBlock; i += hn::MaxLanes(d)) {
    const auto some = hn::LoadU(d, codes + i);
    least = hn::Min(least, some);
    most = hn::Max(most, some);
  }
  return ends_of(d, least, most);
}

template <class Code>
HWY_INLINE Range range_of(const Code* a, const Code* b, int64_t n, const BinaryParams& p, const Approximation& by) {
  Range range;
  int32_t least = std::numeric_limits<int16_t>::max(), most = std::numeric_limits<int16_t>::lowest();
  const int64_t blocks = n / kBlock;
  for (int64_t i = 0; i < blocks * kBlock; i += kBlock) {
    const auto [low, high] = approximate(a + i, b + i, by);
    if (low <= least + by.tolerance || high >= most - by.tolerance) {
      // Sums grow with either code.
      const auto [a_lo, a_hi] = ends_of(a + i);
      const auto [b_lo, b_hi] = ends_of(b + i);
      if (sum_of(a_lo, b_lo, p) < range.lo || sum_of(a_hi, b_hi, p) > range.hi) {
        add_exactly(F32(), a + i, b + i, kBlock, p, range);
      }
    }
    least = std::min<int32_t>(least, low);
    most = std::max<int32_t>(most, high);
  }
  const int64_t done = blocks * kBlock, vectors = (n - done) / kStep * kStep;
  add_exactly(F32(), a + done, b + done, vectors, p, range);
  add_exactly(hn::CappedTag<float, 1>(), a + done + vectors, b + done + vectors, n - done - vectors, p, range);
  return range;
}

Range range_u8(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& p, const Approximation& by) {
  return range_of(a, b, n, p, by);
}
Range range_i8(const int8_t* a, const int8_t* b, int64_t n, const BinaryParams& p, const Approximation& by) {
  return range_of(a, b, n, p, by);
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(range_u8);
HWY_EXPORT(range_i8);

namespace {

/// The whole factors, up to a sum of 128, that tell sums apart best: with the least tolerance beside the larger one.
Approximation approximation_of(const BinaryParams& p) {
  constexpr double kCodes = 255;
  const bool swap = p.scale_b > p.scale_a;
  const double ratio = swap ? p.scale_a / static_cast<double>(p.scale_b) : p.scale_b / static_cast<double>(p.scale_a);
  Approximation best{.of_a = 64, .of_b = 64, .tolerance = 65536};
  double least = std::numeric_limits<double>::infinity();
  for (int64_t larger = 127; larger > 0; --larger) {
    const int64_t smaller = std::max<int64_t>(1, std::llround(static_cast<double>(larger) * ratio));
    if (larger + smaller > 128) continue;
    const double off = std::abs(static_cast<double>(larger) * ratio - static_cast<double>(smaller));
    // One more covers the formula's own rounding: 2^-22 of the largest sum.
    const double tolerance = std::ceil(off * kCodes) + 1, of_larger = tolerance / static_cast<double>(larger);
    if (!(of_larger < least)) continue;
    least = of_larger;
    best = {.of_a = static_cast<int16_t>(swap ? smaller : larger),
            .of_b = static_cast<int16_t>(swap ? larger : smaller),
            .tolerance = static_cast<int32_t>(tolerance)};
  }
  return best;
}

}  // namespace

template <class Code>
std::pair<float, float> add_range(const Code* a, const Code* b, int64_t n, const BinaryParams& p) {
  constexpr int64_t kChunk = 128 * kBlock;
  const Approximation by = approximation_of(p);
  std::vector<Range> ranges(static_cast<size_t>((n + kChunk - 1) / kChunk));
  for_chunks(n, kChunk, [&](int64_t index, int64_t begin, int64_t end) {
    Range& range = ranges[static_cast<size_t>(index)];
    if constexpr (std::is_same_v<Code, uint8_t>) {
      range = HWY_DYNAMIC_DISPATCH(range_u8)(a + begin, b + begin, end - begin, p, by);
    } else {
      range = HWY_DYNAMIC_DISPATCH(range_i8)(a + begin, b + begin, end - begin, p, by);
    }
  });
  Range all;
  for (const Range& range : ranges) all = {std::min(all.lo, range.lo), std::max(all.hi, range.hi)};
  return {all.lo, all.hi};
}

template std::pair<float, float> add_range<uint8_t>(const uint8_t*, const uint8_t*, int64_t, const BinaryParams&);
template std::pair<float, float> add_range<int8_t>(const int8_t*, const int8_t*, int64_t, const BinaryParams&);

}  // namespace qat::ops
#endif
