#include "core/ops/encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

using testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <class Code>
std::vector<int> encoded(const std::vector<float>& x, float scale, CodeRange range) {
  std::vector<Code> codes(x.size());
  encode(x.data(), static_cast<int64_t>(x.size()), scale, range, codes.data());
  return {codes.begin(), codes.end()};
}

TEST(encode, ties_go_to_even_before_the_zero_point_is_added) {
  // x / 0.5 = 0.5, 1.5, 2.5, -0.5, -1.5 -> 0, 2, 2, 0, -2.
  const std::vector<float> x{0.25f, 0.75f, 1.25f, -0.25f, -0.75f};
  EXPECT_THAT(encoded<uint8_t>(x, 0.5f, {0, 255, 128}), ElementsAre(128, 130, 130, 128, 126));
  EXPECT_THAT(encoded<uint8_t>(x, 0.5f, {0, 255, 101}), ElementsAre(101, 103, 103, 101, 99));
  EXPECT_THAT(encoded<int8_t>(x, 0.5f, {-128, 127, -3}), ElementsAre(-3, -1, -1, -3, -5));
}

TEST(encode, saturates_and_gives_lo_for_nan) {
  const std::vector<float> x{1e30f, -1e30f, kInf, -kInf, kNan};
  EXPECT_THAT(encoded<uint8_t>(x, 0.5f, {0, 255, 37}), ElementsAre(255, 0, 255, 0, 0));
  EXPECT_THAT(encoded<int8_t>(x, 0.5f, {-127, 127, 0}), ElementsAre(127, -127, 127, -127, -127));
  EXPECT_THAT(encoded<uint8_t>(x, 0.5f, {0, 15, 8}), ElementsAre(15, 0, 15, 0, 0));
  // The quotient overflows to infinity.
  EXPECT_THAT(encoded<uint8_t>({1e30f, -1e30f}, 1e-30f, {0, 255, 128}), ElementsAre(255, 0));
}

TEST(encode, divides_rather_than_multiplies_by_the_reciprocal) {
  // 45.5 / 7 = 6.5 exactly, a tie: 6. fl32(1 / 7) is above 1/7 and its product with 45.5 above 6.5: that would be 7.
  EXPECT_THAT(encoded<uint8_t>({45.5f, 52.5f}, 7.0f, {0, 255, 0}), ElementsAre(6, 8));
}

TEST(encode, mask_is_closed_at_both_ends_and_unused_bits_are_zero) {
  // lo - z = -128, hi - z = 127; x / 0.5.
  const std::vector<float> x{-64.0f, -64.25f, 63.5f, 63.75f, 0.0f, kNan, kInf, 1.0f, 2.0f, -kInf};
  std::vector<uint8_t> codes(x.size()), inside(2, 0xff);
  encode(x.data(), static_cast<int64_t>(x.size()), 0.5f, {0, 255, 128}, codes.data(), inside.data());
  EXPECT_EQ(inside[0], 0b10010101);
  EXPECT_EQ(inside[1], 0b00000001);
}

TEST(encode, long_rows_agree_with_the_definition_on_every_target) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> x(70001);  // several pieces and a tail, enough for several threads
  for (float& v : x) v = normal(random);
  const CodeRange range{0, 255, 101};
  const float scale = 0.017f;
  on_every_target([&] {
    std::vector<uint8_t> codes(x.size()), inside((x.size() + 7) / 8, 0xaa);
    encode(x.data(), static_cast<int64_t>(x.size()), scale, range, codes.data(), inside.data());
    int64_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const float t = x[i] / scale;
      const int code = static_cast<int>(std::nearbyint(std::min(std::max(t, -101.0f), 154.0f))) + 101;
      const bool in = t >= -101.0f && t <= 154.0f;
      wrong += codes[i] != code || ((inside[i / 8] >> (i % 8)) & 1) != (in ? 1 : 0);
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(inside.back() >> (x.size() % 8), 0);
  });
}

TEST(encode_per_channel, uses_each_channel_s_scale) {
  const std::vector<float> x{1.0f, -0.5f, 100.0f, 1.0f, -0.5f, -100.0f};
  const std::vector<float> scale{1.0f, 0.25f};
  std::vector<int8_t> codes(6);
  encode_per_channel(x.data(), 2, 3, scale.data(), -7, 7, codes.data());
  EXPECT_THAT(codes, ElementsAre(1, 0, 7, 4, -2, -7));
}

TEST(dequantize, multiplies_the_centred_code) {
  const std::vector<uint8_t> u{0, 3, 255};
  std::vector<float> x(3);
  dequantize(u.data(), 3, 0.5f, 3, x.data());
  EXPECT_THAT(x, ElementsAre(-1.5f, 0.0f, 126.0f));
  const std::vector<int8_t> s{-128, 0, 127};
  dequantize(s.data(), 3, 0.25f, -128, x.data());
  EXPECT_THAT(x, ElementsAre(0.0f, 32.0f, 63.75f));
  // One rounding: fl32(0.1f * 3) is 0.3 rounded up from the double product of the float 0.1.
  const std::vector<uint8_t> three{3};
  dequantize(three.data(), 1, 0.1f, 0, x.data());
  EXPECT_EQ(x[0], static_cast<float>(static_cast<double>(0.1f) * 3.0));
}

}  // namespace
}  // namespace qat::ops
