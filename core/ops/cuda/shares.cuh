// Elements shared by a limited number of blocks, each of which makes one range or one sum of its share, and the block
// that joins them. The shares depend on the number of elements alone. Internal to core/ops/cuda.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/ops/cuda/block.cuh"
#include "core/ops/cuda/eights.cuh"

namespace qat::ops::cuda {

inline constexpr int64_t kShares = 1024;  // blocks that an H100 runs at once

/// Blocks for n elements, `each` of them a thread at once.
inline int64_t share_blocks(int64_t n, int each = kEight) {
  return std::min(divide_up(n, int64_t{kThreads} * each), kShares);
}

/// Calls body(part) for this block's share of n elements.
template <class Body>
__device__ void for_share(int64_t n, bool aligned, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kEight;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kEight; i < n; i += step) {
    body(Part{i, n - i < kEight ? static_cast<int>(n - i) : kEight, aligned});
  }
}

template <class T>
__device__ Ends<T> no_ends() {
  return {static_cast<T>(INFINITY), -static_cast<T>(INFINITY)};
}

/// partial[block] = the ends of all its threads.
template <class T>
__device__ void keep_ends(const Ends<T>& mine, Ends<T>* partial) {
  const Ends<T> all = joined<kThreads>(mine);
  if (threadIdx.x == 0) partial[blockIdx.x] = all;
}

template <class T>
__global__ void __launch_bounds__(kThreads) join_ends_kernel(const Ends<T>* partial, int64_t count, double* ends) {
  await_previous();
  Ends<T> mine = no_ends<T>();
  for (int64_t i = threadIdx.x; i < count; i += kThreads) mine.join(partial[i]);
  const Ends<T> all = joined<kThreads>(mine);
  if (threadIdx.x > 0) return;
  ends[0] = all.lo;
  ends[1] = all.hi;
}

/// ends [2] = those of all blocks.
template <class T>
void join_ends(const char* kernel, const Ends<T>* partial, int64_t count, double* ends, cudaStream_t stream) {
  launch_kernel(kernel, join_ends_kernel<T>, 1, kThreads, 0, stream, partial, count, ends);
}

/// partial[index] = the sum of all threads of the block.
__device__ inline void keep_sum(double mine, double* partial, int64_t index) {
  const Sum all = joined<kThreads>(Sum{mine});
  if (threadIdx.x == 0) partial[index] = all.value;
}

static __global__ void __launch_bounds__(kThreads)
    join_sums_kernel(const double* partial, int64_t count, bool joins, double* total) {
  await_previous();
  Sum mine{0.0};
  for (int64_t i = threadIdx.x; i < count; i += kThreads) mine.value += partial[i];
  const Sum all = joined<kThreads>(mine);
  if (threadIdx.x == 0) *total = joins ? *total + all.value : all.value;
}

/// total [1] = the sum of all blocks' sums; joins: it is added to what was there.
inline void join_sums(const char* kernel, const double* partial, int64_t count, bool joins, double* total,
                      cudaStream_t stream) {
  launch_kernel(kernel, join_sums_kernel, 1, kThreads, 0, stream, partial, count, joins, total);
}

}  // namespace qat::ops::cuda
