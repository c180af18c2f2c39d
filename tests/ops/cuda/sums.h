// Statistics of accumulators on the device, for the tests of what makes and reads them.
#pragma once

#include <string>
#include <vector>

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

  /// Names the first channel whose numbers are others; "" if all are the same.
  std::string difference(const ops::ChannelStatistics& cpu) const {
    std::vector<unsigned long long> words = words_.host();
    const ChannelSums all{words.data(), channels_};
    for (int64_t c = 0; c < channels_; ++c) {
      const IntegerSums sums = all.at(c);
      const auto i = static_cast<size_t>(c);
      if (static_cast<double>(sums.sum) == cpu.sum.at(i) && sums.sum_squares() == cpu.sum_squares.at(i) &&
          sums.min == cpu.min.at(i) && sums.max == cpu.max.at(i)) {
        continue;
      }
      return fmt::format("channel {}: sum {} squares {} ends {} {}, expected {} {} {} {}", c, sums.sum,
                         sums.sum_squares(), sums.min, sums.max, cpu.sum[i], cpu.sum_squares[i], cpu.min[i],
                         cpu.max[i]);
    }
    return "";
  }

  void expect_untouched() const {
    expect_equal(words_.host(), std::vector<unsigned long long>(ChannelSums::kWords * channels_));
  }

 private:
  int64_t channels_;
  Array<unsigned long long> words_;
};

}  // namespace qat::ops::cuda
