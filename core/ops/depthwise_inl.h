// One row of a depthwise convolution in float32; included after hwy/highway.h.
#if defined(QAT_CORE_OPS_DEPTHWISE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef QAT_CORE_OPS_DEPTHWISE_INL_H
#undef QAT_CORE_OPS_DEPTHWISE_INL_H
#else
#define QAT_CORE_OPS_DEPTHWISE_INL_H
#endif

#include "core/ops/pixels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {

/// The same as depthwise_row() for kRows x kCols taps whose columns are as far apart in each row; kRows * kCols weights
/// fit in registers.
template <int64_t kRows, int64_t kCols, class D, class Store>
HWY_INLINE void few_taps(D d, const float* x, int64_t cols, int64_t step, const int64_t* tap_offset,
                         const float* weights, int64_t weight_stride, int64_t c, const Store& store) {
  hn::Vec<D> w[kRows * kCols];
#pragma GCC unroll 9
  for (int64_t k = 0; k < kRows * kCols; ++k) w[k] = hn::LoadU(d, weights + k * weight_stride + c);
  const float* row[kRows];
#pragma GCC unroll 3
  for (int64_t r = 0; r < kRows; ++r) row[r] = x + tap_offset[r * kCols] + c;
  int64_t apart[kCols];
#pragma GCC unroll 3
  for (int64_t k = 0; k < kCols; ++k) apart[k] = tap_offset[k] - tap_offset[0];
  for (int64_t col = 0; col < cols; ++col) {
    hn::Vec<D> sum[3] = {hn::Zero(d), hn::Zero(d), hn::Zero(d)};
#pragma GCC unroll 9
    for (int64_t k = 0; k < kRows * kCols; ++k) {
      sum[k % 3] = hn::MulAdd(hn::LoadU(d, row[k / kCols] + apart[k % kCols]), w[k], sum[k % 3]);
    }
    store(hn::Add(hn::Add(sum[0], sum[1]), sum[2]));
#pragma GCC unroll 3
    for (int64_t r = 0; r < kRows; ++r) row[r] += step;
  }
}

/// Calls store(sum) for channels [c, c + lanes of D) of every pixel of a row, from left to right: the sum over taps of
/// x[column * step + tap_offset[tap] + c] * weights[tap * weight_stride + c], in three interleaved sums that are added
/// from the first to the last.
template <class D, class Store>
HWY_INLINE void depthwise_row(D d, const float* x, int64_t cols, int64_t step, const int64_t* tap_offset, int64_t taps,
                              const float* weights, int64_t weight_stride, int64_t c, const Store& store) {
  // Grids of taps: those of a kernel, or of every second row or column of one.
  const auto is_grid = [&](int64_t rows, int64_t columns) {
    if (taps != rows * columns) return false;
    for (int64_t k = columns; k < taps; ++k) {
      if (tap_offset[k] - tap_offset[k / columns * columns] != tap_offset[k % columns] - tap_offset[0]) return false;
    }
    return true;
  };
  if (is_grid(3, 3)) return few_taps<3, 3>(d, x, cols, step, tap_offset, weights, weight_stride, c, store);
  if (is_grid(2, 2)) return few_taps<2, 2>(d, x, cols, step, tap_offset, weights, weight_stride, c, store);
  if (is_grid(1, 2)) return few_taps<1, 2>(d, x, cols, step, tap_offset, weights, weight_stride, c, store);
  if (is_grid(1, 1)) return few_taps<1, 1>(d, x, cols, step, tap_offset, weights, weight_stride, c, store);
  for (int64_t col = 0; col < cols; ++col, x += step) {
    hn::Vec<D> sum[3] = {hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (int64_t k = 0; k < taps; ++k) {
      sum[k % 3] =
          hn::MulAdd(hn::LoadU(d, x + tap_offset[k] + c), hn::LoadU(d, weights + k * weight_stride + c), sum[k % 3]);
    }
    store(hn::Add(hn::Add(sum[0], sum[1]), sum[2]));
  }
}

}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
