#include "core/ops/narrow.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/narrow.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/vector_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
using I16 = hn::CappedTag<int16_t, 16>;
using I32 = hn::RepartitionToWide<I16>;
using U64 = hn::Repartition<uint64_t, I16>;
using Row = hn::Vec<I16>;
constexpr int64_t kLanes = hn::MaxLanes(I16());

/// kLanes accumulators, of which the first `count` are written.
HWY_INLINE Row narrow_row(const int32_t* acc, int64_t count, int16_t* out) {
  using Wide = hn::CappedTag<int32_t, 16>;
  constexpr int64_t kWide = hn::MaxLanes(Wide());
  hn::Vec<Wide> values[kLanes / kWide];
#pragma GCC unroll 4
  for (int64_t k = 0; k < kLanes / kWide; ++k) values[k] = hn::LoadU(Wide(), acc + k * kWide);
  if (count == kLanes) {
    store_narrow<int16_t>(Wide(), values, out);
    return hn::LoadU(I16(), out);
  }
  int16_t all[kLanes];
  store_narrow<int16_t>(Wide(), values, all);
  std::memcpy(out, all, static_cast<size_t>(count) * sizeof(int16_t));
  return hn::LoadU(I16(), all);
}

/// Sums of the rows of kLanes channels. Two rows are interleaved, so that the multiply-add of neighbours adds values of
/// one channel; two squares fit in 32 bits.
class Sums {
 public:
  Sums() {
    for (auto& sum : sum_) sum = hn::Zero(I32());
    for (auto& square : squares_) square = hn::Zero(U64());
  }
  HWY_INLINE void add(Row a, Row b) {
    add_half<0>(hn::InterleaveLower(I16(), a, b));
    add_half<1>(hn::InterleaveUpper(I16(), a, b));
  }
  void give(int64_t count, int64_t* sum, int64_t* squares) const {
    int32_t sums[2][kLanes / 2];
    uint64_t square[4][kLanes / 4];
    for (int64_t h = 0; h < 2; ++h) hn::StoreU(sum_[h], I32(), sums[h]);
    for (int64_t h = 0; h < 4; ++h) hn::StoreU(squares_[h], U64(), square[h]);
    for (int64_t c = 0; c < count; ++c) {
      // Interleaving works within blocks of eight lanes.
      const int64_t half = c % 8 / 4, lane = c / 8 * 4 + c % 4;
      sum[c] += sums[half][lane];
      squares[c] += static_cast<int64_t>(square[2 * half + lane % 2][lane / 2]);
    }
  }

 private:
  template <int64_t kHalf>
  HWY_INLINE void add_half(Row pairs) {
    const I32 d;
    auto unused = hn::Zero(d);
    sum_[kHalf] = hn::ReorderWidenMulAccumulate(d, pairs, hn::Set(I16(), 1), sum_[kHalf], unused);
    const auto square = hn::BitCast(U64(), hn::ReorderWidenMulAccumulate(d, pairs, pairs, hn::Zero(d), unused));
    squares_[2 * kHalf] = hn::Add(squares_[2 * kHalf], hn::And(square, hn::Set(U64(), 0xffffffff)));
    squares_[2 * kHalf + 1] = hn::Add(squares_[2 * kHalf + 1], hn::ShiftRight<32>(square));
  }

  hn::Vec<I32> sum_[2];
  hn::Vec<U64> squares_[4];
};

/// Rows whose sums fit in int32.
constexpr int64_t kRows = 32768;

void narrow_rows(const int32_t* acc, int64_t rows, int64_t channels, int16_t* out, int64_t out_stride,
                 const NarrowStatistics* statistics) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int64_t count = std::min(kLanes, channels - c);
    if (statistics == nullptr) {
      for (int64_t r = 0; r < rows; ++r) narrow_row(acc + r * channels + c, count, out + r * out_stride + c);
      continue;
    }
    Row min = hn::Set(I16(), 32767), max = hn::Set(I16(), -32768);
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t last = std::min(rows, first + kRows);
      Sums sums;
      for (int64_t r = first; r < last; r += 2) {
        const Row a = narrow_row(acc + r * channels + c, count, out + r * out_stride + c);
        min = hn::Min(min, a), max = hn::Max(max, a);
        Row b = hn::Zero(I16());
        if (r + 1 < last) {
          b = narrow_row(acc + (r + 1) * channels + c, count, out + (r + 1) * out_stride + c);
          min = hn::Min(min, b), max = hn::Max(max, b);
        }
        sums.add(a, b);
      }
      sums.give(count, statistics->sum + c, statistics->squares + c);
    }
    int16_t lowest[kLanes], highest[kLanes];
    hn::StoreU(min, I16(), lowest);
    hn::StoreU(max, I16(), highest);
    for (int64_t i = 0; i < count; ++i) {
      statistics->min[c + i] = std::min(statistics->min[c + i], lowest[i]);
      statistics->max[c + i] = std::max(statistics->max[c + i], highest[i]);
    }
  }
}
#else
void narrow_rows(const int32_t* acc, int64_t rows, int64_t channels, int16_t* out, int64_t out_stride,
                 const NarrowStatistics* statistics) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < channels; ++c) {
      const auto value = static_cast<int16_t>(acc[r * channels + c]);
      out[r * out_stride + c] = value;
      if (statistics == nullptr) continue;
      statistics->sum[c] += value;
      statistics->squares[c] += value * value;
      statistics->min[c] = std::min(statistics->min[c], value);
      statistics->max[c] = std::max(statistics->max[c], value);
    }
  }
}
#endif

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(narrow_rows);

void narrow(const int32_t* acc, int64_t rows, int64_t channels, int16_t* out, int64_t out_stride,
            const NarrowStatistics* statistics) {
  HWY_DYNAMIC_DISPATCH(narrow_rows)(acc, rows, channels, out, out_stride, statistics);
}

}  // namespace qat::ops
#endif
