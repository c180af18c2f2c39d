#include "core/ops/spread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/base/error.h"

namespace qat::ops {
namespace {

using testing::ElementsAre;

TEST(Spread, PutsTheFillBetweenPixelsAndAround) {
  const std::vector<uint8_t> x{1, 2, 3, 4};  // 2x2 of one channel
  SpreadGeometry g{.in_h = 2, .in_w = 2, .step_h = 2, .step_w = 3, .pad_top = 1, .pad_right = 1};
  ASSERT_EQ(g.out_h(), 4);
  ASSERT_EQ(g.out_w(), 5);
  std::vector<uint8_t> y(20);
  spread<uint8_t>(g, x.data(), 9, y.data());
  EXPECT_THAT(y, ElementsAre(9, 9, 9, 9, 9, 1, 9, 9, 2, 9, 9, 9, 9, 9, 9, 3, 9, 9, 4, 9));
}

TEST(Spread, TakesRowsAndColumnsAwayWherePaddingIsNegative) {
  const std::vector<int8_t> x{1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8};  // 2 images of 2x2, 2 channels
  const SpreadGeometry g{.batch = 2, .in_h = 2, .in_w = 2, .channels = 2, .step_h = 2, .pad_top = -1, .pad_left = -1};
  std::vector<int8_t> y(2 * 2 * 1 * 2);
  spread<int8_t>(g, x.data(), 0, y.data());
  EXPECT_THAT(y, ElementsAre(0, 0, 7, 8, 0, 0, -7, -8));
}

TEST(Spread, RefusesWhatLeavesNothing) {
  const uint8_t x = 1;
  uint8_t y = 0;
  EXPECT_THROW(spread<uint8_t>({.pad_top = -1}, &x, 0, &y), Error);
  EXPECT_THROW(spread<uint8_t>({.step_w = 0}, &x, 0, &y), Error);
}

}  // namespace
}  // namespace qat::ops
