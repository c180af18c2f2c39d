#include <omp.h>

#include <algorithm>

#include "core/ops/convolve.h"
#include "core/ops/exact_sums.h"
#include "core/ops/periods.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/statistics.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/vector_inl.h"

#ifndef QAT_CORE_OPS_STATISTICS_CPP
#define QAT_CORE_OPS_STATISTICS_CPP
namespace qat::ops {
namespace {

/// Rows whose squares fit in 63 bits together, while no value is larger than kLargest.
constexpr int64_t kBlock = 1024;
constexpr int32_t kLargest = 1 << 26;

}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR
void add_periods(const int32_t* acc, int64_t periods, int64_t period, IntegerSums* totals) {
  for (int64_t r = 0; r < periods; ++r) {
    for (int64_t j = 0; j < period; ++j) totals[j].add(acc[r * period + j]);
  }
}
#else
using I32 = hn::CappedTag<int32_t, kStep>;
using I64 = hn::RepartitionToWide<I32>;
constexpr int64_t kLanes = hn::MaxLanes(I32()), kHalf = kLanes / 2;

/// Of each place of a period; the bounds are right whatever the values. Sums of the even places of a vector lie before
/// those of its odd ones.
struct Block {
  explicit Block(int64_t period)
      : sum(static_cast<size_t>(period)), squares(sum.size()), min(sum.size()), max(sum.size()) {}
  void clear() {
    std::fill(sum.begin(), sum.end(), 0);
    std::fill(squares.begin(), squares.end(), 0);
    std::fill(min.begin(), min.end(), INT32_MAX);
    std::fill(max.begin(), max.end(), INT32_MIN);
  }
  bool fits() const {
    int32_t lowest = 0, highest = 0;
    for (const int32_t v : min) lowest = std::min(lowest, v);
    for (const int32_t v : max) highest = std::max(highest, v);
    return lowest >= -kLargest && highest <= kLargest;
  }
  void give(IntegerSums* totals) const {
    for (size_t j = 0; j < sum.size(); j += kLanes) {
#pragma GCC unroll 16
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const size_t k = j + lane % 2 * kHalf + lane / 2;
        const auto square = static_cast<uint64_t>(squares[k]);
        totals[j + lane].join({sum[k], square & 0xffffffff, square >> 32, min[j + lane], max[j + lane]});
      }
    }
  }
  ScratchVector<int64_t> sum, squares;
  ScratchVector<int32_t> min, max;
};

/// The odd lanes in the even ones' places.
HWY_INLINE hn::Vec<I32> odd_lanes(hn::Vec<I32> v) {
  return hn::BitCast(I32(), hn::ShiftRight<32>(hn::BitCast(hn::RepartitionToWide<hn::RebindToUnsigned<I32> >(), v)));
}

HWY_INLINE void add_to(int64_t* sums, hn::Vec<I64> even, hn::Vec<I64> odd) {
  const I64 d;
  hn::StoreU(hn::Add(hn::LoadU(d, sums), even), d, sums);
  hn::StoreU(hn::Add(hn::LoadU(d, sums + kHalf), odd), d, sums + kHalf);
}

void add_block(const int32_t* acc, int64_t periods, int64_t period, Block& block) {
  const I32 d;
  constexpr int64_t kColumns = 2;
  static_assert(kStep % (kColumns * kLanes) == 0);
  constexpr int64_t kRows = 8;  // at once: few enough for the machine to see them as streams, and sums of 32 bits
  for (int64_t first = 0; first < periods; first += kRows) {
    const int64_t rows = std::min(kRows, periods - first);
    for (int64_t j = 0; j < period; j += kColumns * kLanes) {
      hn::Vec<I32> sum[kColumns], min[kColumns], max[kColumns];
      hn::Vec<I64> even[kColumns], odd[kColumns];  // squares
#pragma GCC unroll 2
      for (int64_t v = 0; v < kColumns; ++v) {
        sum[v] = hn::Zero(d);
        even[v] = odd[v] = hn::Zero(I64());
        min[v] = hn::LoadU(d, block.min.data() + j + v * kLanes);
        max[v] = hn::LoadU(d, block.max.data() + j + v * kLanes);
      }
      const int32_t* at = acc + first * period + j;
      for (int64_t r = 0; r < rows; ++r, at += period) {
        hwy::Prefetch(at + kAhead);
#pragma GCC unroll 2
        for (int64_t v = 0; v < kColumns; ++v) {
          const auto value = hn::LoadU(d, at + v * kLanes), other = odd_lanes(value);
          min[v] = hn::Min(min[v], value);
          max[v] = hn::Max(max[v], value);
          sum[v] = hn::Add(sum[v], value);
          even[v] = hn::Add(even[v], hn::MulEven(value, value));
          odd[v] = hn::Add(odd[v], hn::MulEven(other, other));
        }
      }
      const auto one = hn::Set(d, 1);  // widens
#pragma GCC unroll 2
      for (int64_t v = 0; v < kColumns; ++v) {
        const int64_t k = j + v * kLanes;
        add_to(block.sum.data() + k, hn::MulEven(sum[v], one), hn::MulEven(odd_lanes(sum[v]), one));
        add_to(block.squares.data() + k, even[v], odd[v]);
        hn::StoreU(min[v], d, block.min.data() + k);
        hn::StoreU(max[v], d, block.max.data() + k);
      }
    }
  }
}

void add_periods(const int32_t* acc, int64_t periods, int64_t period, IntegerSums* totals) {
  Block block(period);
  for (int64_t first = 0; first < periods; first += kBlock) {
    const int64_t rows = std::min(kBlock, periods - first);
    const int32_t* from = acc + first * period;
    block.clear();
    add_block(from, rows, period, block);
    if (block.fits()) {
      block.give(totals);
      continue;
    }
    for (int64_t i = 0; i < rows * period; i += period) {
      for (int64_t j = 0; j < period; ++j) totals[j].add(from[i + j]);
    }
  }
}
#endif

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(add_periods);

ChannelStatistics channel_statistics(const int32_t* acc, int64_t rows, int64_t channels) {
  ChannelStatistics s;
  for (auto* values : {&s.sum, &s.sum_squares}) values->assign(static_cast<size_t>(channels), 0.0);
  for (auto* values : {&s.min, &s.max}) values->assign(static_cast<size_t>(channels), 0);
  const int64_t n = rows * channels;
  if (n == 0) return s;
  const int64_t period = period_of(channels), periods = n / period;
  const int64_t parts = std::clamp<int64_t>(n / chunk_of(period), 1, omp_get_max_threads());
  ScratchVector<IntegerSums> sums(static_cast<size_t>(parts * period), IntegerSums::none());
#pragma omp parallel for if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = periods * part / parts, last = periods * (part + 1) / parts;
    HWY_DYNAMIC_DISPATCH(add_periods)(acc + first * period, last - first, period, sums.data() + part * period);
  }
  for (int64_t i = periods * period, j = 0; i < n; ++i, ++j) sums[j].add(acc[i]);
  for (int64_t c = 0; c < channels; ++c) {
    IntegerSums total = IntegerSums::none();
    for (int64_t at = c; at < parts * period; at += channels) total.join(sums[at]);
    s.sum[c] = static_cast<double>(total.sum);
    s.sum_squares[c] = total.sum_squares();
    s.min[c] = total.min, s.max[c] = total.max;
  }
  return s;
}

}  // namespace qat::ops
#endif
