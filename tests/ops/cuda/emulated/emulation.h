// What nvcc adds to C++, as far as the kernels use it, for the compiler of the CPU: they run as written, block after
// block, a fiber for each thread of a block. Included before each of their sources. No tensor cores, no assembly.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

namespace qat::ops::cuda::emulation {

struct Place {
  uint3 thread, block;
};
/// Of the thread that runs.
const Place& place();
/// Runs body as every thread of every block.
void run(dim3 grid, dim3 block, const std::function<void()>& body);
/// Until all threads of the block, or of the warp, that still run are here.
void join_block();
void join_warp();
/// 16 bytes of a thread of this warp.
void* mailbox(int lane);
int lane();

template <class T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= 16);
  std::memcpy(mailbox(lane()), &value, sizeof(T));
  join_warp();
  std::memcpy(&value, mailbox(from), sizeof(T));
  join_warp();
  return value;
}

}  // namespace qat::ops::cuda::emulation

#define threadIdx (qat::ops::cuda::emulation::place().thread)
#define blockIdx (qat::ops::cuda::emulation::place().block)

using std::max;
using std::min;

inline void __syncthreads() { qat::ops::cuda::emulation::join_block(); }

template <class T>
T __shfl_sync(unsigned, T value, int from, int width = 32) {
  const int lane = qat::ops::cuda::emulation::lane();
  return qat::ops::cuda::emulation::exchange(value, lane / width * width + from % width);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int bits) {
  return qat::ops::cuda::emulation::exchange(value, qat::ops::cuda::emulation::lane() ^ bits);
}

template <class T>
T __ldg(const T* value) {
  return *value;
}

/// NaN gives 0 there; the kernels clip before.
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }

namespace qat::ops::cuda {

template <class... Parameters, class... Arguments>
void launch_kernel(const char*, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t, cudaStream_t,
                   Arguments&&... arguments) {
  emulation::run(grid, block, [&] { kernel(arguments...); });
}

}  // namespace qat::ops::cuda
