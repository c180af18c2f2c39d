#include "core/ops/fold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/ops/requantize.h"

namespace qat::ops {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// One channel of depth 2 with numbers that are easy by hand: sigma = 2, k = gamma / 2.
struct OneChannel {
  int8_t codes[2] = {100, -7};
  float weight_scale = 0.25f, conv_bias = 1.5f, gamma = 1.0f, beta = 3.0f, mean = 0.5f, var = 3.5f;
  float input_scale = 0.125f;
  double eps = 0.5;

  FoldInput input() const {
    return {.channels = 1,
            .depth = 2,
            .codes = codes,
            .weight_scale = &weight_scale,
            .conv_bias = &conv_bias,
            .gamma = &gamma,
            .beta = &beta,
            .running_mean = &mean,
            .running_var = &var,
            .eps = eps,
            .input_scale = input_scale};
  }
  Folded folded() const { return fold(input(), "layer1.conv"); }
};

TEST(Fold, NumbersByHand) {
  // k = 1 / 2; b = 3 + (1.5 - 0.5) / 2 = 3.5; s = 0.125; s_b = 1/64; B = 224.
  const Folded f = OneChannel().folded();
  EXPECT_THAT(f.codes, ElementsAre(100, -7));
  EXPECT_THAT(f.scale, ElementsAre(0.125f));
  EXPECT_THAT(f.bias, ElementsAre(224));
  EXPECT_THAT(f.k, ElementsAre(0.5));
  EXPECT_EQ(f.raised, 0);
  EXPECT_THAT(multipliers(f.scale, 0.125f, 0.5f), ElementsAre(1.0f / 32));
}

TEST(Fold, NegativeGammaFlipsTheCodes) {
  // k = -1; b = 3 - 1 = 2; s = 0.25; s_b = 1/32; B = 64.
  OneChannel c;
  c.gamma = -2.0f;
  const Folded f = c.folded();
  EXPECT_THAT(f.codes, ElementsAre(-100, 7));
  EXPECT_THAT(f.scale, ElementsAre(0.25f));
  EXPECT_THAT(f.bias, ElementsAre(64));
  EXPECT_THAT(f.k, ElementsAre(-1.0));
}

TEST(Fold, FlippedLowestCodeOfFewBitsIsHeldAndOf8BitsRefused) {
  OneChannel c;
  c.gamma = -2.0f;
  c.codes[0] = -8;  // 4 bits
  EXPECT_THAT(c.folded().codes, ElementsAre(8, 7));
  c.codes[0] = -128;
  EXPECT_THROW(c.folded(), Error);
}

TEST(Fold, WithoutBatchNormTheBiasIsRoundedToEven) {
  // s_b = 1/32; 1.515625 / s_b = 48.5 ties to 48.
  OneChannel c;
  c.conv_bias = 1.515625f;
  FoldInput in = c.input();
  in.gamma = in.beta = in.running_mean = in.running_var = nullptr;
  Folded f = fold(in, "fc");
  EXPECT_THAT(f.codes, ElementsAre(100, -7));
  EXPECT_THAT(f.scale, ElementsAre(0.25f));
  EXPECT_THAT(f.bias, ElementsAre(48));
  EXPECT_THAT(f.k, ElementsAre(1.0));
  in.conv_bias = nullptr;
  f = fold(in, "fc");
  EXPECT_THAT(f.bias, ElementsAre(0));
  EXPECT_EQ(f.raised, 0);
}

TEST(Fold, ZeroGammaKeepsBetaByRaisingTheScale) {
  // b = beta = 3; floor = 3 / (2^-3 * 2^30) = 3 * 2^-27; c = 0; s_b = 3 * 2^-30; B = 2^30.
  OneChannel c;
  c.gamma = 0.0f;
  Folded f = c.folded();
  EXPECT_THAT(f.codes, ElementsAre(0, 0));
  EXPECT_THAT(f.scale, ElementsAre(3 * 0x1p-27f));
  EXPECT_THAT(f.bias, ElementsAre(1 << 30));
  EXPECT_EQ(f.raised, 1);
  // Nothing at all: the floor is 2^-100 / s_x.
  c.beta = 0.0f;
  f = c.folded();
  EXPECT_THAT(f.scale, ElementsAre(0x1p-97f));
  EXPECT_THAT(f.bias, ElementsAre(0));
  EXPECT_EQ(f.raised, 1);
}

TEST(Fold, TinyGammaRescalesTheCodes) {
  // k = 2^-31, b = 4 + 2^-31; floor = fl32(b * 2^-27) = 2^-25, s = 2^-33: c = rne(code / 256).
  OneChannel c;
  c.gamma = 0x1p-30f;
  c.beta = 4.0f;
  const Folded small = c.folded();
  EXPECT_THAT(small.scale, ElementsAre(0x1p-25f));
  EXPECT_THAT(small.codes, ElementsAre(0, 0));
  EXPECT_THAT(small.bias, ElementsAre(1 << 30));
  // k = 2^-24, s = 2^-26: half of the floor; 50 and -3.5, which ties to -4.
  c.gamma = 0x1p-23f;
  const Folded half = c.folded();
  EXPECT_THAT(half.scale, ElementsAre(0x1p-25f));
  EXPECT_THAT(half.codes, ElementsAre(50, -4));
  EXPECT_EQ(half.raised, 1);
}

TEST(Fold, HugeBetaRaisesTheScaleInsteadOfSaturating) {
  // floor = 2^40 / (2^-3 * 2^30) = 2^13 over s = 2^-3: every code becomes 0, B = 2^30.
  OneChannel c;
  c.beta = 0x1p40f;
  const Folded f = c.folded();
  EXPECT_THAT(f.scale, ElementsAre(0x1p13f));
  EXPECT_THAT(f.codes, ElementsAre(0, 0));
  EXPECT_THAT(f.bias, ElementsAre(1 << 30));
}

template <class Change>
void expect_refused(const Change& change, const std::string& what) {
  OneChannel c;
  change(c);
  try {
    c.folded();
    ADD_FAILURE() << "not refused: " << what;
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("layer1.conv"), HasSubstr(what)));
  }
}

