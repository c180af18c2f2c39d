// What uniform methods share: rounding modes, groups, EWGS, straight-through without clip, and naive.
#include "core/quant/uniform.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

QuantSpec weight(int bits, Granularity g = Granularity::kTensor, int64_t channels = 1, int64_t groups = 1) {
  return {.role = Role::kWeight, .bits = bits, .granularity = g, .channels = channels, .groups = groups};
}

TEST(Uniform, ParamsByHand) {
  using quant::Scheme;
  const auto affine = quant::choose_params(Scheme::kAffine, -1, 2.5, 0, 15, 8);
  EXPECT_DOUBLE_EQ(affine.scale, 3.5 / 15);
  EXPECT_EQ(affine.zero_point, 4);  // 4.29, even
  // 72.93 steps below zero become 72, and the step 1/72.5 of them: black pixels are not cut by most of a step.
  const auto image = quant::choose_params(Scheme::kAffine, -0.8102, 2.0227, 0, 255, 128);
  EXPECT_EQ(image.zero_point, 72);
  EXPECT_DOUBLE_EQ(image.scale, 0.8102 / 72.5);
  EXPECT_EQ(quant::choose_params(Scheme::kTorchAffine, -1.2, 2.3, 0, 15, 8).zero_point, 5);  // 5.14
  EXPECT_DOUBLE_EQ(quant::choose_params(Scheme::kTorchSymmetric, -1, 0.5, -128, 127, 0).scale, 1 / 127.5);
  EXPECT_DOUBLE_EQ(quant::choose_params(Scheme::kSymmetric, -1, 0.5, -128, 127, 0).scale, 1 / 127.0);
  EXPECT_DOUBLE_EQ(quant::choose_params(Scheme::kTorchFused, -1, 0.5, -128, 127, 0).scale, 1 / 128.0);
  EXPECT_EQ(quant::choose_params(Scheme::kTorchFused, -1, 0.5, -128, 127, 0).zero_point, 0);
  EXPECT_DOUBLE_EQ(quant::choose_params(Scheme::kTorchFused, 0.2, 0.5, -128, 127, 0).scale, 0.5 / 255);
  // Zero is always in the range.
  EXPECT_DOUBLE_EQ(quant::choose_params(Scheme::kAffine, 1, 3, 0, 255, 128).scale, 3.0 / 255);
  EXPECT_EQ(quant::choose_params(Scheme::kAffine, 1, 3, 0, 255, 128).zero_point, 0);
  for (const Scheme ours : {Scheme::kSymmetric, Scheme::kAffine}) {
    EXPECT_DOUBLE_EQ(quant::choose_params(ours, 0, 0, 0, 255, 128).scale, 1);
    EXPECT_EQ(quant::choose_params(ours, 0, 0, 0, 255, 128).zero_point, 128);
    EXPECT_DOUBLE_EQ(quant::choose_params(ours, 0, 1e-30, 0, 255, 128).scale, quant::kSmallestScale);
  }
  EXPECT_DOUBLE_EQ(quant::choose_params(Scheme::kTorchAffine, 0, 0, 0, 255, 0).scale, quant::kSmallestScale);
}

TEST(Uniform, GroupsShareAScale) {
  const at::Tensor w = at::tensor({1.0f, -7.0f, 0.5f, 14.0f, 3.5f, 0.1f}).view({6, 1});
  const auto q = started(make("minmax", weight(4, Granularity::kGroup, 6, 3)), w);
  EXPECT_TRUE(at::allclose(q->qparams().scale, at::tensor({1.0f, 2.0f, 0.5f})));
  const auto codes = q->quantize_weight(w);
  EXPECT_TRUE(at::allclose(codes.scale, at::tensor({1.0f, 1.0f, 2.0f, 2.0f, 0.5f, 0.5f})));
  EXPECT_TRUE(at::equal(codes.codes.flatten().to(at::kLong), at::tensor({1, -7, 0, 7, 7, 0}, at::kLong)));
  EXPECT_TRUE(at::equal(q->forward(w).flatten(), at::tensor({1.0f, -7.0f, 0.0f, 14.0f, 3.5f, 0.0f})));
  EXPECT_THROW(make("minmax", weight(4, Granularity::kGroup, 6, 4)), Error);
  EXPECT_THROW(make("lsq", {.bits = 4, .granularity = Granularity::kChannel}), Error) << "activations: one scale";
}

TEST(Uniform, RoundingOfWeights) {
  const at::Tensor w = at::tensor({7.0f, 2.5f, -2.5f, 1.2f, -1.2f});
  const auto rounded = [&](const std::string& mode) {
    return started(make("minmax", weight(4), "{round: " + mode + "}"), w)->forward(w);
  };
  EXPECT_TRUE(at::equal(rounded("half_even"), at::tensor({7.0f, 2.0f, -2.0f, 1.0f, -1.0f})));
  EXPECT_TRUE(at::equal(rounded("half_away"), at::tensor({7.0f, 3.0f, -3.0f, 1.0f, -1.0f})));
  EXPECT_TRUE(at::equal(rounded("half_up"), at::tensor({7.0f, 3.0f, -2.0f, 1.0f, -1.0f})));
  EXPECT_TRUE(at::equal(rounded("floor"), at::tensor({7.0f, 2.0f, -3.0f, 1.0f, -2.0f})));
  EXPECT_TRUE(at::equal(rounded("toward_zero"), at::tensor({7.0f, 2.0f, -2.0f, 1.0f, -1.0f})));
  EXPECT_THROW(make("minmax", {.bits = 4}, "{round: floor}"), Error) << "the target rounds activations";
  // Codes follow the mode.
  const auto q = started(make("minmax", weight(4), "{round: half_away}"), w.view({5, 1}));
  EXPECT_TRUE(at::equal(q->quantize_weight(w.view({5, 1})).codes.flatten().to(at::kLong),
                        at::tensor({7, 3, -3, 1, -1}, at::kLong)));
}

