// The hand-written front door: quantized layers in a plain LibTorch program.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "core/nn/modules.h"
#include "quantizers/builtin.h"
#include "tests/support/tensors.h"

namespace qat::nn {
namespace {

class Layers : public testing::Test {
 protected:
  Layers() {
    quantizers::register_builtin();
    at::manual_seed(4);
  }
};

TEST_F(Layers, QConv2dTrainsInAPlainLoop) {
  QConv2d conv(
      QConv2dOptions(4, 8, 3).padding(1).batch_norm(true).relu(true).weight(lsq(4)).input(minmax(8)).output(lsq(8)));
  const at::Tensor x = at::randn({8, 4, 6, 6});
  const at::Tensor target = at::rand({8, 8, 6, 6});
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    for (at::Tensor& p : conv->parameters()) p.mutable_grad() = at::Tensor();
    const at::Tensor loss = (conv(x) - target).square().mean();
    loss.backward();
    (step == 0 ? first : last) = loss.item<double>();
    const at::NoGradGuard no_grad;
    for (at::Tensor& p : conv->parameters()) {
      ASSERT_TRUE(p.grad().defined());
      p.sub_(p.grad() * 0.05);
    }
  }
  EXPECT_LT(last, first * 0.9);
}

TEST_F(Layers, EightBitsAreCloseToFloat) {
  QConv2d conv(QConv2dOptions(4, 8, 3).stride(2).groups(2).input(minmax(8)));
  const at::Tensor x = at::randn({2, 4, 9, 9});
  const at::Tensor expected = at::conv2d(x, conv->named_parameters()["weight"], conv->named_parameters()["bias"],
                                         {2, 2}, at::IntArrayRef{0, 0}, {1, 1}, 2);
  conv->eval();
  EXPECT_LT(test::relative_error(conv(x), expected), 0.02);

  QLinear linear(QLinearOptions(12, 5).relu(true).input(minmax(8)).output(minmax(8)));
  const at::Tensor v = at::randn({3, 12});
  const at::Tensor float_values =
      at::relu(at::linear(v, linear->named_parameters()["weight"], linear->named_parameters()["bias"]));
  linear->eval();
  EXPECT_LT(test::relative_error(linear(v), float_values), 0.03);
}

TEST_F(Layers, QReLUQuantizesWhatIsPositive) {
  QReLU relu(lsq(4));
  const at::Tensor x = at::tensor({-3.0f, -0.1f, 0.5f, 2.0f}).view({1, 4}).set_requires_grad(true);
  const at::Tensor y = relu(x);
  const double s = 2.0 * 0.625 / std::sqrt(15.0);  // 2 mean|relu(x)| / sqrt(Qp)
  const at::Tensor expected = (at::relu(x.detach()) / s).round().clamp(0, 15) * s;
  EXPECT_TRUE(at::allclose(y, expected));
  y.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::tensor({0.0f, 0.0f, 1.0f, 1.0f}).view({1, 4})));
}

TEST_F(Layers, FrozenTrainingEqualsEvaluation) {
  QConv2d conv(QConv2dOptions(4, 8, 3).batch_norm(true).relu(true).input(minmax(8)).output(minmax(8)));
  const at::Tensor x = at::randn({2, 4, 9, 9});
  for (int i = 0; i < 3; ++i) conv(x);  // batch statistics
  conv->set_phase(Phase::kFrozen);
  const at::Tensor trained = conv(x);
  conv->eval();
  EXPECT_TRUE(at::equal(trained, conv(x)));
  conv->set_phase(Phase::kLive);
  EXPECT_TRUE(at::equal(trained, conv(x)));
}

TEST_F(Layers, MistakesAreNamed) {
  QConv2d no_input(QConv2dOptions(4, 8, 3));
  EXPECT_THROW(no_input(at::randn({1, 4, 5, 5})), Error);
  EXPECT_THROW(QConv2d(QConv2dOptions(5, 8, 3).groups(2)), Error);
  EXPECT_THROW(QConv2d(QConv2dOptions(4, 8, 3).weight(lsq(1))), Error);
  QMaxPool2d pool("pool", {});
  EXPECT_THROW(pool.set_weight_quantizer(nullptr), GraphError);
  QAdd add("residual", {});
  add.set_phase(Phase::kFrozen);
  add.set_output_quantizer(quant::quantizers().get("minmax")({.bits = 8}, {}));
  try {
    add.run({at::zeros({1, 2}), at::zeros({1, 2})});
    FAIL();
  } catch (const GraphError& error) {
    EXPECT_EQ(std::string(error.what()),
              "residual (add): expected quantized input, found floats: its producer needs an output quantizer");
  }
}

}  // namespace
}  // namespace qat::nn
