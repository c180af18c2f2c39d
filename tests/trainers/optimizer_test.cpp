#include "trainers/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/config/config.h"

namespace qat::trainers {
namespace {

std::unique_ptr<Optimizer> make(const std::string& name, const std::string& options,
                                std::vector<NamedParameter> parameters) {
  return optimizers().get(name).make(config::load_text(options, "o.yaml").root(), std::move(parameters));
}

std::unique_ptr<Optimizer> sgd(const std::string& options, std::vector<NamedParameter> parameters) {
  return make("sgd", options, std::move(parameters));
}

/// A parameter [1, 1] (a weight) or [1] (a bias) with this value and gradient.
at::Tensor parameter(double value, double gradient, bool weight = true) {
  const std::vector<int64_t> shape = weight ? std::vector<int64_t>{1, 1} : std::vector<int64_t>{1};
  at::Tensor p = at::full(shape, value).set_requires_grad(true);
  p.mutable_grad() = at::full(shape, gradient);
  return p;
}

double value(const at::Tensor& p) { return p.item<double>(); }

// All numbers below are multiples of small powers of two: exact in float32.

TEST(Sgd, PlainStep) {
  const at::Tensor p = parameter(1, 0.5);
  sgd("{lr: 1, momentum: 0}", {{"p", p}})->step(0.25);
  EXPECT_EQ(value(p), 1 - 0.25 * 0.5);
}

TEST(Sgd, Momentum) {
  // v1 = g = 1, p = 2 - 0.5 = 1.5; v2 = 0.5 * 1 + 1 = 1.5, p = 1.5 - 0.75 = 0.75; v3 = 1.75, p = -0.125.
  const at::Tensor p = parameter(2, 1);
  const auto optimizer = sgd("{lr: 1, momentum: 0.5}", {{"p", p}});
  optimizer->step(0.5);
  EXPECT_EQ(value(p), 1.5);
  optimizer->step(0.5);
  EXPECT_EQ(value(p), 0.75);
  optimizer->step(0.5);
  EXPECT_EQ(value(p), -0.125);
}

TEST(Sgd, Nesterov) {
  // step 1: v = 1, p = 2 - 0.5 * (1 + 0.5 * 1) = 1.25; step 2: v = 1.5, p = 1.25 - 0.5 * (1 + 0.5 * 1.5) = 0.375.
  const at::Tensor p = parameter(2, 1);
  const auto optimizer = sgd("{lr: 1, momentum: 0.5, nesterov: true}", {{"p", p}});
  optimizer->step(0.5);
  EXPECT_EQ(value(p), 1.25);
  optimizer->step(0.5);
  EXPECT_EQ(value(p), 0.375);
}

TEST(Sgd, OnlyWeightsDecay) {
  // weight: g = 1 + 0.25 * 4 = 2, p = 4 - 0.5 * 2 = 3; bias: p = 4 - 0.5 * 1 = 3.5.
  const at::Tensor weight = parameter(4, 1), bias = parameter(4, 1, false);
  sgd("{lr: 1, momentum: 0, weight_decay: 0.25}", {{"w", weight}, {"b", bias}})->step(0.5);
  EXPECT_EQ(value(weight), 3);
  EXPECT_EQ(value(bias), 3.5);
}

TEST(Sgd, ParametersWithoutGradientStay) {
  const at::Tensor p = parameter(1, 1), frozen = parameter(1, 1);
  const auto optimizer = sgd("{lr: 1, momentum: 0.5}", {{"p", p}, {"frozen", frozen}});
  optimizer->zero_grad();
  EXPECT_FALSE(p.grad().defined());
  p.mutable_grad() = at::full({1, 1}, 1.0);
  optimizer->step(0.5);
  EXPECT_EQ(value(p), 0.5);
  EXPECT_EQ(value(frozen), 1);
  EXPECT_EQ(optimizer->state().size(), 1U);
  EXPECT_EQ(optimizer->state().count("p.momentum"), 1U);
}

TEST(Sgd, StateGoesByName) {
  // Parameters in another order after a reload: each keeps its own momentum (1 and 3).
  const at::Tensor a = parameter(0, 1), b = parameter(0, 3);
  const auto before = sgd("{lr: 1, momentum: 0.5}", {{"a", a}, {"b", b}});
  before->step(1);
  io::TensorMap saved;
  for (const auto& [name, tensor] : before->state()) saved[name] = tensor.clone();
  const at::Tensor a2 = parameter(0, 0), b2 = parameter(0, 0);
  const auto after = sgd("{lr: 1, momentum: 0.5}", {{"b", b2}, {"a", a2}});
  after->load_state(saved, "file");
  after->step(1);  // p = -0.5 * momentum
  EXPECT_EQ(value(a2), -0.5);
  EXPECT_EQ(value(b2), -1.5);
}

TEST(Sgd, StateThatDoesNotFitIsRefused) {
  const auto optimizer = sgd("{}", {{"a", parameter(0, 1)}});
  EXPECT_THROW(optimizer->load_state({{"c.momentum", at::zeros({1, 1})}}, "f"), CheckpointError);
  EXPECT_THROW(optimizer->load_state({{"a.momentum", at::zeros({2, 1})}}, "f"), CheckpointError);
}

TEST(Groups, EachHasItsOwnDecayAndQuantizersTheirOwnRate) {
  // g = 1 + d * 4; weight 4 - 0.5 * 2 = 3, bias 4 - 0.5 * 3 = 2.5, scale 4 - 0.25 * 0.5 * 5 = 3.375 (a [1, 1] one,
  // too).
  const std::string options =
      "{lr: 1, momentum: 0, weight_decay: 0.25, vector_weight_decay: 0.5, quantizer_weight_decay: 1, quantizer_lr: "
      "0.25}";
  const at::Tensor weight = parameter(4, 1), bias = parameter(4, 1, false);
  const at::Tensor scale = parameter(4, 1, false), channel_scale = parameter(4, 1);
  const auto optimizer = sgd(options, {{"conv.weight", weight},
                                       {"conv.bias", bias},
                                       {"conv.output_quantizer.scale", scale},
                                       {"conv.weight_quantizer.scale", channel_scale}});
  EXPECT_EQ(optimizer->base_learning_rate(), 1);
  optimizer->step(0.5);
  EXPECT_EQ(value(weight), 3);
  EXPECT_EQ(value(bias), 2.5);
  EXPECT_EQ(value(scale), 3.375);
  EXPECT_EQ(value(channel_scale), 3.375);
}

TEST(Groups, QuantizersFollowLrByDefaultAndDoNotDecay) {
  const at::Tensor scale = parameter(4, 1);
  sgd("{lr: 1, momentum: 0, weight_decay: 0.25}", {{"fc.weight_quantizer.scale", scale}})->step(0.5);
  EXPECT_EQ(value(scale), 3.5);
}

/// Parameter [[0.5, -1.25]] after five steps with gradients [[t / 8, t / 16 - 1 / 4]], t = 1 .. 5.
std::vector<double> after_five_steps(const std::string& name, const std::string& options) {
  const at::Tensor p = at::tensor({0.5F, -1.25F}).view({1, 2}).clone().set_requires_grad(true);
  const auto optimizer = make(name, options, {{"p", p}});
  for (int t = 1; t <= 5; ++t) {
    p.mutable_grad() = at::tensor({0.125F * t, -0.25F + 0.0625F * t}).view({1, 2});
    optimizer->step(1);
  }
  return {p[0][0].item<double>(), p[0][1].item<double>()};
}

void expect_close(const std::vector<double>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 2e-6) << i;
}

// What torch.optim (2.11.0, Python, CPU) gives for these gradients and options.
TEST(TorchNumbers, Sgd) {
  expect_close(after_five_steps("sgd", "{lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.25}"),
               {-0.197607666, -0.649592638});
}

TEST(TorchNumbers, Adam) {
  expect_close(after_five_steps("adam", "{lr: 0.1}"), {0.014916949, -0.844745159});
  expect_close(after_five_steps("adam", "{lr: 0.1, betas: [0.8, 0.95], eps: 0.01, weight_decay: 0.5}"),
               {0.00517103821, -0.775423527});
}

TEST(TorchNumbers, Adamw) {
  expect_close(after_five_steps("adamw", "{lr: 0.1, weight_decay: 0.5}"), {-0.0517347977, -0.606733024});
}

TEST(TorchNumbers, Rmsprop) {
  expect_close(after_five_steps("rmsprop", "{lr: 0.1}"), {-3.6088295, 0.313454539});
  expect_close(after_five_steps("rmsprop", "{lr: 0.1, momentum: 0.5}"), {-6.29873133, 1.94003868});
  expect_close(after_five_steps("rmsprop",
                                "{lr: 0.1, alpha: 0.9, momentum: 0.5, centered: true, weight_decay: 0.25, eps: 0.125}"),
               {-0.652728319, -0.390028894});
}

TEST(Lamb, MatchesTheFormulaInDouble) {
  const double b1 = 0.8, b2 = 0.95, eps = 0.01, decay = 0.5, lr = 0.1;
  double p[2] = {0.5, -1.25}, m[2] = {}, v[2] = {};
  for (int t = 1; t <= 5; ++t) {
    const double g[2] = {0.125 * t, -0.25 + 0.0625 * t};
    double u[2];
    for (int i = 0; i < 2; ++i) {
      m[i] = b1 * m[i] + (1 - b1) * g[i];
      v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i];
      u[i] = m[i] / (1 - std::pow(b1, t)) / (std::sqrt(v[i] / (1 - std::pow(b2, t))) + eps) + decay * p[i];
    }
    const double ratio = std::hypot(p[0], p[1]) / std::hypot(u[0], u[1]);
    for (int i = 0; i < 2; ++i) p[i] -= lr * ratio * u[i];
  }
  expect_close(after_five_steps("lamb", "{lr: 0.1, betas: [0.8, 0.95], eps: 0.01, weight_decay: 0.5}"), {p[0], p[1]});
}

