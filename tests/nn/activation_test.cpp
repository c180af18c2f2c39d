// Tables of activations: values and derivatives against LibTorch's functions in double.
#include "core/nn/activation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace qat::nn {
namespace {

TEST(Activation, TablesHaveLibTorchsValuesAndGradients) {
  const std::vector<std::pair<Activation, std::function<at::Tensor(const at::Tensor&)>>> functions{
      {{.kind = Activation::Kind::kSigmoid}, [](const at::Tensor& x) { return at::sigmoid(x); }},
      {{.kind = Activation::Kind::kSilu}, [](const at::Tensor& x) { return at::silu(x); }},
      {{.kind = Activation::Kind::kHardsigmoid}, [](const at::Tensor& x) { return at::hardsigmoid(x); }},
      {{.kind = Activation::Kind::kHardswish}, [](const at::Tensor& x) { return at::hardswish(x); }},
      {{.kind = Activation::Kind::kLeakyRelu, .slope = 0.125},
       [](const at::Tensor& x) { return at::leaky_relu(x, 0.125); }}};
  for (const auto& [activation, reference] : functions) {
    SCOPED_TRACE(activation.name());
    const auto table = activation.table();
    ASSERT_TRUE(table);
    for (double v = -7.03; v < 7; v += 0.125) {
      const at::Tensor x = at::full({}, v, at::kDouble).set_requires_grad(true);
      const at::Tensor y = reference(x);
      y.backward();
      EXPECT_NEAR(table->value(static_cast<float>(v)), y.item<double>(), 2e-6) << v;
      EXPECT_NEAR(table->derivative(v), x.grad().item<double>(), 1e-7) << v;
    }
  }
  EXPECT_FALSE(Activation{.kind = Activation::Kind::kGelu}.table());
}

}  // namespace
}  // namespace qat::nn
