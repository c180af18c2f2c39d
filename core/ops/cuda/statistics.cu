#include <algorithm>

#include "core/ops/cuda/channel_sums.cuh"
#include "core/ops/cuda/convolve_kernels.h"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/statistics.h"
#include "core/ops/periods.h"

namespace qat::ops::cuda {
namespace {

constexpr int kColumns = 32, kLines = kThreads / kColumns;
/// Rows that a thread fetches at once, and blocks for each multiprocessor.
constexpr int kFetched = 8, kBlocks = 8;

/// n elements as rows of `width`, a multiple of the channels and of kColumns. A block takes some columns of some rows.
__global__ void __launch_bounds__(kThreads)
    add_matrix(const int32_t* __restrict__ acc, int64_t n, int64_t width, int64_t block_rows, ChannelSums sums) {
  await_previous();
  __shared__ IntegerSums shared[kThreads];
  const int64_t column_blocks = width / kColumns, block_row = quotient(blockIdx.x, column_blocks);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t column = (blockIdx.x - block_row * column_blocks) * kColumns + thread % kColumns;
  const int64_t first = block_row * block_rows + thread / kColumns;
  const int64_t rows = (n - column + width - 1) / width;  // that reach this column
  const int64_t last = (block_row + 1) * block_rows < rows ? (block_row + 1) * block_rows : rows;
  IntegerSums mine = IntegerSums::none();
#pragma unroll 8
  for (int64_t r = first; r < last; r += kLines) mine.add(acc[r * width + column]);
  add_columns<kLines, kColumns>(mine, shared, remainder(column, sums.channels), sums);
}

}  // namespace

void channel_statistics(const int32_t* acc, int64_t rows, const ChannelSums& sums, cudaStream_t stream) {
  const int64_t n = rows * sums.channels;
  if (n == 0) return;
  const int64_t width = period_of(sums.channels), long_rows = divide_up(n, width), column_blocks = width / kColumns;
  const int64_t row_blocks = std::clamp<int64_t>(divide_up(kBlocks * kernels::processors(), column_blocks), 1,
                                                 divide_up(long_rows, kLines * kFetched));
  const int64_t block_rows = divide_up(long_rows, row_blocks),
                blocks = divide_up(long_rows, block_rows) * column_blocks;
  require(blocks <= INT32_MAX, "channel_statistics", "the matrix is too large");
  launch_kernel("channel_statistics", add_matrix, static_cast<unsigned>(blocks), kThreads, 0, stream, acc, n, width,
                block_rows, sums);
}

}  // namespace qat::ops::cuda
