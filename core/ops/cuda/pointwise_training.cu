// The functions of pointwise.h that only training needs.
#include "core/ops/cuda/broadcast.cuh"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/cuda/shares.cuh"

namespace qat::ops::cuda {
namespace {

/// Real values joined.
struct SumOfReals {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct ProductOfReals {
  __device__ float operator()(float a, float b) const { return a * b; }
};

/// partial [blocks]: the ends of the values that each block takes. broadcast: b is small.
template <class Join>
__global__ void __launch_bounds__(kThreads)
    range_of_pairs(const uint8_t* a, const uint8_t* b, int64_t n, bool aligned, bool broadcast, Broadcast small,
                   BinaryParams p, Ends<float>* partial) {
  await_previous();
  const float scale_a = *p.scale_a, scale_b = *p.scale_b;
  const int32_t zero_a = *p.zero_a, zero_b = *p.zero_b;
  Ends<float> ends = no_ends<float>();
  for_share(n, aligned, [&](const Part& part) {
    const Eight<uint8_t> left = load(a, part), right = broadcast ? small.load(b, part) : load(b, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const float real_a = scale_a * static_cast<float>(left.at[k] - zero_a);
      const float real_b = scale_b * static_cast<float>(right.at[k] - zero_b);
      if (k < part.count) ends.add(Join()(real_a, real_b));
    }
  });
  keep_ends(ends, partial);
}

template <class Join>
void pair_range(const char* kernel, const uint8_t* a, const uint8_t* b, int64_t n, bool broadcast,
                const Broadcast& small, const BinaryParams& p, double* ends, void* scratch, cudaStream_t stream) {
  require(n > 0, kernel, "no elements have no range");
  const int64_t blocks = share_blocks(n);
  const bool whole = broadcast ? aligned(a) : aligned(a, b);
  auto* partial = static_cast<Ends<float>*>(scratch);
  launch_kernel(kernel, range_of_pairs<Join>, static_cast<unsigned>(blocks), kThreads, 0, stream, a, b, n, whole,
                broadcast, small, p, partial);
  join_ends(kernel, partial, blocks, ends, stream);
}

size_t pair_range_scratch(int64_t n) { return static_cast<size_t>(share_blocks(n)) * sizeof(Ends<float>); }

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
  await_previous();
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

size_t add_range_scratch(int64_t n) { return pair_range_scratch(n); }

void add_range(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& p, double* ends, void* scratch,
               cudaStream_t stream) {
  pair_range<SumOfReals>("add_range", a, b, n, false, {}, p, ends, scratch, stream);
}

size_t mul_range_scratch(int64_t batch, int64_t pixels, int64_t channels) {
  return pair_range_scratch(batch * pixels * channels);
}

void mul_range(const uint8_t* a, const uint8_t* b, int64_t batch, int64_t pixels, int64_t channels, bool broadcast,
               const BinaryParams& p, double* ends, void* scratch, cudaStream_t stream) {
  pair_range<ProductOfReals>("mul_range", a, b, batch * pixels * channels, broadcast, {pixels, channels}, p, ends,
                             scratch, stream);
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
