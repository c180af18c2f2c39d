#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "core/ops/convolve.h"
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

/// Statistics of one chunk for each place of a period.
struct Sums {
  Sums(double* sums, int32_t* bounds, int64_t period)
      : sum(sums), squares(sums + period), min(bounds), max(bounds + period) {
    std::fill_n(sums, 2 * period, 0.0);
    std::fill_n(min, period, INT32_MAX);
    std::fill_n(max, period, std::numeric_limits<int32_t>::min());
  }
  void add(int64_t place, int32_t value) {
    sum[place] += value;
    squares[place] += static_cast<double>(value) * value;
    min[place] = std::min(min[place], value);
    max[place] = std::max(max[place], value);
  }
  double* sum;  // exact: a chunk holds less than 2^21 elements
  double* squares;
  int32_t* min;
  int32_t* max;
};

}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

using I32 = hn::CappedTag<int32_t, kStep>;
constexpr int64_t kLanes = hn::MaxLanes(I32());

void add_periods(const int32_t* acc, int64_t periods, int64_t period, Sums& sums) {
  const I32 di;
  const F64 dd;
  const hn::Rebind<int32_t, F64> dh;
  constexpr int64_t kColumns = 2, kSums = kColumns * kLanes / kDoubles;
  static_assert(kStep % (kColumns * kLanes) == 0);
  constexpr int64_t kRows = 8;  // at once: few enough for the machine to see them as streams
  for (int64_t first = 0; first < periods; first += kRows) {
    const int64_t rows = std::min(kRows, periods - first);
    for (int64_t j = 0; j < period; j += kColumns * kLanes) {
      hn::Vec<F64> sum[kSums], squares[kSums];
      hn::Vec<I32> min[kColumns], max[kColumns];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kSums; ++v) {
        sum[v] = hn::LoadU(dd, sums.sum + j + v * kDoubles);
        squares[v] = hn::LoadU(dd, sums.squares + j + v * kDoubles);
      }
#pragma GCC unroll 2
      for (int64_t v = 0; v < kColumns; ++v) {
        min[v] = hn::LoadU(di, sums.min + j + v * kLanes);
        max[v] = hn::LoadU(di, sums.max + j + v * kLanes);
      }
      const int32_t* at = acc + first * period + j;
      for (int64_t r = 0; r < rows; ++r, at += period) {
        hwy::Prefetch(at + kAhead);
#pragma GCC unroll 2
        for (int64_t v = 0; v < kColumns; ++v) {
          const auto whole = hn::LoadU(di, at + v * kLanes);
          min[v] = hn::Min(min[v], whole);
          max[v] = hn::Max(max[v], whole);
        }
#pragma GCC unroll 4
        for (int64_t v = 0; v < kSums; ++v) {
          const auto value = hn::PromoteTo(dd, hn::LoadU(dh, at + v * kDoubles));
          sum[v] = hn::Add(sum[v], value);
          // Not fused: a square can need more bits than a double has, so that fused sums would differ by machine.
          squares[v] = hn::Add(squares[v], hn::Mul(value, value));
        }
      }
#pragma GCC unroll 4
      for (int64_t v = 0; v < kSums; ++v) {
        hn::StoreU(sum[v], dd, sums.sum + j + v * kDoubles);
        hn::StoreU(squares[v], dd, sums.squares + j + v * kDoubles);
      }
#pragma GCC unroll 2
      for (int64_t v = 0; v < kColumns; ++v) {
        hn::StoreU(min[v], di, sums.min + j + v * kLanes);
        hn::StoreU(max[v], di, sums.max + j + v * kLanes);
      }
    }
  }
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(add_periods);

ChannelStatistics channel_statistics(const int32_t* acc, int64_t rows, int64_t channels) {
  ChannelStatistics s;
  s.sum.assign(static_cast<size_t>(channels), 0.0);
  s.sum_squares.assign(static_cast<size_t>(channels), 0.0);
  const int64_t n = rows * channels;
  s.min.assign(static_cast<size_t>(channels), n == 0 ? 0 : INT32_MAX);
  s.max.assign(static_cast<size_t>(channels), n == 0 ? 0 : std::numeric_limits<int32_t>::min());
  if (n == 0) return s;
  const int64_t period = period_of(channels), chunk = chunk_of(period), chunks = (n + chunk - 1) / chunk;
  ScratchVector<double> sums(static_cast<size_t>(2 * chunks * period));
  ScratchVector<int32_t> bounds(static_cast<size_t>(2 * chunks * period));
  for_chunks(n, chunk, [&](int64_t index, int64_t begin, int64_t end) {
    Sums of_chunk(sums.data() + 2 * index * period, bounds.data() + 2 * index * period, period);
    const int64_t periods = (end - begin) / period;
    HWY_DYNAMIC_DISPATCH(add_periods)(acc + begin, periods, period, of_chunk);
    for (int64_t i = begin + periods * period, j = 0; i < end; ++i, ++j) of_chunk.add(j, acc[i]);
  });
  std::vector<int64_t> exact(static_cast<size_t>(channels), 0);
  for (int64_t row = 0; row < chunks * 2 * period; row += 2 * period) {
    for (int64_t first = row; first < row + period; first += channels) {
      for (int64_t c = 0; c < channels; ++c) {
        exact[c] += static_cast<int64_t>(sums[first + c]);
        s.sum_squares[c] += sums[first + period + c];
        s.min[c] = std::min(s.min[c], bounds[first + c]);
        s.max[c] = std::max(s.max[c], bounds[first + period + c]);
      }
    }
  }
  std::transform(exact.begin(), exact.end(), s.sum.begin(), [](int64_t v) { return static_cast<double>(v); });
  return s;
}

}  // namespace qat::ops
#endif