TEST(Fold, RefusesNumbersThatAreNotFiniteAndNamesLayerAndChannel) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  expect_refused([&](OneChannel& c) { c.gamma = nan; }, "gamma of channel 0");
  expect_refused([&](OneChannel& c) { c.beta = inf; }, "beta of channel 0");
  expect_refused([&](OneChannel& c) { c.mean = nan; }, "mean of channel 0");
  expect_refused([&](OneChannel& c) { c.var = inf; }, "variance of channel 0");
  expect_refused([&](OneChannel& c) { c.var = -1.0f; }, "channel 0");
  expect_refused([&](OneChannel& c) { c.conv_bias = -inf; }, "bias of channel 0");
  expect_refused([&](OneChannel& c) { c.weight_scale = nan; }, "weight scale of channel 0");
  expect_refused([&](OneChannel& c) { c.weight_scale = 0.0f; }, "weight scale of channel 0");
  expect_refused([&](OneChannel& c) { c.input_scale = 0.0f; }, "input scale");
  expect_refused([&](OneChannel& c) { c.weight_scale = 3e38f, c.gamma = 100.0f; }, "channel 0");
  expect_refused([&](OneChannel& c) { c.eps = nan; }, "eps");
}

TEST(Fold, RefusesHalfABatchNorm) {
  OneChannel c;
  FoldInput in = c.input();
  in.running_var = nullptr;
  EXPECT_THROW(fold(in, "conv"), Error);
  in = c.input();
  in.gamma = nullptr;
  EXPECT_THROW(fold(in, "conv"), Error);
}

/// Codes by fold() and requantize() against batch norm in double on the same quantized weights and inputs.
TEST(Fold, CodesAreWithinOneOfBatchNormInDouble) {
  const float gammas[] = {0.0f,   1e-20f, -1e-20f, 1e-12f, -1e-10f, 1e-8f, -1e-7f, 1e-6f,
                          -1e-5f, 1e-5f,  1e-3f,   -0.1f,  1.0f,    -2.0f, 0.5f,   3.0f};
  constexpr int64_t kChannels = std::size(gammas), kDepth = 72, kRows = 400;
  const float s_x = 0.02f, s_y = 0.05f;
  const int32_t z_x = 131;
  const CodeRange range{.lo = 0, .hi = 255, .zero_point = 120};
  std::mt19937 random(3);
  std::uniform_int_distribution<int> weight(-127, 127), input(0, 255);
  std::uniform_real_distribution<float> unit(-1.0f, 1.0f);
  std::vector<int8_t> codes(kChannels * kDepth);
  for (auto& c : codes) c = static_cast<int8_t>(weight(random));
  std::vector<float> s_w(kChannels), bias(kChannels), beta(kChannels), mean(kChannels), var(kChannels);
  for (int64_t c = 0; c < kChannels; ++c) {
    s_w[c] = 0.004f + 0.003f * unit(random);
    bias[c] = unit(random), beta[c] = 4.0f * unit(random), mean[c] = unit(random), var[c] = 2.0f + unit(random);
  }
  const Folded f = fold({.channels = kChannels,
                         .depth = kDepth,
                         .codes = codes.data(),
                         .weight_scale = s_w.data(),
                         .conv_bias = bias.data(),
                         .gamma = gammas,
                         .beta = beta.data(),
                         .running_mean = mean.data(),
                         .running_var = var.data(),
                         .eps = 1e-5,
                         .input_scale = s_x},
                        "conv");
  EXPECT_GT(f.raised, 3);
  const std::vector<float> m = multipliers(f.scale, s_x, s_y);
  std::vector<int32_t> acc(kRows * kChannels);
  std::vector<double> expected(acc.size());
  for (int64_t r = 0; r < kRows; ++r) {
    int x[kDepth];
    for (int& v : x) v = input(random) - z_x;
    for (int64_t c = 0; c < kChannels; ++c) {
      int64_t raw = 0;
      for (int64_t i = 0; i < kDepth; ++i) {
        raw += x[i] * codes[c * kDepth + i];
        acc[r * kChannels + c] += x[i] * f.codes[c * kDepth + i];
      }
      const double convolved = static_cast<double>(raw) * s_x * s_w[c] + bias[c];
      const double normed = (convolved - mean[c]) / std::sqrt(var[c] + 1e-5) * gammas[c] + beta[c];
      expected[r * kChannels + c] = std::clamp<double>(std::nearbyint(normed / s_y) + range.zero_point, 0.0, 255.0);
    }
  }
  std::vector<uint8_t> y(acc.size());
  requantize(acc.data(), kRows, kChannels, f.bias.data(), m.data(), range, y.data());
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(y[i], expected[i], 1.0) << "gamma " << gammas[i % kChannels] << " beta " << beta[i % kChannels];
  }
  // Where gamma is 0, beta is all that is left, and it survives.
  EXPECT_EQ(y[0], std::nearbyint(beta[0] / static_cast<double>(s_y)) + range.zero_point);
  EXPECT_NE(y[0], range.zero_point);
}

}  // namespace
}  // namespace qat::ops
