// Methods whose levels are not evenly spaced, or not all codes are levels: numbers of the papers' formulas by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "quantizers/apot.h"
#include "quantizers/learned_bits.h"
#include "quantizers/winograd.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

using at::Tensor;

QuantSpec weight(int bits, Granularity g = Granularity::kTensor, int64_t channels = 1) {
  return {.role = Role::kWeight, .bits = bits, .granularity = g, .channels = channels};
}

void expect_near(const Tensor& found, const std::vector<double>& expected, double tolerance = 1e-6) {
  EXPECT_TRUE(at::allclose(found.flatten().to(at::kDouble), at::tensor(expected, at::kDouble), tolerance, tolerance))
      << found;
}

TEST(Ternary, TwnByHand) {
  // mean|w| = 0.5, delta = 0.35; above it 0.4, 0.6, 1.2
  const Tensor w = at::tensor({0.4f, -0.6f, 1.2f, 0.2f, -0.1f});
  const double alpha = 2.2 / 3;
  const auto q = started(make("ternary", weight(2)), w);
  const Passed p = pass(*q, w, at::ones({5}));
  expect_near(p.y, {alpha, -alpha, alpha, 0, 0});
  expect_near(p.dx, {1, 1, 1, 1, 1});
  EXPECT_EQ(q->obstacle(), "");
  expect_near(started(make("ternary", weight(2), "{threshold: 0.9}"), w)->forward(w), {0, -0.9, 0.9, 0, 0});
}

TEST(Ternary, TtqGradients) {
  // max 2: delta 0.1
  const Tensor w = at::tensor({2.0f, 0.5f, 0.05f, -0.05f, -0.3f, -1.0f});
  const auto q = started(make("ternary", weight(2), "{levels: ttq}"), w);
  set_state(*q, "positive", at::full({1}, 1.5f));
  set_state(*q, "negative", at::full({1}, 0.75f));
  const Passed p = pass(*q, w, at::tensor({1.0f, 2.0f, 4.0f, 8.0f, 16.0f, 32.0f}));
  expect_near(p.y, {1.5, 1.5, 0, 0, -0.75, -0.75});
  expect_near(p.dx, {1.5, 3, 4, 8, 12, 24});
  expect_near(state(*q, "positive").grad(), {3});
  expect_near(state(*q, "negative").grad(), {-48});
  EXPECT_NE(q->obstacle(), "") << "two magnitudes";
  set_state(*q, "positive", at::full({1}, -1.0f));
  q->project();
  EXPECT_GT(state(*q, "positive").item<float>(), 0);
}

// The expected code of N2UQ's stochastic form is piecewise linear: its exact derivatives by finite differences.
double expected_output(const std::vector<double>& a, double scale, double start, double z, double x) {
  double at = start, code = 0;
  for (const double width : a) {
    code += std::clamp((x - at) / width, 0.0, 1.0);
    at += width;
  }
  return scale * (code - z);
}

