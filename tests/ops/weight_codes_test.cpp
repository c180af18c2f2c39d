#include "core/ops/weight_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/ops/encode.h"
#include "core/ops/fake_quantize.h"
#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

struct Weights {
  Weights(int64_t channel_count, int64_t channel_depth, double spread) : channels(channel_count), depth(channel_depth) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0.0f, static_cast<float>(spread));
    for (int64_t c = 0; c < channels; ++c) scale.push_back(0.01f * static_cast<float>(1 + c % 5));
    for (int64_t i = 0; i < channels * depth; ++i) {
      x.push_back(i % 9 == 0 ? scale[i / depth] * (static_cast<float>(random() % 15) - 7.5f) : normal(random));
      g.push_back(normal(random));
    }
  }
  int64_t channels, depth;
  std::vector<float> x, g, scale;
};

TEST(EncodeWeights, CodesAreThoseOfEncodePerChannel) {
  for (const int64_t depth : {1, 15, 16, 33, 144}) {
    Weights w(6, depth, 0.2);
    if (depth > 15) w.x[3] = std::numeric_limits<float>::infinity(), w.x[7] = std::nanf("");
    for (const auto& [lo, hi] : {std::pair(-127, 127), std::pair(-8, 7)}) {
      std::vector<int8_t> expected(w.x.size()), codes(w.x.size());
      encode_per_channel(w.x.data(), w.channels, depth, w.scale.data(), lo, hi, expected.data());
      on_every_target([&, lo = lo, hi = hi] {
        encode_weights(w.x.data(), w.channels, depth, w.scale.data(), lo, hi, codes.data());
        EXPECT_EQ(codes, expected);
      });
    }
  }
}

TEST(EncodeWeights, DivideAroundTies) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> scales{1e-45f, 3e-39f, 2e38f, 1.0f, 0.1f};
  for (int i = 0; i < 60; ++i) scales.push_back(std::exp2(-12.0f + 0.2f * static_cast<float>(i)) * 1.037f);
  std::vector<float> x;
  for (const float scale : scales) {
    for (int code = -130; code < 130; ++code) {
      const float tie = (static_cast<float>(code) + 0.5f) * scale, below = std::nextafter(tie, -kInfinity);
      x.insert(x.end(), {tie, below, std::nextafter(below, -kInfinity), std::nextafter(tie, kInfinity)});
    }
  }
  const auto channels = static_cast<int64_t>(scales.size()), depth = static_cast<int64_t>(x.size()) / channels;
  std::vector<int8_t> expected(x.size()), codes(x.size());
  encode_per_channel(x.data(), channels, depth, scales.data(), -127, 127, expected.data());
  on_every_target([&] {
    encode_weights(x.data(), channels, depth, scales.data(), -127, 127, codes.data());
    EXPECT_EQ(codes, expected);
  });
}

TEST(EncodeWeights, TellWhetherACodeWasClipped) {
  const std::vector<float> scale{0.5f};
  int8_t codes[3];
  on_every_target([&] {
    const float inside[] = {3.7f, 0.0f, -4.2f};  // 7.4 and -8.4 round to 7 and -8
    EXPECT_FALSE(encode_weights(inside, 1, 3, scale.data(), -8, 7, codes));
    const float above[] = {0.0f, 3.8f, 0.0f};  // 7.6
    EXPECT_TRUE(encode_weights(above, 1, 3, scale.data(), -8, 7, codes));
    const float below[] = {0.0f, 0.0f, -4.3f};  // -8.6
    EXPECT_TRUE(encode_weights(below, 1, 3, scale.data(), -8, 7, codes));
  });
}

TEST(DequantizeWeights, AreCodesTimesTheirChannelsScale) {
  const int8_t codes[] = {-128, 3, 127, 0, -5, 7};
  const float scale[] = {0.5f, 0.1f};
  on_every_target([&] {
    std::vector<float> x(7, -1.0f);
    dequantize_weights(codes, 2, 3, scale, x.data());
    EXPECT_EQ(x, (std::vector<float>{-64.0f, 1.5f, 63.5f, 0.0f, -5 * 0.1f, 7 * 0.1f, -1.0f}));
  });
}

TEST(EncodeWeightsGradient, IsThatOfFakeQuantizeOnEveryTarget) {
  for (const int64_t depth : {1, 15, 16, 33, 144}) {
    const Weights w(6, depth, 0.08);
    const std::vector<int32_t> zero(6, 0);
    for (const bool by_code : {false, true}) {
      const Grid grid{
          .channels = 6, .inner = depth, .scale = w.scale.data(), .zero_point = zero.data(), .lo = -8, .hi = 7};
      std::vector<float> expected(w.x.size()), dx(w.x.size());
      std::vector<double> expected_scale(6), dscale(6), first;
      fake_quantize_gradient(w.x.data(), w.g.data(), grid,
                             {.mask = by_code ? GridGradient::Mask::kCode : GridGradient::Mask::kValue},
                             expected.data(), expected_scale.data(), nullptr);
      on_every_target([&] {
        encode_weights_gradient(w.x.data(), w.g.data(), 6, depth, w.scale.data(), -8, 7, by_code, dx.data(),
                                dscale.data());
        EXPECT_EQ(dx, expected);
        for (int c = 0; c < 6; ++c) EXPECT_NEAR(dscale[c], expected_scale[c], 1e-12);
        if (first.empty()) first = dscale;
        EXPECT_EQ(dscale, first);
      });
    }
  }
}

TEST(LargestMagnitudes, SeeSignsAndWhatIsNotFinite) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const float x[] = {1, -3, 2, -0.0f, 0, 0, nan, 9, -infinity, 4, -infinity, 5};
  on_every_target([&] {
    float largest[4];
    largest_magnitudes(x, 4, 3, largest);
    EXPECT_EQ(largest[0], 3);
    EXPECT_EQ(largest[1], 0);
    EXPECT_TRUE(std::isnan(largest[2]));
    EXPECT_EQ(largest[3], infinity);
  });
}

}  // namespace
}  // namespace qat::ops
