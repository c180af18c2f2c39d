#include "core/ops/rounding.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "core/base/error.h"

namespace qat::ops {
namespace {

// Columns: half_even, half_up, half_down, half_away, floor, ceil, toward_zero.
struct Row {
  float t;
  std::array<float, 7> expected;
};

constexpr Row kRows[] = {
    {0.5f, {0, 1, 0, 1, 0, 1, 0}},
    {1.5f, {2, 2, 1, 2, 1, 2, 1}},
    {2.5f, {2, 3, 2, 3, 2, 3, 2}},
    {-0.5f, {0, 0, 0, -1, -1, 0, 0}},
    {-1.5f, {-2, -1, -1, -2, -2, -1, -1}},
    {-2.5f, {-2, -2, -2, -3, -3, -2, -2}},
    {0.49999997f, {0, 0, 0, 0, 0, 1, 0}},  // 0.49999997f + 0.5f is 1 in float32
    {-0.49999997f, {0, 0, 0, 0, -1, 0, 0}},
    {0.50000006f, {1, 1, 1, 1, 0, 1, 0}},
    {8388607.5f - 0.5f, {8388607, 8388607, 8388607, 8388607, 8388607, 8388607, 8388607}},
    {3.0f, {3, 3, 3, 3, 3, 3, 3}},
};

TEST(Rounding, Table) {
  const std::vector<std::string> names = deterministic_roundings();
  ASSERT_EQ(names.size(), 7u);
  for (const Row& row : kRows) {
    for (size_t i = 0; i < names.size(); ++i) {
      EXPECT_EQ(round_to(row.t, rounding_from(names[i])), row.expected[i]) << row.t << " " << names[i];
      EXPECT_EQ(round_to(static_cast<double>(row.t), rounding_from(names[i])), row.expected[i]) << row.t << names[i];
    }
  }
}

TEST(Rounding, WhatIsNotFiniteStays) {
  for (const std::string& name : deterministic_roundings()) {
    const Rounding mode = rounding_from(name);
    EXPECT_EQ(round_to(std::numeric_limits<float>::infinity(), mode), std::numeric_limits<float>::infinity()) << name;
    EXPECT_TRUE(std::isnan(round_to(std::numeric_limits<float>::quiet_NaN(), mode))) << name;
  }
}

TEST(Rounding, Names) {
  EXPECT_EQ(rounding_from("stochastic"), Rounding::kStochastic);
  EXPECT_EQ(roundings().size(), 8u);
  EXPECT_THROW(rounding_from("half"), Error);
}

TEST(Rounding, StochasticIsAFunctionOfItsKeyAndRightOnAverage) {
  EXPECT_EQ(round_stochastic(3.0f, 9, 4), 3.0f);
  int up = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const float y = round_stochastic(-1.75f, 1, i);
    EXPECT_EQ(y, round_stochastic(-1.75f, 1, i));
    ASSERT_TRUE(y == -1.0f || y == -2.0f);
    up += y == -1.0f;
  }
  EXPECT_NEAR(up, 2500, 150);  // standard deviation 43
}

}  // namespace
}  // namespace qat::ops
