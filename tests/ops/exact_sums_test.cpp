#include "core/ops/exact_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace qat::ops {
namespace {

using Wide = unsigned __int128;

/// nearest_double() of a number, its lower part with some more than 32 bits.
double nearest(Wide value) {
  const auto high = static_cast<uint64_t>(value >> 32);
  const uint64_t more = std::min<uint64_t>(high, 12345);
  return nearest_double(high - more, (more << 32) + static_cast<uint32_t>(value));
}

TEST(IntegerSums, TheNearestDouble) {
  std::mt19937_64 random(1);
  for (int bits = 1; bits <= 94; ++bits) {
    for (int i = 0; i < 200; ++i) {
      const Wide value = (static_cast<Wide>(random()) << 64 | random()) >> (128 - bits);
      ASSERT_EQ(nearest(value), static_cast<double>(value)) << "of " << bits << " bits";
    }
  }
  EXPECT_EQ(nearest_double(0, 0), 0.0);
  EXPECT_EQ(nearest_double(0, UINT64_MAX), 0x1p64);
  EXPECT_EQ(nearest_double(1, UINT64_MAX), 0x1p64 + 0x1p32);  // the parts' sum has more bits than either
  EXPECT_EQ(nearest_double(UINT64_MAX, UINT64_MAX), 0x1p96 + 0x1p64);
}

TEST(IntegerSums, TiesGoToTheEvenOne) {
  for (int shift = 1; shift <= 40; ++shift) {
    const Wide half = Wide{1} << (shift - 1);
    for (const uint64_t whole : {uint64_t{1} << 52, (uint64_t{1} << 52) + 1, (uint64_t{1} << 53) - 1}) {
      const Wide tie = (Wide{whole} << shift) + half;
      const uint64_t even = whole + whole % 2;
      EXPECT_EQ(nearest(tie), std::ldexp(static_cast<double>(even), shift));
      EXPECT_EQ(nearest(tie + 1), std::ldexp(static_cast<double>(whole + 1), shift));
      EXPECT_EQ(nearest(tie - 1), std::ldexp(static_cast<double>(whole), shift));
    }
  }
}

TEST(IntegerSums, OfValuesInAnyOrder) {
  const std::vector<int32_t> values{INT32_MIN, INT32_MAX, INT32_MIN, 5, -1, 0, 65536, -65537, INT32_MIN, INT32_MIN};
  int64_t sum = 0;
  Wide squares = 0;
  IntegerSums forwards = IntegerSums::none(), halves[2] = {IntegerSums::none(), IntegerSums::none()};
  for (size_t i = 0; i < values.size(); ++i) {
    sum += values[i];
    squares += static_cast<Wide>(int64_t{values[i]} * values[i]);
    forwards.add(values[i]);
    halves[i % 2].add(values[values.size() - 1 - i]);
  }
  ASSERT_GT(squares, Wide{1} << 64);
  halves[0].join(halves[1]);
  halves[0].join(IntegerSums::none());
  for (const IntegerSums& found : {forwards, halves[0]}) {
    EXPECT_EQ(found.sum, sum);
    EXPECT_EQ(found.sum_squares(), static_cast<double>(squares));
    EXPECT_EQ(found.min, INT32_MIN);
    EXPECT_EQ(found.max, INT32_MAX);
  }
}

}  // namespace
}  // namespace qat::ops
