// Blocks that add to ChannelSums. Internal to core/ops/cuda.
#pragma once

#include "core/ops/cuda/statistics.h"

namespace qat::ops::cuda {

/// The block's threads are kLines times kColumns, and each has sums of its column: their sum is added to a channel, or
/// nowhere without one (-1). shared: of all threads; whoever used that memory before has done so.
template <int kLines, int kColumns>
__device__ void add_columns(const IntegerSums& mine, IntegerSums* shared, int64_t channel, const ChannelSums& sums) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = mine;
  __syncthreads();
  if (thread >= kColumns || channel < 0) return;
  IntegerSums all = mine;
  for (int line = 1; line < kLines; ++line) all.join(shared[line * kColumns + thread]);
  unsigned long long* word = sums.words + channel;
  atomicAdd(word, static_cast<unsigned long long>(all.sum));
  atomicAdd(word + sums.channels, all.low);
  if (all.high != 0) atomicAdd(word + 2 * sums.channels, all.high);
  atomicMax(word + 3 * sums.channels, static_cast<unsigned long long>(int64_t{INT32_MAX} - all.min));
  atomicMax(word + 4 * sums.channels, static_cast<unsigned long long>(all.max - int64_t{INT32_MIN}));
}

}  // namespace qat::ops::cuda
