#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "core/ops/convolve.h"
#include "core/ops/periods.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/statistics.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/vector_inl.h"

#ifndef QAT_CORE_OPS_STATISTICS_CPP
#define QAT_CORE_OPS_STATISTICS_CPP
namespace qat::ops {
namespace {

/// Statistics of one chunk for each place of a period.
struct Sums {
  explicit Sums(int64_t period)
      : sum(period), squares(period), min(period, INT32_MAX), max(period, std::numeric_limits<int32_t>::min()) {}
  void add(int64_t place, int32_t value) {
    sum[place] += value;
    squares[place] += static_cast<double>(value) * value;
    min[place] = std::min(min[place], value);
    max[place] = std::max(max[place], value);
  }
  std::vector<double> sum;  // exact: a chunk holds less than 2^21 elements
  std::vector<double> squares;
  std::vector<int32_t> min;
  std::vector<int32_t> max;
};

}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

void add_periods(const int32_t* acc, int64_t periods, int64_t period, Sums& sums) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<int32_t, hn::ScalableTag<double>> di;
  constexpr int64_t kDoubles = hn::MaxLanes(hn::ScalableTag<double>());
  constexpr int64_t kColumns = 4;
  static_assert(kStep % (kColumns * kDoubles) == 0);
  using Doubles = hn::Vec<hn::ScalableTag<double>>;
  using Integers = hn::Vec<hn::Rebind<int32_t, hn::ScalableTag<double>>>;
  for (int64_t j = 0; j < period; j += kColumns * kDoubles) {
    Doubles sum[kColumns], squares[kColumns];
    Integers min[kColumns], max[kColumns];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kColumns; ++v) {
      sum[v] = squares[v] = hn::Zero(dd);
      min[v] = hn::LoadU(di, sums.min.data() + j + v * kDoubles);
      max[v] = hn::LoadU(di, sums.max.data() + j + v * kDoubles);
    }
    for (int64_t r = 0; r < periods; ++r) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kColumns; ++v) {
        const auto whole = hn::LoadU(di, acc + r * period + j + v * kDoubles);
        const auto value = hn::PromoteTo(dd, whole);
        sum[v] = hn::Add(sum[v], value);
        // Not fused: a square can need more bits than a double has, so that fused sums would differ by machine.
        squares[v] = hn::Add(squares[v], hn::Mul(value, value));
        min[v] = hn::Min(min[v], whole);
        max[v] = hn::Max(max[v], whole);
      }
    }
#pragma GCC unroll 4
    for (int64_t v = 0; v < kColumns; ++v) {
      hn::StoreU(sum[v], dd, sums.sum.data() + j + v * kDoubles);
      hn::StoreU(squares[v], dd, sums.squares.data() + j + v * kDoubles);
      hn::StoreU(min[v], di, sums.min.data() + j + v * kDoubles);
      hn::StoreU(max[v], di, sums.max.data() + j + v * kDoubles);
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
  const int64_t period = period_of(channels), chunk = chunk_of(period);
  std::vector<Sums> chunks(static_cast<size_t>((n + chunk - 1) / chunk), Sums(period));
  for_chunks(n, chunk, [&](int64_t index, int64_t begin, int64_t end) {
    Sums& sums = chunks[static_cast<size_t>(index)];
    const int64_t periods = (end - begin) / period;
    HWY_DYNAMIC_DISPATCH(add_periods)(acc + begin, periods, period, sums);
    for (int64_t i = begin + periods * period, j = 0; i < end; ++i, ++j) sums.add(j, acc[i]);
  });
  std::vector<int64_t> exact(static_cast<size_t>(channels), 0);
  for (const Sums& sums : chunks) {
    for (int64_t j = 0; j < period; ++j) {
      const auto c = static_cast<size_t>(j % channels);
      exact[c] += static_cast<int64_t>(sums.sum[j]);
      s.sum_squares[c] += sums.squares[j];
      s.min[c] = std::min(s.min[c], sums.min[j]);
      s.max[c] = std::max(s.max[c], sums.max[j]);
    }
  }
  std::transform(exact.begin(), exact.end(), s.sum.begin(), [](int64_t v) { return static_cast<double>(v); });
  return s;
}

}  // namespace qat::ops
#endif