TEST(N2uq, ForwardAndGradients) {
  const std::vector<double> a{0.5, 1.0, 0.25};
  const auto q = make("n2uq", {.bits = 2});
  set_state(*q, "intervals", at::tensor(a).to(at::kFloat));
  set_state(*q, "scale", at::full({1}, 0.4f));
  // Thresholds: 0.25, 0.5 + 0.5 = 1.0, 1.5 + 0.125 = 1.625
  const Tensor x = at::tensor({-1.0f, 0.2f, 0.3f, 0.9f, 1.1f, 1.6f, 1.7f, 2.5f});
  const Tensor dy = at::tensor({1.0f, 2.0f, -1.0f, 0.5f, 3.0f, -2.0f, 1.5f, 4.0f});
  const Passed p = pass(*q, x, dy);
  expect_near(p.y, {0, 0, 0.4, 0.4, 0.8, 0.8, 1.2, 1.2});
  constexpr double kStep = 1e-6;
  std::vector<double> dx(8), da(3, 0.0);
  double ds = 0;
  for (int i = 0; i < 8; ++i) {
    const double v = x[i].item<double>(), g = dy[i].item<double>();
    dx[i] = g * (expected_output(a, 0.4, 0, 0, v + kStep) - expected_output(a, 0.4, 0, 0, v - kStep)) / (2 * kStep);
    for (int k = 0; k < 3; ++k) {
      std::vector<double> up = a, down = a;
      up[k] += kStep, down[k] -= kStep;
      da[k] += g * (expected_output(up, 0.4, 0, 0, v) - expected_output(down, 0.4, 0, 0, v)) / (2 * kStep);
    }
    ds += g * p.y[i].item<double>() / 0.4;
  }
  for (double& d : da) d /= std::sqrt(3.0);  // samples of one element, 3 levels above zero
  ds /= std::sqrt(3.0);
  expect_near(p.dx, dx, 1e-5);
  expect_near(state(*q, "intervals").grad(), da, 1e-5);
  expect_near(state(*q, "scale").grad(), {ds}, 1e-5);
}

TEST(N2uq, StartsUniform) {
  const auto q = make("n2uq", {.bits = 2, .is_signed = true});
  q->observe(at::tensor({-1.0f, 1.0f}));
  q->initialize();
  // s = 1, z = 2: levels -2 .. 1
  expect_near(q->forward(at::tensor({-9.0f, -1.6f, -0.4f, 0.6f, 9.0f})), {-2, -2, 0, 1, 1});
  set_state(*q, "intervals", at::full({3}, -1.0f));
  q->project();
  EXPECT_GT(state(*q, "intervals").min().item<float>(), 0);
}

TEST(N2uq, WeightsByHand) {
  // 2 bits, mean|w| = 1: a = 3 / 2, levels -a, -a / 3, a / 3, a; (w / a + 1) / 2 * 3: 1.4, 2.6, 0.4, 1.6, 4 -> 3, 0 -
  // 0.5 -> 0
  const Tensor w = at::tensor({-0.1f, 1.1f, -1.1f, 0.1f, 2.4f, -1.2f});
  const auto q = started(make("n2uq", weight(2)), w);
  const Passed p = pass(*q, w, at::tensor({1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}));
  expect_near(p.y, {-0.5, 1.5, -1.5, 0.5, 1.5, -1.5});
  expect_near(p.dx, {1, 2, 3, 4, 5, 6});
  expect_near(q->qparams().scale, {0.5});
  EXPECT_EQ(make("n2uq", weight(7))->obstacle(), "") << "odd codes up to 127";
  EXPECT_NE(make("n2uq", weight(8))->obstacle(), "") << "odd codes up to 255";
  // Channels have scales of their own.
  const auto rows = started(make("n2uq", weight(2, Granularity::kChannel, 2)), w.view({2, 3}));
  expect_near(rows->qparams().scale, {(0.1 + 1.1 + 1.1) / 3 / 2, (0.1 + 2.4 + 1.2) / 3 / 2});
}

