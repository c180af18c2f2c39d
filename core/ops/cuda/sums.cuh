// Sums in the order of the CPU's kernels (core/ops/periods.h): of chunks, and of columns inside a chunk, one element
// after another. Double additions cannot be reordered, so one thread adds a column; a block's other threads fetch what
// it adds next, tile by tile, through registers and shared memory. Internal to core/ops/cuda.
//
// A Read names the Item that a sum takes and makes, from a thread's first element and the distance to its next one, a
// cursor that is called with these elements in order. A Sums has none(), add(Item) and what it makes: result(), a
// Result with none() and join(Result). One that sums groups of kGroup rows apart has end_group() too.
#pragma once

#include <cstdint>

#include "core/ops/cuda/eights.cuh"
#include "core/ops/periods.h"
#include "core/ops/pieces.h"

namespace qat::ops::cuda {

/// Items that a thread fetches at once, and items of a tile.
inline constexpr int kFetched = 8;
inline constexpr int kTile = kThreads * kFetched;

/// Chunk x of n elements: row r of column c is element x * chunk + r * width + c.
struct Columns {
  int64_t n, chunk, width;
  int64_t chunks() const { return divide_up(n, chunk); }
};

/// A block sums the kColumns columns of one chunk: partial [chunks] gets the sum of the columns in order.
template <int kColumns, class Sums, class Read>
__global__ void __launch_bounds__(kThreads) sum_columns(Columns columns, Read read, typename Sums::Result* partial) {
  await_previous();
  using Result = typename Sums::Result;
  using Item = typename Read::Item;
  constexpr int kLines = kThreads / kColumns, kRows = kLines * kFetched;  // rows fetched side by side, rows of a tile
  __shared__ Item tile[kTile];
  const int column = static_cast<int>(threadIdx.x) % kColumns, line = static_cast<int>(threadIdx.x) / kColumns;
  const bool adds =
      line ==
      static_cast<int>(blockIdx.x % kLines);  // not always the warp that shares its scheduler with other blocks' adders
  const int64_t begin = blockIdx.x * columns.chunk;
  const int64_t end = begin + columns.chunk < columns.n ? begin + columns.chunk : columns.n;
  const int64_t rows = (end - begin + columns.width - 1) / columns.width;
  const int64_t whole =
      (end - begin) / columns.width;  // rows that reach all columns; another one is a group of its own
  const int64_t mine = (end - begin - column + columns.width - 1) / columns.width;  // rows that reach this column

  const int64_t step = kLines * columns.width;
  int64_t i = begin + line * columns.width + column;
  auto cursor = read.start(i, step);
  Item ahead[kFetched];
  const auto fetch = [&] {
    if (i + (kFetched - 1) * step < end) {
#pragma unroll
      for (int k = 0; k < kFetched; ++k) ahead[k] = cursor(i + k * step);
    } else {
#pragma unroll
      for (int k = 0; k < kFetched; ++k) {
        if (i + k * step < end) ahead[k] = cursor(i + k * step);
      }
    }
    i += kFetched * step;
  };

  Sums sums = Sums::none();
  fetch();
  for (int64_t first = 0; first < rows; first += kRows) {
    __syncthreads();  // the tile before has been added
#pragma unroll
    for (int k = 0; k < kFetched; ++k) tile[(k * kLines + line) * kColumns + column] = ahead[k];
    __syncthreads();
    fetch();
    if (!adds) continue;
    const int count = mine - first < kRows ? static_cast<int>(mine - first) : kRows;
    if constexpr (requires { sums.end_group(); }) {
      static_assert(kRows % kGroup == 0);
#pragma unroll 8
      for (int r = 0; r < count; ++r) {
        sums.add(tile[r * kColumns + column]);
        if (r % kGroup == kGroup - 1 || first + r + 1 == whole) sums.end_group();
      }
    } else {
#pragma unroll 8
      for (int r = 0; r < count; ++r) sums.add(tile[r * kColumns + column]);
    }
  }
  if constexpr (requires { sums.end_group(); }) sums.end_group();
  const Result result = sums.result();
  Result joined = Result::none();
#pragma unroll
  for (int c = 0; c < kColumns; ++c) joined.join({__shfl_sync(0xffffffff, result.total, c, kColumns)});
  if (adds && column == 0) partial[blockIdx.x] = joined;
}

struct Total {
  static __device__ Total none() { return {0.0}; }
  __device__ void join(const Total& other) { total += other.total; }
  double total;
};

/// Two factors.
struct Product {
  float a, b;
};

/// A sum of products, kGroup of them in float, one after another, and their sum in double.
struct GroupedTotal {
  using Result = Total;
  static __device__ GroupedTotal none() { return {0.0, 0.0f}; }
  __device__ void add(const Product& term) { group = fmaf(term.a, term.b, group); }
  __device__ void end_group() {
    total += group;
    group = 0.0f;
  }
  __device__ Total result() const { return {total}; }
  double total;
  float group;
};

/// out = factor * (values[0] + values[1] + ...), one chain: a block stages the values for one thread.
static __global__ void __launch_bounds__(kThreads)
    sum_chain(const Total* values, int64_t count, double factor, float* out) {
  await_previous();
  constexpr int kStaged = kTile;
  __shared__ double staged[2][kStaged];
  const auto stage = [&](int64_t tile, int first, int threads) {
    for (int k = first; k < kStaged; k += threads) {
      if (tile * kStaged + k < count) staged[tile % 2][k] = values[tile * kStaged + k].total;
    }
  };
  const int thread = static_cast<int>(threadIdx.x);
  stage(0, thread, kThreads);
  __syncthreads();
  double sum = 0.0;
  for (int64_t tile = 0; tile * kStaged < count; ++tile) {
    if (thread >= 32) {
      stage(tile + 1, thread - 32, kThreads - 32);
    } else if (thread == 0) {
      const int left = count - tile * kStaged < kStaged ? static_cast<int>(count - tile * kStaged) : kStaged;
#pragma unroll 16
      for (int k = 0; k < left; ++k) sum += staged[tile % 2][k];
    }
    __syncthreads();
  }
  if (thread == 0) *out = static_cast<float>(sum * factor);
}

/// Bytes of partial sums of n products.
inline size_t products_scratch(int64_t n) { return static_cast<size_t>(divide_up(n, kPiece)) * sizeof(Total); }

/// out [1] = factor * the sum of n products, pieces of them in kStep columns.
template <class Read>
void sum_products(const char* kernel, int64_t n, const Read& read, void* scratch, double factor, float* out,
                  cudaStream_t stream) {
  const Columns columns{n, kPiece, kStep};
  const int64_t pieces = columns.chunks();
  require(pieces <= INT32_MAX, kernel, "too many elements");
  auto* partial = static_cast<Total*>(scratch);
  if (pieces > 0) {
    launch_kernel(kernel, sum_columns<kStep, GroupedTotal, Read>, static_cast<unsigned>(pieces), kThreads, 0, stream,
                  columns, read, partial);
  }
  launch_kernel(kernel, sum_chain, 1, kThreads, 0, stream, partial, pieces, factor, out);
}

}  // namespace qat::ops::cuda
