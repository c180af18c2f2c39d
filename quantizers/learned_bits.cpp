#include "quantizers/learned_bits.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "core/autograd/fake_quantize.h"
#include "core/autograd/node.h"
#include "core/quant/uniform.h"
#include "quantizers/minmax.h"

namespace qat::quantizers {

struct LearnedBitsOptions {
  double cost = 0.01;
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::LearnedBitsOptions> {
  static void describe(Fields<qat::quantizers::LearnedBitsOptions>& f) {
    f.field("cost", &qat::quantizers::LearnedBitsOptions::cost).doc("of one bit of one scale, in the loss").minimum(0);
  }
};

namespace qat::quantizers {
namespace {

using at::Tensor;

struct LearnedBitsBackward final : autograd::Backward {
  Tensor t, levels;       // x / d [scales, n], M [scales, 1]
  Tensor gradient_scale;  // [scales]

  std::string name() const override { return "qat::learned_bits"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const Tensor g = grad.reshape(t.sizes()), inside = t.abs() <= levels, wide = g.to(at::kDouble);
    const auto sum = [&](const Tensor& d) { return (wide * d).sum(1).mul_(gradient_scale).to(at::kFloat); };
    if (needed[0]) result[0] = (g * inside).reshape(grad.sizes());
    if (needed[1]) result[1] = sum((t.round() - t) * inside);
    if (needed[2]) result[2] = sum(t.sign() * inside.logical_not());
    return result;
  }
};

}  // namespace

LearnedBits::LearnedBits(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : Quantizer(spec),
      cost_(options.options.as<LearnedBitsOptions>().cost),
      step_(register_parameter("step", at::ones({spec.scales()}, at::kFloat))),
      q_max_(register_parameter("q_max", at::ones({spec.scales()}, at::kFloat))) {}

void LearnedBits::observe(const Tensor& values) {
  const at::NoGradGuard no_grad;
  step_.copy_(largest_scale(rows(values), spec().hi()));
  q_max_.copy_(step_ * static_cast<double>(spec().hi()));
}

Tensor LearnedBits::levels() const { return (q_max_.detach() / step_.detach()).round().clamp(1, spec().hi()); }

int LearnedBits::width() const { return static_cast<int>((levels() + 1).log2().ceil().max().item<double>()) + 1; }

double LearnedBits::gradient_scale(int64_t elements) const { return 1.0 / std::sqrt(static_cast<double>(elements)); }

Tensor LearnedBits::fake_quantize(const Tensor& x) {
  if (x.numel() == 0) return x;
  auto saved = std::make_unique<LearnedBitsBackward>();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    const Tensor d = step_.detach().view({-1, 1}), m = levels();
    saved->t = rows(x.detach()) / d;
    saved->levels = m.view({-1, 1});
    saved->gradient_scale = m.to(at::kDouble).rsqrt() * gradient_scale(saved->t.size(1));
    y = (at::minimum(at::maximum(saved->t, -saved->levels), saved->levels).round() * d).view(x.sizes());
  }
  return autograd::connect(y, {x, step_, q_max_}, std::move(saved));
}

quant::QParams LearnedBits::parameters_now() const { return {step_, at::zeros({spec().scales()}, at::kInt)}; }

void LearnedBits::project() {
  const at::NoGradGuard no_grad;
  step_.clamp_min_(quant::kSmallestScale);
  q_max_.copy_(at::minimum(at::maximum(q_max_, step_), step_ * static_cast<double>(spec().hi())));
}

Tensor LearnedBits::penalty() const { return cost_ == 0 ? Tensor() : ((q_max_ / step_ + 1).log2() + 1).sum() * cost_; }

}  // namespace qat::quantizers
