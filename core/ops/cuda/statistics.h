// Exact statistics of accumulators on the GPU; see core/ops/convolve.h. Sums are int64, squares doubles in the CPU's
// order.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// ops::ChannelStatistics on the device, each [channels].
struct ChannelStatistics {
  double* sum = nullptr;
  double* sum_squares = nullptr;
  int32_t* min = nullptr;
  int32_t* max = nullptr;
};

/// Bytes of scratch memory that channel_statistics needs; aligned to 16.
size_t channel_statistics_scratch(int64_t rows, int64_t channels);

void channel_statistics(const int32_t* acc, int64_t rows, int64_t channels, const ChannelStatistics& statistics,
                        void* scratch, cudaStream_t stream);

}  // namespace qat::ops::cuda
