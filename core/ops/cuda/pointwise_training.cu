// The functions of pointwise.h that only training needs.
#include <algorithm>
#include <limits>

#include "core/ops/cuda/block.cuh"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/pointwise.h"

namespace qat::ops::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Blocks that share the elements of a range: as many as an H100 runs at once. How they are shared does not change the
/// result.
constexpr int64_t kRangeBlocks = 1024;

int64_t range_blocks(int64_t n) { return std::min(divide_up(n, kThreads * kEight), kRangeBlocks); }

/// partial [blocks]: the ends of the sums that each block takes.
__global__ void __launch_bounds__(kThreads)
    range_of_sums(const uint8_t* a, const uint8_t* b, int64_t n, bool aligned, BinaryParams p, Ends<float>* partial) {
  const float scale_a = *p.scale_a, scale_b = *p.scale_b;
  const int32_t zero_a = *p.zero_a, zero_b = *p.zero_b;
  Ends<float> ends{kInfinity, -kInfinity};
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kEight;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kEight; i < n; i += step) {
    const Part part{i, n - i < kEight ? static_cast<int>(n - i) : kEight, aligned};
    const Eight<uint8_t> left = load(a, part), right = load(b, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const float real_a = scale_a * static_cast<float>(left.at[k] - zero_a);
      const float real_b = scale_b * static_cast<float>(right.at[k] - zero_b);
      if (k < part.count) ends.add(real_a + real_b);
    }
  }
  const Ends<float> all = joined<kThreads>(ends);
  if (threadIdx.x == 0) partial[blockIdx.x] = all;
}

__global__ void __launch_bounds__(kThreads) join_ranges(const Ends<float>* partial, int64_t count, double* ends) {
  Ends<float> mine{kInfinity, -kInfinity};
  for (int64_t i = threadIdx.x; i < count; i += kThreads) mine.join(partial[i]);
  const Ends<float> all = joined<kThreads>(mine);
  if (threadIdx.x > 0) return;
  ends[0] = all.lo;
  ends[1] = all.hi;
}

/// core/base/random.h's split_mix64.
__device__ uint64_t split_mix64(uint64_t state, uint64_t index) {
  uint64_t z = state + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// The bits of a part's elements that a dropout keeps, one decision for `repeats` elements.
__device__ unsigned kept_bits(const Part& part, int64_t repeats, double p, uint64_t key) {
  const auto keeps = [&](int64_t block) {
    return static_cast<double>(split_mix64(key, static_cast<uint64_t>(block)) >> 11) * 0x1p-53 >= p;
  };
  int64_t block = quotient(part.begin, repeats), left = (block + 1) * repeats - part.begin;
  bool kept = keeps(block);
  unsigned bits = 0;
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    if (left == 0) {
      left = repeats;
      kept = keeps(++block);
    }
    --left;
    bits |= static_cast<unsigned>(kept) << k;
  }
  return bits;
}

constexpr int kTransposed = 32;  // rows and columns of a tile

/// y [batch][columns][rows] from x [batch][rows][columns]; a block takes a tile.
template <class T>
__global__ void __launch_bounds__(kThreads) transpose_maps(const T* x, int64_t rows, int64_t columns, T* y) {
  __shared__ T tile[kTransposed][kTransposed + 4 / sizeof(T)];  // a word more: columns lie in different banks
  const int64_t across = (columns + kTransposed - 1) / kTransposed, down = (rows + kTransposed - 1) / kTransposed;
  const int64_t line = quotient(blockIdx.x, across), sample = quotient(line, down);
  const int64_t first_row = (line - sample * down) * kTransposed,
                first_column = (blockIdx.x - line * across) * kTransposed;
  const int lane = static_cast<int>(threadIdx.x) % kTransposed, first = static_cast<int>(threadIdx.x) / kTransposed;
  const int64_t map = sample * rows * columns;
  for (int r = first; r < kTransposed; r += kThreads / kTransposed) {
    const int64_t row = first_row + r, column = first_column + lane;
    if (row < rows && column < columns) tile[r][lane] = x[map + row * columns + column];
  }
  __syncthreads();
  for (int c = first; c < kTransposed; c += kThreads / kTransposed) {
    const int64_t row = first_row + lane, column = first_column + c;
    if (row < rows && column < columns) y[map + column * rows + row] = tile[lane][c];
  }
}