TEST(Lamb, VectorsAndZerosTakePlainSteps) {
  // The first step's m^ = g, v^ = g^2: u = 1 with eps 0. A weight of 4: 4 - 0.5 * (4 / 1) * 1 = 2.
  const at::Tensor weight = parameter(4, 2), bias = parameter(4, 2, false), zero = parameter(0, 2);
  make("lamb", "{lr: 0.5, eps: 0, weight_decay: 0}", {{"w", weight}, {"b", bias}, {"z", zero}})->step(1);
  EXPECT_NEAR(value(weight), 2, 1e-6);
  EXPECT_NEAR(value(bias), 3.5, 1e-6);
  EXPECT_NEAR(value(zero), -0.5, 1e-6);
}

TEST(EveryOptimizer, ResumesToTheBit) {
  for (const std::string& name : optimizers().names()) {
    const std::string options = name == "rmsprop" ? "{momentum: 0.5, centered: true}" : "{}";
    const auto gradient = [](int step) { return at::tensor({0.3F * step, -0.7F, 0.1F + step}).view({1, 3}); };
    const auto run = [&](Optimizer& optimizer, const at::Tensor& p, int from, int to) {
      for (int step = from; step < to; ++step) {
        p.mutable_grad() = gradient(step);
        optimizer.step(0.5);
      }
    };
    const auto fresh = [] { return at::tensor({1.5F, -0.4F, 0.3F}).view({1, 3}).clone().set_requires_grad(true); };
    const at::Tensor whole = fresh();
    const auto never_stopped = make(name, options, {{"p", whole}, {"unused", parameter(1, 1)}});
    never_stopped->zero_grad();
    run(*never_stopped, whole, 0, 9);

    const at::Tensor first = fresh();
    const auto stopped = make(name, options, {{"p", first}, {"unused", parameter(1, 1)}});
    stopped->zero_grad();
    run(*stopped, first, 0, 4);
    io::TensorMap saved;
    for (const auto& [key, tensor] : stopped->state()) saved[key] = tensor.clone();
    const at::Tensor second = first.detach().clone().set_requires_grad(true);
    const auto resumed = make(name, options, {{"unused", parameter(1, 1)}, {"p", second}});
    resumed->load_state(saved, "file");
    resumed->zero_grad();
    run(*resumed, second, 4, 9);
    EXPECT_TRUE(second.equal(whole)) << name;
    EXPECT_FALSE(second.equal(first)) << name;

    // Part of a state is refused; sgd's whole state is one tensor, and none is a fresh start.
    if (saved.size() > 1) {
      saved.erase(saved.begin());
      EXPECT_THROW(resumed->load_state(saved, "file"), CheckpointError) << name;
    }
  }
}