TEST(Apot, LevelsOfThePaper) {
  const auto levels = [](int bits, const std::string& options = "{}", bool is_weight = true) {
    const auto q = make("apot", {.role = is_weight ? Role::kWeight : Role::kActivation, .bits = bits}, options);
    return dynamic_cast<const Apot&>(*q).levels();
  };
  // 3 bits: {0, 1/8, 1/4, 1/2} normalized; 4 bits: {0, 1/2, 1/4, 1/16} + {0, 1/8} in sixteenths.
  EXPECT_EQ(levels(3), (std::vector<int64_t>{0, 1, 2, 4}));
  EXPECT_EQ(levels(4), (std::vector<int64_t>{0, 1, 2, 3, 4, 6, 8, 10}));
  // 5 bits: {0, 1, 1/4, 1/16} + {0, 1/2, 1/8, 1/32} in units of 1/32: 16 levels (fig. 1)
  const std::vector<int64_t> five = levels(5);
  EXPECT_EQ(five.size(), 16u);
  EXPECT_EQ(five.back(), 48);
  EXPECT_EQ(levels(4, "{}", false), five) << "activations have no sign bit";
  EXPECT_EQ(make("apot", weight(5))->obstacle(), "") << "codes up to 48";
  EXPECT_NE(make("apot", weight(7))->obstacle(), "") << "three terms of two bits: up to 448";
  EXPECT_THROW(make("apot", weight(6)), Error) << "5 magnitude bits have no terms of 2";
  EXPECT_NO_THROW(make("apot", weight(6), "{base_bits: 1}"));
  quant::QuantSpec reduced = weight(8);
  reduced.reduce_range = true;
  EXPECT_EQ(dynamic_cast<const Apot&>(*make("apot", reduced, "{base_bits: 1}")).levels().back(), 63);
  EXPECT_THROW(make("apot", reduced), Error) << "three terms of two bits: up to 448";
}

TEST(Apot, GradientOfAlpha) {
  const auto q = make("apot", weight(3), "{normalize: false}");
  set_state(*q, "alpha", at::full({1}, 2.0f));
  // Levels 0, 1/2, 1, 2 (times sign)
  const Tensor w = at::tensor({0.2f, 0.4f, -1.4f, 1.6f, 2.5f, -3.0f});
  const Passed p = pass(*q, w, at::tensor({1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}));
  expect_near(p.y, {0, 0.5, -1, 2, 2, -2});
  expect_near(p.dx, {1, 2, 3, 4, 0, 0});
  // Q(x / a) - x / a: -0.1, 0.25 - 0.2, -0.5 + 0.7, 1 - 0.8; then 1, -1
  expect_near(state(*q, "alpha").grad(), {-0.1 + 2 * 0.05 + 3 * 0.2 + 4 * 0.2 + 5 - 6}, 1e-5);
}

TEST(Apot, NormalizesWeights) {
  at::manual_seed(0);
  const Tensor w = at::randn({8, 30}) * 0.05 + 0.01;
  const auto q = started(make("apot", weight(4)), w);
  const Tensor normal = (w - w.mean()) / (w - w.mean()).square().mean().sqrt();
  const auto plain = started(make("apot", weight(4), "{normalize: false}"), normal);
  EXPECT_TRUE(at::allclose(q->forward(w), plain->forward(normal), 1e-4, 0.31)) << "but for values at midpoints";
  EXPECT_LT((q->forward(w) != plain->forward(normal)).sum().item<int64_t>(), 4);
  const Tensor dy = at::ones_like(w);
  const double slope = 1 / (w - w.mean()).square().mean().sqrt().item<double>();
  EXPECT_NEAR(pass(*q, w, dy).dx.max().item<double>(), slope, 1e-3 * slope);
}

TEST(Dorefa, TwoBitLevelsAndWideCodes) {
  const Tensor w = at::linspace(-2, 2, 101);
  const Tensor y = started(make("dorefa", weight(2)), w)->forward(w);
  expect_near(std::get<0>(at::_unique(y)), {-1, -1.0 / 3, 1.0 / 3, 1});
  EXPECT_EQ(make("dorefa", weight(7))->obstacle(), "") << "odd codes up to 127";
  EXPECT_NE(make("dorefa", weight(8))->obstacle(), "") << "odd codes up to 255";
  const auto q = started(make("dorefa", weight(7)), w.view({101, 1}));
  const Tensor codes = q->quantize_weight(w.view({101, 1})).codes.to(at::kLong);
  EXPECT_TRUE((codes.abs() % 2 == 1).all().item<bool>());
  EXPECT_EQ(codes.max().item<int64_t>(), 127);
  // Zero has no level: 0.5 * 3 is a tie, to the even code 2: 2 * 2 - 3.
  expect_near(started(make("dorefa", weight(2)), at::zeros({3}))->forward(at::zeros({3})), {1.0 / 3, 1.0 / 3, 1.0 / 3});
}

