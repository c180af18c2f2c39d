// What the threads of a block make together. Internal to core/ops/cuda.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// All threads' values joined, for every thread, in an order that depends on kBlock, the block's threads, alone. T has
/// join(T).
template <int kBlock, class T>
__device__ T joined(const T& value) {
  static_assert((kBlock & (kBlock - 1)) == 0);
  __shared__ T values[kBlock];
  const int thread = static_cast<int>(threadIdx.x);
  values[thread] = value;
  for (int half = kBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) values[thread].join(values[thread + half]);
  }
  __syncthreads();
  const T result = values[0];
  __syncthreads();  // the memory may be used again
  return result;
}

template <class T>
struct Ends {
  __device__ void add(T value) { join({value, value}); }
  __device__ void join(const Ends& other) {
    lo = other.lo < lo ? other.lo : lo;
    hi = other.hi > hi ? other.hi : hi;
  }
  T lo, hi;
};

struct Sum {
  __device__ void join(const Sum& other) { value += other.value; }
  double value;
};

}  // namespace qat::ops::cuda
