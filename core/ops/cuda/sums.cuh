// Sums in the order of the CPU's kernels (core/ops/periods.h): of chunks, of places or lanes inside a chunk, one after
// another. Double additions do not commute with rounding, so the parallel work is what the CPU's chunks allow: a thread
// a place. Loads run ahead of the additions. Internal to core/ops/cuda.
#pragma once

#include <cstdint>

#include "core/ops/cuda/eights.cuh"
#include "core/ops/periods.h"

namespace qat::ops::cuda {

/// How many loads a thread has in flight.
inline constexpr int kAhead = 16;

/// Calls add(read(i)) for i = begin, begin + stride, ... below end, in this order.
template <class Read, class Add>
__device__ void in_order(int64_t begin, int64_t end, int64_t stride, const Read& read, const Add& add) {
  int64_t i = begin;
  for (; i + (kAhead - 1) * stride < end; i += kAhead * stride) {
    decltype(read(i)) ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) ahead[k] = read(i + k * stride);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) add(ahead[k]);
  }
  for (; i < end; i += stride) add(read(i));
}

/// The chunks of a matrix [rows][channels].
struct Chunks {
  Chunks(int64_t rows, int64_t channels)
      : n(rows * channels),
        channels(channels),
        period(period_of(channels)),
        chunk(chunk_of(period)),
        count(divide_up(n, chunk)) {}
  int64_t n, channels, period, chunk, count;
};

/// partial [chunks][period]: what one place of one chunk sums.
template <class Sums, class Read>
__global__ void sum_places(Chunks chunks, Read read, Sums* partial) {
  const int64_t place = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (place >= chunks.period) return;
  const int64_t begin = blockIdx.x * chunks.chunk;
  const int64_t end = begin + chunks.chunk < chunks.n ? begin + chunks.chunk : chunks.n;
  const int64_t c = remainder(place, chunks.channels);
  Sums sums;
  in_order(
      begin + place, end, chunks.period, [&](int64_t i) { return read(i, c); },
      [&](const auto& value) { sums.add(value); });
  partial[blockIdx.x * chunks.period + place] = sums;
}

template <class Sums, class Write>
__global__ void join_places(Chunks chunks, const Sums* partial, Write write) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= chunks.channels) return;
  Sums sums;
  in_order(
      c, chunks.count * chunks.period, chunks.channels, [&](int64_t i) { return partial[i]; },
      [&](const Sums& part) { sums.join(part); });
  write(c, sums);
}

/// Makes one Sums a channel of read(element, channel) and calls write(channel, sums) on the GPU. scratch holds
/// count * period Sums.
template <class Sums, class Read, class Write>
void sum_channels(const char* kernel, const Chunks& chunks, const Read& read, const Write& write, void* scratch,
                  cudaStream_t stream) {
  const auto width = static_cast<unsigned>(chunks.period < 128 ? chunks.period : 128);
  const int64_t columns = divide_up(chunks.period, width);
  require(chunks.count <= INT32_MAX && columns <= 65535, kernel, "the matrix is too large");
  auto* partial = static_cast<Sums*>(scratch);
  if (chunks.count > 0) {
    const dim3 grid(static_cast<unsigned>(chunks.count), static_cast<unsigned>(columns));
    sum_places<Sums><<<grid, width, 0, stream>>>(chunks, read, partial);
    check_launch(kernel);
  }
  const auto blocks = static_cast<unsigned>(divide_up(chunks.channels, 32));
  if (blocks == 0) return;
  join_places<Sums><<<blocks, 32, 0, stream>>>(chunks, partial, write);
  check_launch(kernel);
}

/// A term of a scale's gradient; the product is exact in double.
struct Term {
  float g, value;
  __device__ double product() const { return static_cast<double>(g) * static_cast<double>(value); }
};

/// Lane l of a chunk sums its elements l, l + kLanes, ... of read(element). kJoin: partial [chunks] gets the sums of
/// the lanes in order, else partial [chunks][kLanes] the lanes themselves.
template <int kLanes, bool kJoin, class Read>
__global__ void __launch_bounds__(128) sum_lanes(int64_t n, int64_t chunk, Read read, double* partial) {
  constexpr int kGroups = 128 / kLanes;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kGroups + threadIdx.x / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t begin = index * chunk, end = begin + chunk < n ? begin + chunk : n;
  double sum = 0;
  in_order(begin + lane, end, kLanes, read, [&](const Term& term) { sum += term.product(); });
  if constexpr (kJoin) {
    double joined = 0;
#pragma unroll
    for (int l = 0; l < kLanes; ++l) joined += __shfl_sync(0xffffffff, sum, l, kLanes);
    if (lane == 0 && begin < n) partial[index] = joined;
  } else {
    if (begin < n) partial[index * kLanes + lane] = sum;
  }
}

/// total = values[0] + values[1] + ..., one chain: a block stages the values for its first thread.
inline constexpr int kStaged = 2048;
static __global__ void __launch_bounds__(kThreads) sum_chain(const double* values, int64_t count, double* total) {
  __shared__ double staged[2][kStaged];
  const auto stage = [&](int64_t tile, int first, int threads) {
    for (int64_t k = first; k < kStaged; k += threads) {
      const int64_t i = tile * kStaged + k;
      if (i < count) staged[tile % 2][k] = values[i];
    }
  };
  stage(0, static_cast<int>(threadIdx.x), kThreads);
  __syncthreads();
  double sum = 0;
  for (int64_t tile = 0; tile * kStaged < count; ++tile) {
    if (threadIdx.x >= 32) {
      stage(tile + 1, static_cast<int>(threadIdx.x) - 32, kThreads - 32);
    } else if (threadIdx.x == 0) {
      const double* now = staged[tile % 2];
      const int64_t left = count - tile * kStaged < kStaged ? count - tile * kStaged : kStaged;
      in_order(
          0, left, 1, [&](int64_t k) { return now[k]; }, [&](double value) { sum += value; });
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = sum;
}

/// Sums all chunks of n elements into total [1]; partial as for sum_lanes.
template <int kLanes, bool kJoin, class Read>
void sum_terms(const char* kernel, int64_t n, int64_t chunk, const Read& read, double* partial, double* total,
               cudaStream_t stream) {
  const int64_t chunks = divide_up(n, chunk), blocks = divide_up(chunks * kLanes, 128);
  require(blocks <= INT32_MAX, kernel, "too many elements");
  if (blocks > 0) {
    sum_lanes<kLanes, kJoin><<<static_cast<unsigned>(blocks), 128, 0, stream>>>(n, chunk, read, partial);
    check_launch(kernel);
  }
  sum_chain<<<1, kThreads, 0, stream>>>(partial, kJoin ? chunks : chunks * kLanes, total);
  check_launch(kernel);
}

}  // namespace qat::ops::cuda
