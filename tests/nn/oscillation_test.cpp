#include "core/nn/oscillation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace qat::nn {
namespace {

using at::Tensor;

Tensor codes(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).to(at::kChar); }

// Algorithm 1 with m = 0.5: weight 0 flips between 3 and 4, weight 1 climbs, weight 2 rests, weight 3 jumps back once.
TEST(OscillationTracker, ByHand) {
  OscillationTracker tracker({4});
  const std::vector<std::vector<int64_t>> steps{{3, 0, 5, -127}, {4, 1, 5, 127}, {3, 2, 5, -127}, {4, 3, 5, -127}};
  const std::vector<std::vector<double>> frequencies{{0, 0, 0, 0}, {0, 0, 0, 0}, {0.5, 0, 0, 0.5}, {0.75, 0, 0, 0.25}};
  for (size_t i = 0; i < steps.size(); ++i) {
    tracker.update(codes(steps[i]), 0.6, 0.5);
    EXPECT_TRUE(at::equal(tracker.frequency(), at::tensor(frequencies[i]).to(at::kFloat))) << tracker.frequency();
    EXPECT_EQ(tracker.frozen().any().item<bool>(), i == 3);
  }
  // The average before the last step: 3, then (3 + 4) / 2, then (3.5 + 3) / 2 = 3.25.
  EXPECT_EQ(tracker.frozen()[0].item<bool>(), true);
  EXPECT_EQ(tracker.frozen_codes()[0].item<int>(), 3);
  tracker.update(codes({4, 4, 5, -127}), 0.6, 0.5);
  EXPECT_EQ(tracker.frozen_codes()[0].item<int>(), 3) << "frozen for good";
  EXPECT_EQ(tracker.frozen().sum().item<int64_t>(), 1);
}

}  // namespace
}  // namespace qat::nn
