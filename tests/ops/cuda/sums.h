// Statistics of accumulators on the device, for the tests of what makes and reads them.
#pragma once

#include "core/ops/convolve.h"
#include "core/ops/cuda/statistics.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {

/// Of no values at first.
class DeviceSums {
 public:
  explicit DeviceSums(int64_t channels, int64_t shift = 0)
      : channels_(channels), words_(std::vector<unsigned long long>(ChannelSums::kWords * channels), shift) {}

  ChannelSums sums() const { return {words_.data(), channels_}; }

  void expect(const ops::ChannelStatistics& cpu) const {
    std::vector<unsigned long long> words = words_.host();
    const ChannelSums all{words.data(), channels_};
    ops::ChannelStatistics gpu;
    for (int64_t c = 0; c < channels_; ++c) {
      const IntegerSums sums = all.at(c);
      gpu.sum.push_back(static_cast<double>(sums.sum)), gpu.sum_squares.push_back(sums.sum_squares());
      gpu.min.push_back(sums.min), gpu.max.push_back(sums.max);
    }
    expect_equal(gpu.sum, cpu.sum);
    expect_equal(gpu.sum_squares, cpu.sum_squares);
    expect_equal(gpu.min, cpu.min);
    expect_equal(gpu.max, cpu.max);
  }

  void expect_untouched() const {
    expect_equal(words_.host(), std::vector<unsigned long long>(ChannelSums::kWords * channels_));
  }

 private:
  int64_t channels_;
  Array<unsigned long long> words_;
};

}  // namespace qat::ops::cuda
