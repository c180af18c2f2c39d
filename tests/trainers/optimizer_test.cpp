#include "trainers/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/config/config.h"

namespace qat::trainers {
namespace {

std::unique_ptr<Optimizer> sgd(const std::string& options, std::vector<NamedParameter> parameters) {
  return optimizers().get("sgd").make(config::load_text(options, "o.yaml").root(), std::move(parameters));
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
  const auto optimizer = sgd("{momentum: 0.5}", {{"p", p}});
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
  const auto optimizer = sgd("{momentum: 0.5, nesterov: true}", {{"p", p}});
  optimizer->step(0.5);
  EXPECT_EQ(value(p), 1.25);
  optimizer->step(0.5);
  EXPECT_EQ(value(p), 0.375);
}

TEST(Sgd, OnlyWeightsDecay) {
  // weight: g = 1 + 0.25 * 4 = 2, p = 4 - 0.5 * 2 = 3; bias: p = 4 - 0.5 * 1 = 3.5.
  const at::Tensor weight = parameter(4, 1), bias = parameter(4, 1, false);
  sgd("{momentum: 0, weight_decay: 0.25}", {{"w", weight}, {"b", bias}})->step(0.5);
  EXPECT_EQ(value(weight), 3);
  EXPECT_EQ(value(bias), 3.5);
}

TEST(Sgd, ParametersWithoutGradientStay) {
  const at::Tensor p = parameter(1, 1), frozen = parameter(1, 1);
  const auto optimizer = sgd("{momentum: 0.5}", {{"p", p}, {"frozen", frozen}});
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
  const auto before = sgd("{momentum: 0.5}", {{"a", a}, {"b", b}});
  before->step(1);
  io::TensorMap saved;
  for (const auto& [name, tensor] : before->state()) saved[name] = tensor.clone();
  const at::Tensor a2 = parameter(0, 0), b2 = parameter(0, 0);
  const auto after = sgd("{momentum: 0.5}", {{"b", b2}, {"a", a2}});
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

}  // namespace
}  // namespace qat::trainers
