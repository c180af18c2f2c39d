#include "core/judges/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/base/error.h"

namespace qat::judges {
namespace {

TEST(Score, CountsLabelsAmongTheLargestLogits) {
  // Label 6 is the largest, the fifth, and the sixth of seven.
  const std::vector<float> logits{0, 1, 2, 3, 4, 5, 6,  //
                                  9, 8, 7, 6, 0, 0, 5,  //
                                  9, 8, 7, 6, 5, 0, 4};
  const std::vector<int64_t> labels{6, 6, 6};
  Score score;
  score.add(logits, labels);
  EXPECT_EQ(score.samples, 3);
  EXPECT_EQ(score.top1, 1);
  EXPECT_EQ(score.top5, 2);
  EXPECT_EQ(score.top1_fraction(), 1.0 / 3);
  score.add(std::vector<float>{1, 0}, std::vector<int64_t>{0});
  EXPECT_EQ(score.samples, 4);
  EXPECT_EQ(score.top5, 3);  // with two classes every label is among five
}

TEST(Score, OfEqualLogitsTheFirstCounts) {
  Score first, second;
  first.add(std::vector<float>{2, 2}, std::vector<int64_t>{0});
  second.add(std::vector<float>{2, 2}, std::vector<int64_t>{1});
  EXPECT_EQ(first.top1, 1);
  EXPECT_EQ(second.top1, 0);
}

TEST(Score, LossIsTheMeanCrossEntropy) {
  Score score;
  score.add(std::vector<float>{0, 0, 0, 0}, std::vector<int64_t>{3});
  EXPECT_DOUBLE_EQ(score.loss(), std::log(4.0));
  score.add(std::vector<float>{1000, 0}, std::vector<int64_t>{1});  // exp would overflow
  EXPECT_DOUBLE_EQ(score.loss(), (std::log(4.0) + 1000) / 2);
}

TEST(Score, WhatIsNotANumberIsWrong) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Score score;
  score.add(std::vector<float>{nan, 0, nan, nan}, std::vector<int64_t>{0, 1});
  EXPECT_EQ(score.top1, 0);
  EXPECT_TRUE(std::isnan(score.loss()));
  EXPECT_THROW(score.add(std::vector<float>{1, 2}, std::vector<int64_t>{2}), Error);
  EXPECT_EQ(Score().loss(), 0);
}

}  // namespace
}  // namespace qat::judges
