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

TEST_F(Layers, LevelsThatAreNoCodesRunInFloat) {
  const Choice gfpq{.method = "gfpq", .granularity = quant::Granularity::kTensor};
  QConv2d conv(QConv2dOptions(4, 8, 3).bias(false).weight(gfpq).input(minmax(8)));
  EXPECT_NE(conv->values_reason(), "");
  const at::Tensor x = at::randn({2, 4, 5, 5});
  conv->eval();
  const at::Tensor y = conv(x);
  // The same on the quantizers' own values.
  const at::Tensor weight = conv->named_parameters()["weight"];
  auto weights = quant::quantizers().get("gfpq")({.role = quant::Role::kWeight, .channels = 8}, {});
  auto inputs = quant::quantizers().get("minmax")({.is_signed = true, .affine = true}, {});
  for (const auto& [quantizer, values] : {std::pair{weights, weight}, std::pair{inputs, x}}) {
    quantizer->observe(values);
    quantizer->initialize();
    quantizer->eval();
  }
  EXPECT_TRUE(at::allclose(y, at::conv2d(inputs->forward(x), weights->forward(weight)), 1e-5, 1e-5));
  y.sum().backward();
  EXPECT_GT(weight.grad().ne(0).sum().item<int64_t>(), 0);
}

TEST_F(Layers, APluginNeedsOnlyForwardAndQParams) {
  // Rounds to whole numbers; its gradient is twice the incoming one, so the layer must have asked forward() for it.
  class Whole final : public quant::Quantizer {
   public:
    explicit Whole(const quant::QuantSpec& spec) : Quantizer(spec) {}
    std::string method() const override { return "whole"; }
    void observe(const at::Tensor&) override {}

   private:
    at::Tensor fake_quantize(const at::Tensor& x) override {
      const at::Tensor y = x.detach().round().clamp(spec().lo() - zero(), spec().hi() - zero());
      return 2 * x + (y - 2 * x).detach();
    }
    void initialize_parameters() override {}
    quant::QParams parameters_now() const override {
      return {at::ones({spec().scales()}), at::full({spec().scales()}, zero(), at::kInt)};
    }
    int32_t zero() const { return spec().symmetric_zero_point(); }
  };
  QConv2d conv(QConv2dOptions(1, 1, 1).bias(false).input(minmax(8)));
  conv->set_weight_quantizer(std::make_shared<Whole>(quant::QuantSpec{.role = quant::Role::kWeight, .channels = 1}));
  conv->set_output_quantizer(std::make_shared<Whole>(quant::QuantSpec{.is_signed = true}));
  {
    const at::NoGradGuard no_grad;
    conv->named_parameters()["weight"].fill_(2.7f);
  }
  const at::Tensor x = at::tensor({-1.0f, 0.5f, 1.0f}).view({1, 1, 1, 3});
  for (const Phase phase : {Phase::kLive, Phase::kFrozen}) {
    conv->set_phase(phase);
    const at::Tensor y = conv(x);
    EXPECT_TRUE(at::allclose(y.flatten(), at::tensor({-3.0f, 2.0f, 3.0f}), 0, 1e-5)) << y;  // 3 * 0.50196 rounds up
    conv->zero_grad();
    y.sum().backward();
    // Twice for the output, twice for the weight: 4 * sum x = 2
    EXPECT_NEAR(conv->named_parameters()["weight"].grad().item<double>(), 2.0, 0.1);
  }
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