template <class T>
void transpose(const char* kernel, const T* x, int64_t batch, int64_t rows, int64_t columns, T* y,
               cudaStream_t stream) {
  const int64_t tiles = batch * divide_up(rows, kTransposed) * divide_up(columns, kTransposed);
  if (tiles == 0) return;
  require(tiles <= INT32_MAX, kernel, "the map is too large");
  launch_kernel(kernel, transpose_maps<T>, static_cast<unsigned>(tiles), kThreads, 0, stream, x, rows, columns, y);
}

void require_probability(double p, const char* kernel) {
  require(p >= 0.0 && p < 1.0, kernel, "the probability must be in [0, 1)");
}

}  // namespace

size_t add_range_scratch(int64_t n) { return static_cast<size_t>(range_blocks(n)) * sizeof(Ends<float>); }

void add_range(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& p, double* ends, void* scratch,
               cudaStream_t stream) {
  require(n > 0, "add_range", "no elements have no range");
  const int64_t blocks = range_blocks(n);
  auto* partial = static_cast<Ends<float>*>(scratch);
  launch_kernel("add_range", range_of_sums, static_cast<unsigned>(blocks), kThreads, 0, stream, a, b, n, aligned(a, b),
                p, partial);
  launch_kernel("add_range", join_ranges, 1, kThreads, 0, stream, partial, blocks, ends);
}

void add_values(const float* x, int64_t n, float* into, cudaStream_t stream) {
  for_parts("add_values", n, aligned(x, into), stream, [=] __device__(const Part& part) {
    const Eight<float> values = load(x, part);
    Eight<float> sums = load(into, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) sums.at[k] += values.at[k];
    store(into, part, sums);
  });
}

void dropout(const uint8_t* x, int64_t n, int64_t repeats, double p, const uint64_t* key, const float* scale_x,
             const int32_t* zero_point, uint8_t* y, uint8_t* kept, float* scale_y, cudaStream_t stream) {
  require_probability(p, "dropout");
  require(repeats > 0, "dropout", "a decision must be for an element at least");
  // Without an element there is a scale all the same.
  for_parts("dropout", n == 0 ? 1 : n, aligned(x, y), stream, [=] __device__(const Part& part) {
    if (part.begin == 0) *scale_y = static_cast<float>(*scale_x / (1.0 - p));
    if (n == 0) return;
    const auto zero = static_cast<uint8_t>(*zero_point);
    const unsigned bits = kept_bits(part, repeats, p, *key);
    Eight<uint8_t> codes = load(x, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) codes.at[k] = (bits >> k) & 1 ? codes.at[k] : zero;
    store(y, part, codes);
    store_mask(kept, part, bits);
  });
}

void dropout_gradient(const float* g, const uint8_t* kept, int64_t n, double p, float* dx, cudaStream_t stream) {
  require_probability(p, "dropout_gradient");
  const double factor = 1.0 / (1.0 - p);
  for_parts("dropout_gradient", n, aligned(g, dx), stream, [=] __device__(const Part& part) {
    Eight<float> gradient = load(g, part);
    const unsigned bits = load_mask(kept, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      gradient.at[k] = (bits >> k) & 1 ? static_cast<float>(gradient.at[k] * factor) : 0.0f;
    }
    store(dx, part, gradient);
  });
}

template <class T>
void to_channels_first(const T* x, int64_t batch, int64_t pixels, int64_t channels, T* y, cudaStream_t stream) {
  transpose("to_channels_first", x, batch, pixels, channels, y, stream);
}

template <class T>
void to_channels_last(const T* x, int64_t batch, int64_t pixels, int64_t channels, T* y, cudaStream_t stream) {
  transpose("to_channels_last", x, batch, channels, pixels, y, stream);
}

template void to_channels_first<uint8_t>(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*, cudaStream_t);
template void to_channels_first<float>(const float*, int64_t, int64_t, int64_t, float*, cudaStream_t);
template void to_channels_last<uint8_t>(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*, cudaStream_t);
template void to_channels_last<float>(const float*, int64_t, int64_t, int64_t, float*, cudaStream_t);

}  // namespace qat::ops::cuda
