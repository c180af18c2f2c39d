// The fused convolution against a double-precision composition with the same gradient rules (ARITHMETIC section 2).
#include <gtest/gtest.h>

#include <cmath>

#include "core/autograd/functions.h"
#include "core/base/error.h"
#include "tests/support/tensors.h"

namespace qat::autograd {
namespace {

using at::Tensor;
using test::random_codes;
using test::real;
using test::relative_error;

struct Net {
  QuantizedTensor x;
  Tensor weight;
  Tensor weight_scale;
  ConvCall call;
  Tensor gain = at::ones({1}, at::kDouble);  // which the weight's codes carry
};

Net make_net(bool norm, bool relu, bool bias, int64_t groups = 1, bool linear = false) {
  at::manual_seed(7);
  Net net{linear ? random_codes({6, 12}, 0.05f, {0, 255, 100}) : random_codes({3, 8, 7, 6}, 0.05f, {0, 255, 100}),
          at::randn(linear ? std::vector<int64_t>{10, 12} : std::vector<int64_t>{10, 8 / groups, 3, 3}) * 0.1,
          {},
          {}};
  if (groups > 1) net.weight = at::randn({8, 8 / groups, 3, 3}) * 0.1;
  net.weight.set_requires_grad(true);
  const int64_t channels = net.weight.size(0);
  net.weight_scale = (net.weight.detach().abs().flatten(1).amax(1) / 127.0).to(at::kFloat);
  net.call.name = "conv";
  net.call.geometry.groups = groups;
  net.call.relu = relu;
  if (!linear)
    net.call.geometry.padding = {1, 1}, net.call.geometry.stride = {2, 1}, net.call.geometry.dilation = {1, 1};
  if (bias) net.call.bias = (at::randn({channels}) * 0.1).set_requires_grad(true);
  if (norm) {
    net.call.batch_norm = BatchNorm{.gamma = (at::rand({channels}) + 0.5).set_requires_grad(true),
                                    .beta = (at::randn({channels}) * 0.2).set_requires_grad(true),
                                    .running_mean = at::randn({channels}) * 0.1,
                                    .running_var = at::rand({channels}) + 0.5};
    // Negative gamma flips the codes' sign in the folded weight.
    net.call.batch_norm->gamma.data().slice(0, 0, 3).neg_();
  }
  return net;
}

struct Reference {
  Tensor v;  // real pre-activation, double, with history
  Tensor x, weight, gamma, beta, bias;
};

/// conv(x^, w^) (+ batch norm) in double, differentiable in x^ and w^.
Reference reference(const Net& net, bool live) {
  Reference r;
  r.x = real(net.x).set_requires_grad(true);
  std::vector<int64_t> rows(net.weight.dim(), 1);
  rows[0] = -1;
  const Tensor s = net.weight_scale.to(at::kDouble).view(rows);
  const Tensor scaled = net.weight.detach() * net.gain.to(at::kFloat);
  r.weight = ((scaled / net.weight_scale.view(rows)).round().to(at::kDouble) * s / net.gain).set_requires_grad(true);
  Tensor bias;
  if (net.call.bias.defined()) bias = r.bias = net.call.bias.detach().to(at::kDouble).set_requires_grad(true);
  Tensor y = net.weight.dim() == 4
                 ? at::conv2d(r.x, r.weight, bias, net.call.geometry.stride, net.call.geometry.padding,
                              net.call.geometry.dilation, net.call.geometry.groups)
                 : at::linear(r.x, r.weight, bias);
  if (net.call.batch_norm) {
    r.gamma = net.call.batch_norm->gamma.detach().to(at::kDouble).set_requires_grad(true);
    r.beta = net.call.batch_norm->beta.detach().to(at::kDouble).set_requires_grad(true);
    y = at::batch_norm(y, r.gamma, r.beta, net.call.batch_norm->running_mean.to(at::kDouble).clone(),
                       net.call.batch_norm->running_var.to(at::kDouble).clone(), live, 0.1, net.call.batch_norm->eps,
                       false);
  }
  r.v = y;
  return r;
}

struct Case {
  bool norm, live, relu, bias;
  int64_t groups;
  bool linear;
  Memory memory;
  LiveStatistics statistics = LiveStatistics::kBatch;
  bool gain = false;  // the weight is multiplied by batch norm's running gain before it is quantized
};

class ConvGradient : public testing::TestWithParam<Case> {};

TEST_P(ConvGradient, EqualsTheDoubleComposition) {
  const Case& c = GetParam();
  Net net = make_net(c.norm, c.relu, c.bias, c.groups, c.linear);
  net.call.live = c.live;
  net.call.memory = c.memory;
  // Clips on both sides (above only with the ReLU), so that masks matter.
  net.call.output = test::output_quantizer(0.011f, c.relu ? 0 : 120);
  net.call.output->rule = GradientRule::kLearnedStep;
  net.call.output->learn = c.live || !c.norm;
  net.call.output->gradient_scale = [](int64_t) { return 0.25; };
  net.call.output->scale.set_requires_grad(true);
  net.call.statistics = c.statistics;
  const bool batch_statistics = c.live && c.statistics == LiveStatistics::kBatch;
  Tensor quantized_from = net.weight;
  if (c.gain) {
    net.call.weight_gain = net.call.batch_norm->running_gain();
    std::vector<int64_t> rows(net.weight.dim(), 1);
    rows[0] = -1;
    const Tensor k = at::tensor(net.call.weight_gain, at::kDouble).view(rows);
    quantized_from = net.weight * k.to(at::kFloat);
    net.weight_scale = (quantized_from.detach().abs().amax() / 127.0).to(at::kFloat).view({1});
    net.gain = k;
  }
  const Reference ref = reference(net, batch_statistics);

  QuantizedWeight w = quantize_weight(quantized_from, net.weight_scale, -127, 127, GradientRule::kStraightThrough, 1.0);
  const ConvResult result = conv(net.x, w, net.call);
  ASSERT_TRUE(result.codes.has_value());

  // Forward: within one code of the double evaluation, equal nearly everywhere.
  const double s = result.codes->scale();
  const int z = result.codes->zero_point();
  const Tensor t = ref.v.detach() / s;
  const Tensor expected = t.clamp(-z, 255 - z).round() + z;
  const Tensor difference = (result.codes->codes().to(at::kDouble) - expected).abs();
  EXPECT_LE(difference.max().item<double>(), 1.0);
  EXPECT_LE((difference > 0).sum().item<int64_t>(), c.live ? 2 : 25);  // frozen: the bias is rounded to an integer

  const Tensor g = at::randn(result.codes->sizes());
  result.codes->handle().backward(g);
  Tensor inside = (t >= -z).logical_and(t <= 255 - z);
  if (c.relu) inside = inside.logical_and(t > 0);
  const Tensor gm = g.to(at::kDouble) * inside;
  (ref.v * gm).sum().backward();

  const double tolerance = c.memory == Memory::kCompact && c.live ? 1e-4 : 1e-5;
  EXPECT_LT(relative_error(net.x.handle().grad(), ref.x.grad()), tolerance);
  EXPECT_LT(relative_error(net.weight.grad(), ref.weight.grad()), tolerance);
  if (c.norm) {
    EXPECT_LT(relative_error(net.call.batch_norm->beta.grad(), ref.beta.grad()), 1e-5);
    if (c.live) {
      EXPECT_LT(relative_error(net.call.batch_norm->gamma.grad(), ref.gamma.grad()), tolerance);
    } else {
      EXPECT_FALSE(net.call.batch_norm->gamma.grad().defined());
    }
  }
  if (c.bias && !batch_statistics) {
    EXPECT_LT(relative_error(net.call.bias.grad(), ref.bias.grad()), 1e-5);
  }
  if (c.bias && batch_statistics) {
    EXPECT_EQ(net.call.bias.grad().abs().max().item<float>(), 0.0f);
  }
  if (net.call.output->learn) {
    const Tensor q = expected - z;
    Tensor slope = at::where(t < -z, at::full_like(t, -z), at::where(t > 255 - z, at::full_like(t, 255 - z), q - t));
    if (c.relu) slope = at::where(t <= 0, at::zeros_like(t), slope);
    const double ds = (g.to(at::kDouble) * slope).sum().item<double>() * 0.25;
    EXPECT_NEAR(net.call.output->scale.grad().item<double>(), ds, std::abs(ds) * 2e-3 + 0.05);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ConvGradient,
    testing::Values(Case{true, true, true, false, 1, false, Memory::kExact},
                    Case{true, true, true, true, 1, false, Memory::kCompact},
                    Case{true, true, false, false, 1, false, Memory::kRecompute},
                    Case{true, true, true, false, 8, false, Memory::kExact},
                    Case{true, false, true, true, 1, false, Memory::kCompact},
                    Case{true, false, false, false, 2, false, Memory::kCompact},
                    Case{false, false, true, true, 1, false, Memory::kExact},
                    Case{false, false, false, false, 1, false, Memory::kCompact},
                    Case{false, false, true, true, 1, true, Memory::kExact},
                    Case{true, true, false, true, 1, true, Memory::kExact},
                    Case{true, true, true, true, 1, false, Memory::kExact, LiveStatistics::kRunning},
                    Case{true, true, false, false, 8, false, Memory::kCompact, LiveStatistics::kRunning},
                    Case{true, true, true, true, 1, false, Memory::kExact, LiveStatistics::kBatch, true},
                    Case{true, true, false, false, 2, false, Memory::kExact, LiveStatistics::kRunning, true},
                    Case{true, false, true, true, 1, false, Memory::kExact, LiveStatistics::kBatch, true}));

/// Large weights that meet zeros: the accumulators take four values, though they could need int32.
TEST(Conv, CompactKeepsFewAccumulatorsExactly) {
  at::manual_seed(5);
  Tensor codes = at::full({4, 4, 5, 5}, 100, at::kByte);
  codes.select(1, 0).random_(100, 104);
  codes = kernel_layout(codes);
  const QuantizedTensor x(codes, 0.05f, {0, 255, 100}, make_handle(codes.sizes()).requires_grad_(true));
  const Tensor weight = at::tensor({1.0f, 127.0f, 127.0f, 127.0f}).view({1, 4, 1, 1}).requires_grad_(true);
  ConvCall call;
  call.name = "conv";
  call.geometry.stride = call.geometry.dilation = {1, 1}, call.geometry.padding = {0, 0};
  call.live = true;
  call.memory = Memory::kCompact;
  call.batch_norm = BatchNorm{.gamma = at::ones({1}).requires_grad_(true),
                              .beta = at::zeros({1}).requires_grad_(true),
                              .running_mean = at::zeros({1}),
                              .running_var = at::ones({1})};
  call.output = test::output_quantizer(0.05f, 120);
  const QuantizedWeight w = quantize_weight(weight, at::ones({1}), -127, 127, GradientRule::kStraightThrough, 1.0);
  const ConvResult result = conv(x, w, call);
  const Tensor g = at::randn(result.codes->sizes());
  result.codes->handle().backward(g);

  const Tensor rx = test::real(x).set_requires_grad(true);
  const Tensor gamma = at::ones({1}, at::kDouble).set_requires_grad(true);
  const Tensor v = at::batch_norm(at::conv2d(rx, weight.detach().to(at::kDouble)), gamma, at::zeros({1}, at::kDouble),
                                  {}, {}, true, 0.1, call.batch_norm->eps, false);
  (v * g).sum().backward();
  EXPECT_LT(relative_error(x.handle().grad(), rx.grad()), 1e-5);
  EXPECT_LT(relative_error(call.batch_norm->gamma.grad(), gamma.grad()), 1e-5);
}

TEST(Conv, LogitsAreTheDequantizedAccumulators) {
  Net net = make_net(false, false, true, 1, true);
  const QuantizedWeight w =
      quantize_weight(net.weight, net.weight_scale, -127, 127, GradientRule::kStraightThrough, 1.0);
  const ConvResult result = conv(net.x, w, net.call);
  ASSERT_FALSE(result.codes.has_value());
  const Reference ref = reference(net, false);
  EXPECT_LT(relative_error(result.values, ref.v), 1e-3);  // the bias is rounded to an integer
  const Tensor g = at::randn(result.values.sizes());
  result.values.backward(g);
  (ref.v * g.to(at::kDouble)).sum().backward();
  EXPECT_LT(relative_error(net.x.handle().grad(), ref.x.grad()), 1e-5);
  EXPECT_LT(relative_error(net.weight.grad(), ref.weight.grad()), 1e-5);
  EXPECT_LT(relative_error(net.call.bias.grad(), ref.bias.grad()), 1e-5);
}

TEST(Conv, LiveRunningStatisticsAreThoseOfADoubleBatchNorm) {
  Net net = make_net(true, false, true);
  net.call.live = true;
  net.call.output = test::output_quantizer(0.05f, 128);
  const Tensor mean = net.call.batch_norm->running_mean.to(at::kDouble).clone();
  const Tensor var = net.call.batch_norm->running_var.to(at::kDouble).clone();
  const QuantizedWeight w =
      quantize_weight(net.weight, net.weight_scale, -127, 127, GradientRule::kStraightThrough, 1.0);
  ConvCall plain = net.call;
  plain.batch_norm.reset();
  const Reference ref = reference({net.x, net.weight, net.weight_scale, plain}, false);
  at::batch_norm(ref.v.detach(), Tensor(), Tensor(), mean, var, true, 0.1, 1e-5, false);
  conv(net.x, w, net.call);
  EXPECT_LT(relative_error(net.call.batch_norm->running_mean, mean), 1e-6);
  EXPECT_LT(relative_error(net.call.batch_norm->running_var, var), 1e-6);
}

TEST(Conv, ObservesTheRealRangeBeforeItQuantizes) {
  Net net = make_net(true, true, false);
  net.call.live = true;
  net.call.output = test::output_quantizer(0.05f, 0);
  double lo = -1, hi = -1;
  net.call.output->observe = [&](double a, double b) { lo = a, hi = b; };
  const QuantizedWeight w =
      quantize_weight(net.weight, net.weight_scale, -127, 127, GradientRule::kStraightThrough, 1.0);
  conv(net.x, w, net.call);
  const Tensor v = reference(net, true).v.detach();
  EXPECT_EQ(lo, 0.0);
  EXPECT_NEAR(hi, v.max().item<double>(), 1e-5);
}

TEST(Conv, SecondDerivativesAndSecondBackwardsAreRefused) {
  Net net = make_net(true, true, false);
  net.call.output = test::output_quantizer(0.05f, 0);
  const QuantizedWeight w =
      quantize_weight(net.weight, net.weight_scale, -127, 127, GradientRule::kStraightThrough, 1.0);
  const ConvResult result = conv(net.x, w, net.call);
  const Tensor g = at::ones(result.codes->sizes());
  EXPECT_THROW(result.codes->handle().backward(g, true, /*create_graph=*/true), std::exception);
  result.codes->handle().backward(g);
  EXPECT_THROW(result.codes->handle().backward(g), std::exception);
}

TEST(Conv, ShapesThatDoNotFitAreNamed) {
  Net net = make_net(false, false, false);
  const QuantizedTensor x = random_codes({1, 5, 7, 7}, 0.1f, {0, 255, 0});
  const QuantizedWeight w =
      quantize_weight(net.weight, net.weight_scale, -127, 127, GradientRule::kStraightThrough, 1.0);
  EXPECT_THROW(conv(x, w, net.call), Error);
}

TEST(QuantizeWeight, LsqGradientByHand) {
  // s = 0.5, codes -2 .. 1: t = -3 (below), -0.6, 0.8, 4 (above).
  Tensor w = at::tensor({-1.5f, -0.3f, 0.4f, 2.0f}).view({1, 4}).set_requires_grad(true);
  Tensor s = at::full({1}, 0.5f).set_requires_grad(true);
  const QuantizedWeight q = quantize_weight(w, s, -2, 1, GradientRule::kLearnedStep, 0.1);
  EXPECT_TRUE(at::equal(q.codes.to(at::kLong), at::tensor({-2, -1, 1, 1}, at::kLong).view({1, 4})));
  q.handle.backward(at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({1, 4}));
  EXPECT_TRUE(at::equal(w.grad(), at::tensor({0.0f, 2.0f, 3.0f, 0.0f}).view({1, 4})));
  // -2 * 1 + (-1 + 0.6) * 2 + (1 - 0.8) * 3 + 1 * 4 = 1.8, times 0.1
  EXPECT_NEAR(s.grad().item<double>(), 0.18, 1e-6);
}

TEST(Encode, GradientByHand) {
  // s = 0.5, z = 2, codes 0 .. 3: t = x / s in [-2, 1].
  Tensor x = at::tensor({-2.0f, -0.7f, 0.1f, 3.0f}).view({1, 4}).set_requires_grad(true);
  OutputQuantizer out = test::output_quantizer(0.5f, 2, 3);
  out.rule = GradientRule::kLearnedStep;
  out.learn = true;
  out.scale.set_requires_grad(true);
  const QuantizedTensor q = encode(x, out);
  EXPECT_TRUE(at::equal(q.codes().to(at::kLong), at::tensor({0, 1, 2, 3}, at::kLong).view({1, 4})));
  EXPECT_TRUE(at::allclose(q.dequantize(), at::tensor({-1.0f, -0.5f, 0.0f, 0.5f}).view({1, 4})));
  q.dequantize().backward(at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({1, 4}));
  EXPECT_TRUE(at::equal(x.grad(), at::tensor({0.0f, 2.0f, 3.0f, 0.0f}).view({1, 4})));
  // -2 * 1 + (-1 + 1.4) * 2 + (0 - 0.2) * 3 + 1 * 4
  EXPECT_NEAR(out.scale.grad().item<double>(), 2.2, 1e-5);
}

TEST(Add, SendsTheMaskedGradientToBothAndLearnsItsScale) {
  at::manual_seed(3);
  const QuantizedTensor a = random_codes({2, 3, 4, 5}, 0.0313f, {0, 255, 120});
  const QuantizedTensor b = random_codes({2, 3, 4, 5}, 0.0497f, {0, 255, 0});
  OutputQuantizer out = test::output_quantizer(0.0401f, 0);
  out.rule = GradientRule::kLearnedStep;
  out.learn = true;
  out.scale.set_requires_grad(true);
  const QuantizedTensor y = add(a, b, out, true);
  const Tensor t = (real(a) + real(b)) / static_cast<double>(0.0401f);
  const Tensor code = t.clamp(0, 255).round();
  EXPECT_LE((y.codes().to(at::kDouble) - code).abs().max().item<double>(), 1.0);
  const Tensor g = at::randn(y.sizes());
  y.handle().backward(g);
  const Tensor inside = (t > 1e-9).logical_and(t <= 255);
  EXPECT_LT(relative_error(a.handle().grad(), g * inside), 1e-7);
  EXPECT_LT(relative_error(b.handle().grad(), g * inside), 1e-7);
  const Tensor slope = at::where(t > 255, at::full_like(t, 255.0), at::where(inside, code - t, at::zeros_like(t)));
  EXPECT_NEAR(out.scale.grad().item<double>(), (g * slope).sum().item<double>(), 0.05);
}

TEST(Pools, GradientsEqualThoseOfTheFloatOperators) {
  at::manual_seed(5);
  const QuantizedTensor x = random_codes({2, 4, 9, 8}, 0.1f, {0, 255, 128});
  Pool2d pool{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}};
  Tensor values = real(x).set_requires_grad(true);

  const QuantizedTensor y = max_pool2d(x, pool);
  Tensor expected = at::max_pool2d(values, {3, 3}, {2, 2}, {1, 1});
  EXPECT_LT(relative_error(real(y), expected), 1e-12);
  const Tensor g = at::randn(y.sizes());
  y.handle().backward(g);
  expected.backward(g.to(at::kDouble));
  EXPECT_LT(relative_error(x.handle().grad(), values.grad()), 1e-6);

  const QuantizedTensor x2 = random_codes({2, 4, 9, 8}, 0.1f, {0, 255, 128});
  values = real(x2).set_requires_grad(true);
  const QuantizedTensor mean = global_avg_pool2d(x2, test::output_quantizer(0.1f, 128));
  const Tensor gm = at::randn(mean.sizes());
  mean.handle().backward(gm);
  at::adaptive_avg_pool2d(values, {1, 1}).backward(gm.to(at::kDouble));
  EXPECT_LT(relative_error(x2.handle().grad(), values.grad()), 1e-6);

  const QuantizedTensor x3 = random_codes({2, 4, 9, 8}, 0.1f, {0, 255, 128});
  values = real(x3).set_requires_grad(true);
  const QuantizedTensor average = avg_pool2d(x3, pool, test::output_quantizer(0.1f, 128));
  const Tensor ga = at::randn(average.sizes());
  average.handle().backward(ga);
  at::avg_pool2d(values, {3, 3}, {2, 2}, {1, 1}).backward(ga.to(at::kDouble));
  EXPECT_LT(relative_error(x3.handle().grad(), values.grad()), 1e-6);
}

/// Windows that run past the padded map count nine pixels, as their means do: 4x4, kernel 3, stride 2, windows from 0 and
/// from 2 in each direction.
TEST(Pools, AveragesOfWindowsPastTheEndHaveTheForwardsDivisor) {
  const QuantizedTensor x = random_codes({1, 1, 4, 4}, 0.1f, {0, 255, 128});
  const Pool2d pool{.kernel = {3, 3}, .stride = {2, 2}, .ceil_mode = true};
  const QuantizedTensor y = avg_pool2d(x, pool, test::output_quantizer(0.1f, 128));
  ASSERT_EQ(y.sizes(), at::IntArrayRef({1, 1, 2, 2}));
  y.handle().backward(at::ones(y.sizes()));
  const Tensor windows = at::tensor({1.0, 1.0, 2.0, 1.0}, at::kDouble);
  const Tensor expected = (windows.view({4, 1}) * windows.view({1, 4}) / 9.0).view({1, 1, 4, 4});
  EXPECT_LT(relative_error(x.handle().grad(), expected), 1e-6);
}

TEST(Handle, HasNoMemoryAndGathersFromSeveralReaders) {
  const QuantizedTensor x = random_codes({4, 8, 16, 16}, 0.1f, {0, 255, 0});
  EXPECT_EQ(x.handle().storage().nbytes(), 4u);
  EXPECT_TRUE(std::isnan(*x.handle().const_data_ptr<float>()));
  const QuantizedTensor a = max_pool2d(x, {.kernel = {1, 1}, .stride = {1, 1}});
  const QuantizedTensor b = relu(x);
  const QuantizedTensor y = add(a, b, test::output_quantizer(0.3f, 0), false);
  y.handle().backward(at::ones(y.sizes()));
  const Tensor expected = 1.0 + (x.codes() > 0).to(at::kFloat);
  EXPECT_TRUE(at::equal(x.handle().grad(), expected));
}

TEST(Dropout, KeepsTheExpectationAndItsMaskInBackward) {
  at::manual_seed(11);
  const QuantizedTensor x = random_codes({64, 100}, 0.1f, {0, 255, 7});
  const QuantizedTensor y = dropout(x, 0.25);
  EXPECT_FLOAT_EQ(y.scale(), 0.1f / 0.75f);
  const Tensor kept = y.codes() == x.codes();
  EXPECT_NEAR(kept.to(at::kDouble).mean().item<double>(), 0.75, 0.02);
  EXPECT_TRUE(at::equal(y.codes().masked_select(kept.logical_not()),
                        at::full_like(y.codes().masked_select(kept.logical_not()), 7)));
  y.handle().backward(at::ones(y.sizes()));
  const Tensor g = x.handle().grad();
  EXPECT_TRUE(at::allclose(g.masked_select(kept.logical_not()), at::zeros({1})));
}

}  // namespace
}  // namespace qat::autograd
