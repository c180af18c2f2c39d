#include "core/ops/fake_quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/base/random.h"
#include "core/ops/encode.h"

namespace qat::ops {
namespace {

using Mask = GridGradient::Mask;

struct Result {
  std::vector<float> dx;
  std::vector<double> dscale, doffset;
};

Result gradient(const std::vector<float>& x, const std::vector<float>& g, const Grid& grid, const GridGradient& rule) {
  Result r{std::vector<float>(x.size()), std::vector<double>(grid.channels), std::vector<double>(grid.channels)};
  fake_quantize_gradient(x.data(), g.data(), grid, rule, r.dx.data(), r.dscale.data(), r.doffset.data());
  return r;
}

// s = 0.5, z = 2, codes 0 .. 7: values -1 .. 2.5
const float kScale = 0.5f;
const int32_t kZero = 2;
const std::vector<float> kX{-3.0f, -1.2f, 0.3f, 1.05f, 2.7f, 9.0f};

Grid grid() { return {.inner = 6, .scale = &kScale, .zero_point = &kZero, .lo = 0, .hi = 7}; }

TEST(FakeQuantize, ValuesByHand) {
  std::vector<float> y(kX.size());
  fake_quantize(kX.data(), grid(), y.data());
  EXPECT_EQ(y, (std::vector<float>{-1, -1, 0.5f, 1, 2.5f, 2.5f}));
}

TEST(FakeQuantize, GradientsByHand) {
  const std::vector<float> g{1, 2, 4, 8, 16, 32};
  // t = -6, -2.4, 0.6, 2.1, 5.4, 18 in [-2, 5]
  const Result value = gradient(kX, g, grid(), {.mask = Mask::kValue});
  EXPECT_EQ(value.dx, (std::vector<float>{0, 0, 4, 8, 0, 0}));
  EXPECT_NEAR(value.dscale[0], (1 + 2) * -2 + 4 * 0.4 + 8 * -0.1 + (16 + 32) * 5, 1e-5);
  EXPECT_NEAR(value.doffset[0], 1 + 2 + 16 + 32, 1e-6);
  // Half a step wider: -2.4 and 5.4 round into the range.
  const Result code = gradient(kX, g, grid(), {.mask = Mask::kCode});
  EXPECT_EQ(code.dx, (std::vector<float>{0, 2, 4, 8, 16, 0}));
  EXPECT_NEAR(code.dscale[0], -2 + 2 * 0.4 + 4 * 0.4 + 8 * -0.1 + 16 * -0.4 + 32 * 5, 1e-5);
  EXPECT_EQ(gradient(kX, g, grid(), {.mask = Mask::kNone}).dx, g);
}

TEST(FakeQuantize, EwgsScalesByTheDiscretizationError) {
  const std::vector<float> g{1, 1, 1, -1, 1, 1};
  const Result r = gradient(kX, g, grid(), {.mask = Mask::kValue, .ewgs = 0.7});
  // 0.6 - 1 = -0.4, 2.1 - 2 = 0.1, in units of 7 steps
  EXPECT_NEAR(r.dx[2], 1 + 0.7 * -0.4 / 7, 1e-6);
  EXPECT_NEAR(r.dx[3], -(1 - 0.7 * 0.1 / 7), 1e-6);
}

TEST(FakeQuantize, ChannelsInTheMiddle) {
  const std::vector<float> scale{1, 0.5f};
  const std::vector<int32_t> zero{0, 0};
  const Grid g{
      .outer = 2, .channels = 2, .inner = 1, .scale = scale.data(), .zero_point = zero.data(), .lo = -2, .hi = 1};
  const std::vector<float> x{0.7f, 0.7f, -9.0f, -9.0f};
  std::vector<float> y(4);
  fake_quantize(x.data(), g, y.data());
  EXPECT_EQ(y, (std::vector<float>{1, 0.5f, -2, -1}));
  const Result r = gradient(x, {1, 2, 3, 4}, g, {});
  EXPECT_NEAR(r.dscale[0], 0.3 - 6, 1e-6);
  EXPECT_NEAR(r.dscale[1], 2 * 1 - 8, 1e-6);  // t = 1.4 is above: 1
}

TEST(FakeQuantize, WhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x{kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()};
  Grid g = grid();
  g.inner = 3;
  std::vector<float> y(3);
  for (const Rounding mode : {Rounding::kHalfEven, Rounding::kHalfAway, Rounding::kStochastic}) {
    g.rounding = mode;
    fake_quantize(x.data(), g, y.data());
    EXPECT_EQ(y, (std::vector<float>{2.5f, -1, -1}));
  }
  EXPECT_EQ(gradient(x, {1, 1, 1}, g, {.mask = Mask::kCode}).dx, (std::vector<float>{0, 0, 0}));
}

// The same values as encode and dequantize, bit for bit, ties included.
TEST(FakeQuantize, AgreesWithEncode) {
  CounterRng random(1);
  std::vector<float> x;
  for (int i = 0; i < 4096; ++i) x.push_back(static_cast<float>(random.normal() * 2));
  for (int i = -20; i < 20; ++i) x.push_back(static_cast<float>(i) * 0.25f);
  const auto n = static_cast<int64_t>(x.size());
  for (const float scale : {0.5f, 0.1f, 0.0371f}) {
    Grid g{.inner = n, .scale = &scale, .zero_point = &kZero, .lo = 0, .hi = 63};
    std::vector<float> y(x.size()), expected(x.size());
    fake_quantize(x.data(), g, y.data());
    std::vector<uint8_t> codes(x.size());
    encode(x.data(), n, scale, {0, 63, kZero}, codes.data());
    dequantize(codes.data(), n, scale, kZero, expected.data());
    EXPECT_EQ(y, expected);
  }
}

TEST(FakeQuantize, SixteenBits) {
  const float scale = 1.0f / 1024;
  const int32_t zero = 32768;
  const std::vector<float> x{1.0f, -40.0f, 40.0f, 3.0f / 2048};
  std::vector<float> y(4);
  fake_quantize(x.data(), {.inner = 4, .scale = &scale, .zero_point = &zero, .lo = 0, .hi = 65535}, y.data());
  EXPECT_EQ(y, (std::vector<float>{1, -32, 32767.0f / 1024, 2.0f / 1024}));
}

}  // namespace
}  // namespace qat::ops
