#include "core/ops/table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qat::ops {
namespace {

TEST(table, is_quantized_function_of_dequantized_code) {
  const auto square = function_table<uint8_t>(0.5f, 10, 0.25f, {0, 255, 3}, [](float v) { return v * v; });
  ASSERT_EQ(square.size(), 256u);
  EXPECT_EQ(square[10], 3);     // 0
  EXPECT_EQ(square[12], 7);     // 1 / 0.25 + 3
  EXPECT_EQ(square[8], 7);      // (-1)^2
  EXPECT_EQ(square[11], 4);     // 0.25 / 0.25 + 3
  EXPECT_EQ(square[255], 255);  // saturated
  const auto sign = function_table<int8_t>(1.0f, 0, 1.0f, {-128, 127, 0}, [](float v) { return -v; });
  EXPECT_EQ(sign[0], 127);  // code -128 -> 128, saturated
  EXPECT_EQ(sign[128 + 5], -5);
}

TEST(table, concat_copies_equal_parameters_and_clips_to_the_range) {
  const auto same = concat_table<int8_t>(0.1f, 3, 0.1f, {-128, 127, 3});
  for (int i = 0; i < 256; ++i) EXPECT_EQ(same[i], i - 128);
  const auto narrow = concat_table<uint8_t>(0.1f, 0, 0.1f, {0, 15, 0});
  EXPECT_EQ(narrow[14], 14);
  EXPECT_EQ(narrow[200], 15);
  const auto other_zero = concat_table<uint8_t>(0.1f, 3, 0.1f, {0, 255, 5});
  EXPECT_EQ(other_zero[3], 5);
  EXPECT_EQ(other_zero[10], 12);
  const auto half = concat_table<uint8_t>(1.0f, 0, 2.0f, {0, 255, 0});
  EXPECT_EQ(half[5], 2);  // 2.5
  EXPECT_EQ(half[7], 4);  // 3.5
}

TEST(table, sigmoid_and_leaky_relu) {
  EXPECT_EQ(sigmoid(0.0f), 0.5f);
  EXPECT_EQ(sigmoid(-200.0f), 0.0f);  // 1e-87 is below float32's range
  EXPECT_EQ(sigmoid(1.0f), static_cast<float>(1.0 / (1.0 + std::exp(-1.0))));
  EXPECT_EQ(leaky_relu(3.0f, 0.1f), 3.0f);
  EXPECT_EQ(leaky_relu(-2.0f, 0.25f), -0.5f);
}

}  // namespace
}  // namespace qat::ops