TEST(Uniform, StochasticRoundingIsRightOnAverageAndOffInEvaluation) {
  at::Tensor w = at::full({20001}, 0.3f);
  w[0] = 7.0f;  // step 1
  const auto q = started(make("minmax", weight(4), "{round: stochastic}"), w);
  EXPECT_EQ(q->forward(w)[1].item<float>(), 0.0f);
  q->train();
  at::manual_seed(5);
  const at::Tensor y = q->forward(w).slice(0, 1);
  EXPECT_NEAR(y.mean().item<double>(), 0.3, 0.01);  // standard error 0.0032
  EXPECT_TRUE(((y == 0).logical_or(y == 1)).all().item<bool>());
  at::manual_seed(5);
  EXPECT_TRUE(at::equal(q->forward(w).slice(0, 1), y)) << "the step's seed decides";
}

TEST(Uniform, StochasticRoundingOfOneElement) {
  EXPECT_EQ(ops::round_stochastic(3.0f, 9, 4), 3.0f);
  int up = 0;
  for (uint64_t i = 0; i < 10000; ++i) up += ops::round_stochastic(-1.75f, 1, i) == -1.0f;
  EXPECT_NEAR(up, 2500, 150);
}

// Lee et al. 2021, eq. 5, on x normalized to [0, 1]: g (1 + delta sign(g) (x_n - x_q)).
TEST(Uniform, EwgsByItsFormula) {
  const at::Tensor x = at::tensor({0.1f, 0.62f, 0.9f, 1.2f, -0.2f}), dy = at::tensor({1.0f, -2.0f, 0.5f, 3.0f, 3.0f});
  const auto q = make("minmax", {.bits = 2}, "{ewgs: 0.2}");
  q->observe(at::tensor({0.0f, 1.0f}));
  q->initialize();
  q->eval();
  // Levels 0, 1/3, 2/3, 1; errors x_n - x_q: 0.1, 0.62 - 2/3, -0.1
  const Passed p = pass(*q, x, dy);
  const at::Tensor expected =
      at::tensor({1 + 0.2 * 0.1, -2 * (1 - 0.2 * (0.62 - 2.0 / 3)), 0.5 * (1 - 0.2 * 0.1), 0.0, 0.0});
  EXPECT_TRUE(at::allclose(p.dx.to(at::kDouble), expected, 1e-6, 1e-6)) << p.dx;
  EXPECT_FALSE(q->rule().has_value()) << "the gradient needs the values";
  // PACT's range [0, 1] in the same levels, and DoReFa's.
  for (const char* method : {"pact", "dorefa"}) {
    const std::string alpha = std::string(method) == "pact" ? "alpha: 1, " : "";
    const auto other = make(method, {.bits = 2}, fmt::format("{{{}ewgs: 0.2}}", alpha));
    other->initialize();
    EXPECT_TRUE(at::allclose(pass(*other, x, dy).dx.to(at::kDouble), expected, 1e-6, 1e-6)) << method;
    EXPECT_FALSE(other->rule().has_value());
  }
  // LSQ keeps its own gradient of the step.
  const auto plain = make("lsq", {.bits = 2}), scaled = make("lsq", {.bits = 2}, "{ewgs: 0.2}");
  for (const auto& l : {plain, scaled}) {
    set_state(*l, "scale", at::full({1}, 1.0f / 3));
    pass(*l, x.view({1, 5}), dy.view({1, 5}));
  }
  EXPECT_TRUE(at::equal(state(*plain, "scale").grad(), state(*scaled, "scale").grad()));
}

TEST(Uniform, WithoutClipEveryGradientPasses) {
  const at::Tensor x = at::tensor({0.5f, 9.0f, -3.0f}), dy = at::tensor({1.0f, 2.0f, 3.0f});
  for (const bool clip : {true, false}) {
    const auto q = make("minmax", {.bits = 4}, fmt::format("{{clip: {}}}", clip));
    q->observe(at::tensor({0.0f, 1.0f}));
    q->initialize();
    q->eval();
    const at::Tensor expected = clip ? at::tensor({1.0f, 0.0f, 0.0f}) : dy;
    EXPECT_TRUE(at::equal(pass(*q, x, dy).dx, expected));
  }
}

// NNI's NaiveQuantizer: int8(w / s) * s, s = max(s, max|w| / 127).
TEST(Naive, TruncatesAndNeverShrinks) {
  const at::Tensor w = at::tensor({1.27f, 0.0199f, -0.0199f, -0.5f});
  const auto q = started(make("naive", weight(8)), w);
  EXPECT_TRUE(at::allclose(q->forward(w), at::tensor({1.27f, 0.01f, -0.01f, -0.5f}), 1e-6, 1e-6));
  const float scale = scale_of(*q);
  q->forward(w * 0.5);
  EXPECT_EQ(scale_of(*q), scale);
  q->forward(w * 2);
  EXPECT_FLOAT_EQ(scale_of(*q), 2 * scale);
}

}  // namespace
}  // namespace qat::quantizers