TEST(Adam, CountsEachParametersSteps) {
  // The late parameter's first step is its own first: m^ / sqrt(v^) = 1 whatever the gradient.
  const at::Tensor early = parameter(0, 1), late = parameter(0, 1);
  const auto optimizer = make("adam", "{lr: 1, eps: 0}", {{"early", early}, {"late", late}});
  late.mutable_grad() = at::Tensor();
  optimizer->step(1);
  EXPECT_EQ(optimizer->state().count("late.step"), 0U);
  late.mutable_grad() = at::full({1, 1}, 0.01);
  optimizer->step(1);
  EXPECT_NEAR(value(late), -1, 1e-6);
  EXPECT_EQ(optimizer->state().at("early.step").item<int64_t>(), 2);
  EXPECT_EQ(optimizer->state().at("late.step").item<int64_t>(), 1);
  io::TensorMap state = optimizer->state();
  state["late.step"] = at::zeros({}, at::kLong);
  EXPECT_THROW(optimizer->load_state(state, "f"), CheckpointError);
}

TEST(ClipGradNorm, ScalesAllGradientsTogether) {
  // The norm of 3, 4 and 12 is 13; to 6.5 all are halved (up to the formula's 1e-6).
  const at::Tensor a = parameter(0, 3), b = parameter(0, 4), c = parameter(0, 12, false), none = parameter(0, 1);
  none.mutable_grad() = at::Tensor();
  const auto optimizer = sgd("{}", {{"a", a}, {"b", b}, {"c", c}, {"none", none}});
  EXPECT_DOUBLE_EQ(optimizer->clip_grad_norm(20), 13);
  EXPECT_EQ(a.grad().item<double>(), 3);
  EXPECT_DOUBLE_EQ(optimizer->clip_grad_norm(6.5), 13);
  EXPECT_NEAR(a.grad().item<double>(), 1.5, 1e-6);
  EXPECT_NEAR(b.grad().item<double>(), 2, 1e-6);
  EXPECT_NEAR(c.grad().item<double>(), 6, 1e-6);
  a.mutable_grad().fill_(std::numeric_limits<float>::infinity());
  EXPECT_THROW(optimizer->clip_grad_norm(1), Error);
}