TEST(Dorefa, GradientQuantization) {
  const auto q = started(make("dorefa", {.bits = 4}, "{gradient_bits: 2}"), at::rand({4}));
  at::manual_seed(1);
  const Tensor x = at::rand({2, 20000}), dy = at::cat({at::full({1, 20000}, 0.3f), at::full({1, 20000}, 0.3f)}, 0);
  Tensor g = dy.clone();
  g[0][0] = 1.0f;  // the sample's largest: levels -1, -1/3, 1/3, 1
  const Tensor dx = pass(*q, x, g).dx[0].slice(0, 1);
  const Tensor levels = (dx * 3).round();
  EXPECT_TRUE(at::allclose(dx * 3, levels, 1e-5, 1e-5));
  EXPECT_TRUE((levels.abs() <= 3).all().item<bool>());
  EXPECT_NEAR(dx.mean().item<double>(), 0.3, 0.02) << "noise makes the mean right";
  EXPECT_FALSE(q->rule().has_value());
}

TEST(FloatingPoint, RoundTripsByHand) {
  const auto half = make("float16", {.bits = 16});
  half->initialize();
  const Passed p = pass(*half, at::tensor({1.0f + 0x1p-11f, 70000.0f, 0x1p-25f, -0x1.8p-25f}), at::ones({4}));
  expect_near(p.y, {1, 65504, 0, -0x1p-24}, 0);  // tie to even, saturation, subnormals
  expect_near(p.dx, {1, 0, 1, 1});
  const auto brain = make("bfloat16", {.bits = 16});
  brain->initialize();
  expect_near(brain->forward(at::tensor({1.0f + 0x1p-8f, 1.0f + 0x1.8p-8f})), {1, 1 + 0x1p-7}, 0);
  for (const auto& [format, largest] : {std::pair{"e4m3", 448.0}, std::pair{"e5m2", 57344.0}}) {
    const auto q = make("fp8", {.bits = 8}, fmt::format("{{format: {}, scaled: false}}", format));
    q->initialize();
    expect_near(q->forward(at::tensor({1e6f, -1e6f})), {largest, -largest}, 0);
  }
  // e4m3: 3 mantissa bits: 1.0625 is a tie between 1 and 1.125; scaled: largest 0.9 -> s = 2^-8 gives 230.4 of 448
  const auto plain = make("fp8", {.bits = 8}, "{scaled: false}");
  plain->initialize();
  expect_near(plain->forward(at::tensor({1.0625f, 1.2f})), {1, 1.25}, 0);
  const auto scaled = started(make("fp8", weight(8)), at::tensor({0.9f, 0.001f}));
  EXPECT_EQ(state(*scaled, "scale").item<float>(), 0x1p-8f);
}

TEST(BlockFloatingPoint, OneExponentABlock) {
  const auto q = make("bfp", weight(4), "{block: 2}");
  q->initialize();
  // Blocks (1.9, 0.3): e = 0, step 2^-2: 1.75 (clipped at 7 steps), 0.25; (0.06, -0.05): e = -5, step 2^-7; (3): alone
  const Tensor y = q->forward(at::tensor({1.9f, 0.3f, 0.06f, -0.05f, 3.0f}).view({1, 5}));
  expect_near(y, {1.75, 0.25, 7.0 / 128, -6.0 / 128, 3.0}, 0);
  // Along channels: blocks (8, 0.3) with step 2 and (0.1, 0.1) with step 2^-6.
  const Tensor map = at::tensor({8.0f, 0.1f, 0.3f, 0.1f}).view({1, 2, 1, 2});
  expect_near(q->forward(map), {8, 6.0 / 64, 0, 6.0 / 64}, 0);
}

