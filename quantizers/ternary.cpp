#include "quantizers/ternary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <optional>

#include "core/autograd/fake_quantize.h"
#include "core/autograd/node.h"
#include "core/quant/uniform.h"

namespace qat::quantizers {

struct TernaryOptions {
  std::string levels = "twn";
  std::optional<double> threshold;
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::TernaryOptions> {
  static void describe(Fields<qat::quantizers::TernaryOptions>& f) {
    using T = qat::quantizers::TernaryOptions;
    f.field("levels", &T::levels).doc("one magnitude, or two trained ones").one_of({"twn", "ttq"});
    f.field("threshold", &T::threshold)
        .doc("delta / mean|w| (twn, null: 0.7) or / max|w| (ttq, null: 0.05)")
        .minimum(0)
        .below(1);
  }
};

namespace qat::quantizers {
namespace {

using at::Tensor;

struct TtqBackward final : autograd::Backward {
  Tensor signs, positive, negative;  // [scales, n], [scales]

  std::string name() const override { return "qat::ttq"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const Tensor g = grad.reshape(signs.sizes());
    const Tensor above = signs > 0, below = signs < 0;
    if (needed[0]) {
      const Tensor p = positive.view({-1, 1}), n = negative.view({-1, 1});
      result[0] = at::where(above, g * p, at::where(below, g * n, g)).reshape(grad.sizes());
    }
    if (needed[1]) result[1] = (g.to(at::kDouble) * above).sum(1).to(at::kFloat);
    if (needed[2]) result[2] = (g.to(at::kDouble) * below).sum(1).neg().to(at::kFloat);
    return result;
  }
};

}  // namespace

Ternary::Ternary(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) : Quantizer(spec) {
  const auto o = options.options.as<TernaryOptions>();
  trained_ = o.levels == "ttq";
  threshold_ = o.threshold.value_or(trained_ ? 0.05 : 0.7);
  scale_ = register_buffer("scale", at::ones({spec.scales()}, at::kFloat));
  if (!trained_) return;
  positive_ = register_parameter("positive", at::ones({spec.scales()}, at::kFloat));
  negative_ = register_parameter("negative", at::ones({spec.scales()}, at::kFloat));
}

quant::Traits Ternary::traits() const {
  // TTQ's smaller magnitude may come to lie below 0.05 of the larger one.
  return {.affine = !trained_, .idempotent = !trained_, .code_bits = 2};
}

Tensor Ternary::signs(const Tensor& w) const {
  const Tensor size = w.abs();
  const Tensor delta = (trained_ ? size.amax(1) : size.to(at::kDouble).mean(1).to(at::kFloat)) * threshold_;
  return w.sign() * (size > delta.unsqueeze(1));
}

void Ternary::refresh(const Tensor& weight) {
  if (weight.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const Tensor w = rows(weight.detach()), used = signs(w).abs().to(at::kDouble);
  const Tensor alpha = (w.to(at::kDouble).abs() * used).sum(1) / used.sum(1).clamp_min(1);
  scale_.copy_(alpha.clamp_min(quant::kSmallestScale));
}

void Ternary::initialize_parameters() {
  if (!trained_) return;
  const at::NoGradGuard no_grad;
  positive_.copy_(scale_);
  negative_.copy_(scale_);
}

Tensor Ternary::fake_quantize(const Tensor& x) {
  if (x.numel() == 0) return x;
  const Tensor s = signs(rows(x.detach()));
  if (!trained_) return autograd::straight_through((s * scale_.view({-1, 1})).view(x.sizes()), x);
  auto saved = std::make_unique<TtqBackward>();
  saved->signs = s;
  saved->positive = positive_.detach().clone(), saved->negative = negative_.detach().clone();
  const Tensor y = at::where(s > 0, saved->positive.view({-1, 1}),
                             at::where(s < 0, -saved->negative.view({-1, 1}), at::zeros({1}, at::kFloat)));
  return autograd::connect(y.view(x.sizes()), {x, positive_, negative_}, std::move(saved));
}

quant::QParams Ternary::parameters_now() const {
  if (trained_) return Quantizer::parameters_now();
  return {scale_, at::zeros({spec().scales()}, at::kInt)};
}

void Ternary::project() {
  if (!trained_) return;
  const at::NoGradGuard no_grad;
  positive_.clamp_min_(quant::kSmallestScale);
  negative_.clamp_min_(quant::kSmallestScale);
}

}  // namespace qat::quantizers
