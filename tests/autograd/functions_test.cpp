// mul, concat, tables and moves on codes: values against the runtime's formulas written out, gradients against the same
// functions in double.
#include "core/autograd/functions.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "core/ops/table.h"
#include "tests/support/tensors.h"

namespace qat::autograd {
namespace {

using at::Tensor;
using test::output_quantizer;
using test::random_codes;
using test::real;
using test::relative_error;

OutputQuantizer learning_output(float scale, int32_t zero_point) {
  OutputQuantizer output = output_quantizer(scale, zero_point);
  output.rule = GradientRule::kLearnedStep;
  output.learn = true;
  output.gradient_scale = [](int64_t) { return 0.5; };
  output.scale.set_requires_grad(true);
  return output;
}

/// Codes, input gradients and the scale's gradient of y = Q(v), v the function in double of `inputs`.
void expect_function(const QuantizedTensor& y, const Tensor& v, const std::vector<Tensor>& inputs,
                     const std::vector<Tensor>& handles, const OutputQuantizer& output) {
  const double s = y.scale();
  const int z = y.zero_point();
  const Tensor t = v.detach() / s;
  const Tensor expected = t.clamp(-z, 255 - z).round() + z;
  const Tensor difference = (y.codes().to(at::kDouble) - expected).abs();
  EXPECT_LE(difference.max().item<double>(), 1.0);
  EXPECT_LE(difference.sum().item<double>(), 0.002 * static_cast<double>(v.numel()));  // near-ties

  const Tensor g = at::randn(y.sizes());
  y.handle().backward(g);
  const Tensor inside = (t >= -z).logical_and(t <= 255 - z);
  (v * g.to(at::kDouble) * inside).sum().backward();
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_LT(relative_error(handles[i].grad(), inputs[i].grad()), 1e-5) << i;
  const Tensor c = y.codes().to(at::kDouble) - z;
  const double ds = (g.to(at::kDouble) * at::where(inside, c - t, c)).sum().item<double>() * 0.5;
  EXPECT_NEAR(output.scale.grad().item<double>(), ds, 1e-3 * std::abs(ds) + 1e-3);
}

class Functions : public testing::Test {
 protected:
  Functions() { at::manual_seed(5); }
};

TEST_F(Functions, Mul) {
  for (const bool broadcast : {false, true}) {
    for (const bool first : {false, true}) {
      const QuantizedTensor x = random_codes({3, 5, 4, 6}, 0.03f, {0, 255, 100});
      const QuantizedTensor gate = random_codes(
          broadcast ? std::vector<int64_t>{3, 5, 1, 1} : std::vector<int64_t>{3, 5, 4, 6}, 0.01f, {0, 255, 30});
      const OutputQuantizer output = learning_output(0.0213f, 90);  // no exact ties
      const Tensor a = real(x).set_requires_grad(true), b = real(gate).set_requires_grad(true);
      expect_function(first ? mul(gate, x, output) : mul(x, gate, output), a * b, {a, b}, {x.handle(), gate.handle()},
                      output);
    }
  }
  EXPECT_THROW(mul(random_codes({2, 3}, 1.0f, {}), random_codes({2, 4}, 1.0f, {}), output_quantizer(1.0f, 0)), Error);
}

TEST_F(Functions, Concat) {
  const QuantizedTensor x = random_codes({3, 5, 4, 6}, 0.03f, {0, 255, 100});
  const QuantizedTensor y = random_codes({3, 2, 4, 6}, 0.05f, {0, 255, 128});
  const OutputQuantizer output = learning_output(0.0417f, 120);
  const Tensor a = real(x).set_requires_grad(true), b = real(y).set_requires_grad(true);
  expect_function(concat({x, y}, output), at::cat({a, b}, 1), {a, b}, {x.handle(), y.handle()}, output);

  // Equal parameters: copies.
  const QuantizedTensor same = concat({x, y}, output_quantizer(0.03f, 100));
  EXPECT_TRUE(at::equal(same.codes().narrow(1, 0, 5), x.codes()));
  EXPECT_FALSE(at::equal(same.codes().narrow(1, 5, 2), y.codes()));
}

const TableFunction kSigmoid{"sigmoid", ops::sigmoid,
                             [](double v) { return std::exp(-v) / std::pow(1 + std::exp(-v), 2); }};

TableFunction leaky_relu(float slope) {
  return {"leaky_relu", [slope](float v) { return ops::leaky_relu(v, slope); },
          [slope](double v) { return v > 0 ? 1.0 : slope; }};
}

TEST_F(Functions, Tables) {
  {
    const QuantizedTensor x = random_codes({3, 5, 4, 6}, 0.03f, {0, 255, 128});
    const OutputQuantizer output = learning_output(0.003f, 0);  // clips above 0.765
    const Tensor a = real(x).set_requires_grad(true);
    expect_function(table(x, kSigmoid, output), at::sigmoid(a), {a}, {x.handle()}, output);
  }
  const QuantizedTensor x = random_codes({40, 7}, 0.03f, {0, 255, 128});
  const OutputQuantizer output = learning_output(0.015f, 40);
  const Tensor a = real(x).set_requires_grad(true);
  expect_function(table(x, leaky_relu(0.125f), output), at::leaky_relu(a, 0.125), {a}, {x.handle()}, output);
}

TEST_F(Functions, RangesAreObservedBeforeTheyAreUsed) {
  const Tensor codes = at::tensor({10, 20, 30, 40}, at::kByte).view({1, 4});
  const QuantizedTensor x(codes, 0.5f, {0, 255, 20}, make_handle({1, 4}));
  OutputQuantizer output = output_quantizer(0.1f, 0);
  double lo = 0, hi = 0;
  output.observe = [&](double a, double b) { lo = a, hi = b; };
  table(x, leaky_relu(0.5f), output);
  EXPECT_EQ(lo, -2.5);  // half of 0.5 * (10 - 20)
  EXPECT_EQ(hi, 10.0);
  mul(x, x, output);
  EXPECT_EQ(lo, 0.0);
  EXPECT_EQ(hi, 100.0);
  concat({x, x}, output);
  EXPECT_EQ(lo, -5.0);
}

TEST_F(Functions, MovesWorkOnCodesAndTheirGradientIsTheMovesOwn) {
  const QuantizedTensor x = random_codes({2, 6, 3, 4}, 0.5f, {0, 255, 7});
  const auto shuffle = [](const Tensor& t) {
    return t.reshape({2, 3, 2, 3, 4}).transpose(1, 2).reshape({2, 6, 3, 4}).narrow(1, 1, 4);
  };
  const QuantizedTensor y = move(x, shuffle);
  EXPECT_TRUE(at::equal(y.codes(), shuffle(x.codes())));
  EXPECT_EQ(y.scale(), 0.5f);
  EXPECT_EQ(y.zero_point(), 7);
  const Tensor g = at::randn({2, 4, 3, 4});
  y.handle().backward(g);
  const Tensor a = at::zeros({2, 6, 3, 4}).set_requires_grad(true);
  (shuffle(a) * g).sum().backward();
  EXPECT_TRUE(at::equal(x.handle().grad(), a.grad()));
}

TEST_F(Functions, StochasticDepthDropsWholeSamples) {
  const QuantizedTensor x = random_codes({64, 3, 2, 2}, 0.5f, {0, 255, 7});
  const QuantizedTensor y = drop_samples(x, 0.25);
  EXPECT_FLOAT_EQ(y.scale(), 0.5f / 0.75f);
  const Tensor kept = y.codes().eq(x.codes()).flatten(1).all(1), dropped = y.codes().eq(7).flatten(1).all(1);
  EXPECT_TRUE(kept.logical_or(dropped).all().item<bool>());
  const int64_t count = dropped.sum().item<int64_t>();
  EXPECT_GT(count, 4);  // 16 expected, standard deviation 3.5
  EXPECT_LT(count, 30);
  y.handle().backward(at::ones({64, 3, 2, 2}));
  EXPECT_TRUE(at::allclose(x.handle().grad().flatten(1).amax(1), kept.to(at::kFloat) / 0.75));
}

}  // namespace
}  // namespace qat::autograd