// F(2,3): the transform of a kernel, quantized, and back.
TEST(Winograd, QuantizesInTheTransformDomain) {
  at::manual_seed(2);
  const Tensor w = at::randn({4, 3, 3, 3});
  for (const char* tile : {"F23", "F43", "F63"}) {
    SCOPED_TRACE(tile);
    const auto q = make("winograd", weight(8, Granularity::kChannel, 4), fmt::format("{{tile: {}}}", tile));
    q->initialize();
    const Tensor u = dynamic_cast<const Winograd&>(*q).transformed(w);
    const Tensor scale = u.reshape({4, -1}).abs().amax(1) / 127;
    const Tensor codes = u.reshape({4, -1}) / scale.view({-1, 1});
    EXPECT_LT((codes - codes.round()).abs().max().item<double>(), 1e-3);
    // With many bits the kernel comes back: the transform is exact.
    const auto fine = make("winograd", weight(16, Granularity::kChannel, 4), fmt::format("{{tile: {}}}", tile));
    fine->initialize();
    EXPECT_LT((fine->forward(w) - w).abs().max().item<double>(), 2e-3);
    EXPECT_GT((q->forward(w) - w).abs().max().item<double>(), 1e-3);
  }
  // G of F(2,3) by hand: rows g, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2 of a kernel of one column.
  Tensor one = at::zeros({1, 1, 3, 3});
  one[0][0][0][0] = 1.0f, one[0][0][1][0] = 0.5f, one[0][0][2][0] = 0.25f;
  const auto q = make("winograd", weight(16));
  q->initialize();
  const Tensor column = dynamic_cast<const Winograd&>(*q).transformed(one).select(3, 0).flatten();
  expect_near(column, {1, 0.875, 0.375, 0.25}, 1e-4);
  // Other kernels are quantized as they are.
  const Tensor pointwise = at::tensor({1.27f, 0.0049f}).view({1, 2, 1, 1});
  const auto plain = make("winograd", weight(8));
  plain->initialize();
  expect_near(plain->forward(pointwise), {1.27, 0});
}

TEST(LearnedBits, GradientsByHand) {
  const auto q = make("learned_bits", weight(4), "{cost: 0.5}");
  set_state(*q, "step", at::full({1}, 0.5f));
  set_state(*q, "q_max", at::full({1}, 1.5f));  // M = 3: 3 bits
  EXPECT_EQ(dynamic_cast<const LearnedBits&>(*q).width(), 3);
  const Tensor w = at::tensor({0.3f, -0.9f, 1.4f, 2.0f, -4.0f});
  const Passed p = pass(*q, w, at::tensor({1.0f, 2.0f, 3.0f, 4.0f, 5.0f}));
  expect_near(p.y, {0.5, -1, 1.5, 1.5, -1.5});
  expect_near(p.dx, {1, 2, 3, 0, 0});
  const double g = 1 / std::sqrt(5.0 * 3);
  // rne(t) - t: 1 - 0.6, -2 + 1.8, 3 - 2.8
  expect_near(state(*q, "step").grad(), {g * (0.4 - 2 * 0.2 + 3 * 0.2)});
  expect_near(state(*q, "q_max").grad(), {g * (4 - 5)});
  // Cost: 0.5 (log2(1.5 / 0.5 + 1) + 1)
  expect_near(q->penalty(), {1.5});
  set_state(*q, "q_max", at::full({1}, 100.0f));
  q->project();
  EXPECT_EQ(state(*q, "q_max").item<float>(), 3.5f) << "4 bits at most";
  set_state(*q, "q_max", at::full({1}, 0.1f));
  q->project();
  EXPECT_EQ(state(*q, "q_max").item<float>(), 0.5f) << "2 bits at least";
}

TEST(Xnor, GradientOfThePaper) {
  const Tensor w = at::tensor({0.5f, -0.25f, 1.5f, -0.75f}).view({2, 2});
  const auto q = started(make("xnor", weight(1, Granularity::kChannel, 2)), w);
  const Passed p = pass(*q, w, at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({2, 2}));
  expect_near(p.y, {0.375, -0.375, 1.125, -1.125});
  // g (1 / n + alpha [|w| <= 1])
  expect_near(p.dx, {0.875, 1.75, 1.5, 4 * (0.5 + 1.125)});
  Tensor latent = w.clone();
  q->project_weight(latent);
  expect_near(latent, {0.5, -0.25, 1, -0.75});
}

