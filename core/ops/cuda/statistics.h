// Exact statistics of accumulators on the GPU: core/ops/exact_sums.h of each channel.
#pragma once

#include "core/ops/cuda/types.h"
#include "core/ops/exact_sums.h"

namespace qat::ops::cuda {

/// Sums of channels in the form that atomic additions make. Number after number, not channel after channel: blocks that
/// finish some neighbours at once touch few places of memory.
struct ChannelSums {
  static constexpr int64_t kWords = 5;  // of a channel

  QAT_ON_BOTH IntegerSums at(int64_t c) const {
    const auto word = [&](int64_t number) { return words[number * channels + c]; };
    return {.sum = static_cast<int64_t>(word(0)),
            .low = word(1),
            .high = word(2),
            .min = static_cast<int32_t>(INT32_MAX - static_cast<int64_t>(word(3))),
            .max = static_cast<int32_t>(INT32_MIN + static_cast<int64_t>(word(4)))};
  }

  unsigned long long* words = nullptr;  // [kWords][channels], as atomicAdd takes them; zeros: of no values
  int64_t channels = 0;
};

/// Adds those of acc [rows][sums.channels].
void channel_statistics(const int32_t* acc, int64_t rows, const ChannelSums& sums, cudaStream_t stream);

}  // namespace qat::ops::cuda