TEST(NonFiniteGradient, TheFirstIsNamed) {
  const at::Tensor a = parameter(0, 3e38), b = parameter(0, 3e38, false), c = parameter(0, 1), none = parameter(0, 1);
  none.mutable_grad() = at::Tensor();
  const auto optimizer = sgd("{}", {{"a", a}, {"b", b}, {"c", c}, {"none", none}});
  EXPECT_EQ(optimizer->find_non_finite_gradient(), "");  // though a sum of them may not be finite
  c.mutable_grad().fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(optimizer->find_non_finite_gradient(), "c");
  b.mutable_grad().fill_(-std::numeric_limits<float>::infinity());
  EXPECT_EQ(optimizer->find_non_finite_gradient(), "b");
}

TEST(ClipGradValue, LimitsEachValue) {
  const at::Tensor a = parameter(0, 3), b = parameter(0, -0.25), c = parameter(0, -7);
  sgd("{}", {{"a", a}, {"b", b}, {"c", c}})->clip_grad_value(0.5);
  EXPECT_EQ(a.grad().item<double>(), 0.5);
  EXPECT_EQ(b.grad().item<double>(), -0.25);
  EXPECT_EQ(c.grad().item<double>(), -0.5);
}

TEST(Sgd, OneTensorTwiceIsRefused) {
  const at::Tensor p = parameter(0, 1);
  EXPECT_THROW(sgd("{}", {{"a", p}, {"b", p}}), Error);
}

TEST(Sgd, NesterovNeedsMomentum) {
  try {
    sgd("{nesterov: true, momentum: 0}", {});
    FAIL() << "expected a ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "o.yaml:1:1: nesterov: expected a momentum above 0");
  }
}

TEST(AdamOptions, Errors) {
  const auto complaint = [](const std::string& options) {
    try {
      make("adam", options, {});
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("no ConfigError");
  };
  EXPECT_EQ(complaint("{betas: [0.9]}"), "o.yaml:1:1: betas: expected 2 values, found 1");
  EXPECT_NE(complaint("{betas: [0.9, 1]}").find("betas[1]: 1 is out of bounds: expected >= 0, < 1"), std::string::npos);
  EXPECT_NE(complaint("{quantizer_lr: -1}").find("quantizer_lr: -1 is out of bounds"), std::string::npos);
  EXPECT_NE(complaint("{momentum: 0.9}").find("momentum: unknown key"), std::string::npos);
}

TEST(Defaults, AreTorchs) {
  const auto option = [](const std::string& name, const std::string& key) {
    return optimizers().get(name).resolve(config::load_text("{}", "o.yaml").root()).at(key).inline_yaml();
  };
  EXPECT_EQ(option("adam", "lr"), "0.001");
  EXPECT_EQ(option("adam", "weight_decay"), "0");
  EXPECT_EQ(option("adamw", "weight_decay"), "0.01");
  EXPECT_EQ(option("adamw", "betas"), "[0.9, 0.999]");
  EXPECT_EQ(option("rmsprop", "lr"), "0.01");
  EXPECT_EQ(option("rmsprop", "alpha"), "0.99");
  EXPECT_EQ(option("lamb", "eps"), "1e-06");
}

}  // namespace
}  // namespace qat::trainers
