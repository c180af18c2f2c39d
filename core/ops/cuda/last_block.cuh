// One launch for sums of blocks and what is made of them: the last block to arrive goes on. Internal to core/ops/cuda.
#pragma once

#include <cstdint>

namespace qat::ops::cuda {

/// For all threads of a block: whether `count` blocks have been here, this one the last. It sees what the others wrote
/// before, and leaves *arrived as it was: 0.
__device__ inline bool is_last_block(int32_t* arrived, int count) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(arrived, 1) == count - 1;
    if (last) *arrived = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace qat::ops::cuda