TEST(Bnn, ErrorOfTheSignAndItsCodes) {
  at::manual_seed(0);
  const Tensor x = at::randn({100000});
  const auto q = started(make("bnn", weight(1)), x);
  // E (x - sign x)^2 = 2 - 2 sqrt(2 / pi)
  EXPECT_NEAR((q->forward(x) - x).square().mean().item<double>(), 2 - 2 * std::sqrt(2 / M_PI), 0.01);
  EXPECT_THROW(make("bnn", {.bits = 1}), Error) << "behind a ReLU";
  const auto a = make("bnn", {.bits = 1, .is_signed = true});
  a->initialize();
  EXPECT_EQ(zero_of(*a), 1);
}

TEST(LsqPlus, IntegerOffsetFollowsTheSameLine) {
  // s = 0.5, beta = -1: z = 2, levels -1 .. 6.5; y = s q + beta
  const auto q = make("lsq_plus", {.bits = 4, .is_signed = true});
  set_state(*q, "scale", at::full({1}, 0.5f));
  set_state(*q, "offset", at::full({1}, -1.0f));
  const Tensor x = at::tensor({-2.0f, 0.2f, 1.6f, 9.0f}).view({1, 4}),
               dy = at::tensor({1.0f, 2.0f, 4.0f, 8.0f}).view({1, 4});
  const Passed p = pass(*q, x, dy);
  expect_near(p.y, {-1, 0, 1.5, 6.5});
  expect_near(p.dx, {0, 2, 4, 0});
  const double g = 1 / std::sqrt(4.0 * 15);
  // ds: 0 below, 15 above; inside q - (x - beta) / s: 2 - 2.4, 5 - 5.2
  expect_near(state(*q, "scale").grad(), {g * (8 * 15 + 2 * -0.4 + 4 * -0.2)}, 1e-5);
  expect_near(state(*q, "offset").grad(), {g * 9});
  EXPECT_EQ(zero_of(*q), 2);
  // 9 / 4 steps below zero: the nearest whole number
  set_state(*q, "offset", at::full({1}, -1.1f));
  EXPECT_EQ(zero_of(*q), 2);
}

TEST(LsqPlus, InitialValues) {
  // Weights: max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1) with mu = 1, sigma = 1
  const auto w = started(make("lsq_plus", weight(4)), at::tensor({0.0f, 2.0f}));
  EXPECT_FLOAT_EQ(scale_of(*w), 4.0f / 8);
  const auto a = make("lsq_plus", {.bits = 8, .is_signed = true});
  a->observe(at::linspace(-1, 3, 10001));
  a->initialize();
  EXPECT_NEAR(state(*a, "offset").item<double>(), -1, 0.05);
  EXPECT_NEAR(scale_of(*a), 4.0 / 255, 3e-4);
}

TEST(Pact, SignedTensorsAreClippedAtBothEnds) {
  const auto q = make("pact", {.bits = 4, .is_signed = true}, "{decay: 0.1}");
  set_state(*q, "alpha", at::full({1}, 0.7f));  // s = 0.1, z = 8: [-0.8, 0.7]
  const Passed p = pass(*q, at::tensor({-2.0f, 0.31f, 0.9f}), at::tensor({1.0f, 2.0f, 4.0f}));
  expect_near(p.y, {-0.8, 0.3, 0.7});
  expect_near(p.dx, {0, 2, 0});
  expect_near(state(*q, "alpha").grad(), {4 - 8.0 / 7});
  expect_near(q->penalty(), {0.1 / 2 * 0.49});
}

}  // namespace
}  // namespace qat::quantizers
