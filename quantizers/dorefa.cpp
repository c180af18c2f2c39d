#include "quantizers/dorefa.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "core/autograd/fake_quantize.h"
#include "core/autograd/node.h"
#include "core/base/error.h"
#include "core/quant/uniform.h"

namespace qat::quantizers {

struct DorefaOptions {
  std::string gradient = "tanh";
  bool scaled_sign = true;
  int gradient_bits = 0;
  double ewgs = 0;
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::DorefaOptions> {
  static void describe(Fields<qat::quantizers::DorefaOptions>& f) {
    using T = qat::quantizers::DorefaOptions;
    f.field("gradient", &T::gradient)
        .doc("of weights: what is differentiated")
        .one_of({"tanh", "tanh_max_constant", "identity"});
    f.field("scaled_sign", &T::scaled_sign).doc("1-bit weights: sign(w) * mean|w|");
    f.field("gradient_bits", &T::gradient_bits)
        .doc("of the gradient behind an activation; 0: float")
        .minimum(0)
        .maximum(16);
    f.field("ewgs", &T::ewgs)
        .doc("of activations: element-wise gradient scaling (arXiv:2104.00903); 0: off")
        .minimum(0);
  }
};

namespace qat::quantizers {
namespace {

using at::Tensor;

/// The quantized gradient; random numbers come from LibTorch's generator, which a step's number seeds.
struct GradientQuantization final : autograd::Backward {
  int bits = 8;

  std::string name() const override { return "qat::dorefa_gradient"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>&) override {
    if (grad.numel() == 0) return {grad};
    const double n = std::exp2(bits) - 1;
    std::vector<int64_t> sizes(grad.dim(), 1);
    if (grad.dim() > 0) sizes[0] = grad.size(0);
    const Tensor largest = grad.abs().reshape({sizes.empty() ? 1 : sizes[0], -1}).amax(1).view(sizes);
    const Tensor twice = (largest * 2).clamp_min(1e-30);
    const Tensor noise = at::empty_like(grad).uniform_(-0.5, 0.5).div_(n);
    const Tensor v = (grad / twice).add_(0.5).add_(noise).clamp_(0, 1);
    return {((v * n).round_().div_(n) - 0.5).mul_(twice)};
  }
};

}  // namespace

Dorefa::Dorefa(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) : Quantizer(spec) {
  QAT_CHECK(spec.is_weight() || !spec.is_signed || spec.bits > 1,
            "dorefa: activations that can be negative need 2 bits: -1, 0 and 1 are three levels");
  const auto o = options.options.as<DorefaOptions>();
  gradient_ = o.gradient;
  scaled_sign_ = o.scaled_sign;
  ewgs_ = o.ewgs;
  gradient_bits_ = spec.is_weight() ? 0 : o.gradient_bits;
  const double levels = spec.is_weight() ? std::exp2(spec.bits) - 1 : spec.positive_levels();
  scale_ = register_buffer("scale", at::full({1}, 1.0 / levels, at::kFloat));
}

quant::Traits Dorefa::traits() const {
  if (!spec().is_weight()) return {.code_bits = spec().bits};
  return {.idempotent = is_sign(), .integer_levels = false, .code_bits = spec().bits + 1, .normalizes = !is_sign()};
}

std::optional<quant::GradientRule> Dorefa::rule() const {
  if (spec().is_weight() || gradient_bits_ != 0 || ewgs_ != 0) return std::nullopt;
  return quant::GradientRule::kStraightThrough;
}

void Dorefa::refresh(const Tensor& weight) {
  if (!is_sign() || weight.numel() == 0) return;
  const at::NoGradGuard no_grad;
  scale_.copy_(weight.detach().abs().to(at::kDouble).mean().clamp_min(quant::kSmallestScale).view({1}));
}

Tensor Dorefa::quantize_weights(const Tensor& w) const {
  if (is_sign()) {
    const Tensor sign = at::where(w.detach() >= 0, at::ones_like(w), -at::ones_like(w)).detach();
    return autograd::straight_through(sign * scale_, w);
  }
  const double n = std::exp2(spec().bits) - 1;
  const Tensor t = w.tanh();
  Tensor largest = t.abs().max().clamp_min(1e-30);
  if (gradient_ == "tanh_max_constant") largest = largest.detach();
  const Tensor unit = t / largest;  // [-1, 1]
  const Tensor codes = ((unit.detach() / 2 + 0.5) * n).round() * 2 - n;
  return autograd::straight_through(codes * scale_, gradient_ == "identity" ? w : unit);
}

Tensor Dorefa::fake_quantize(const Tensor& x) {
  if (spec().is_weight()) return x.numel() == 0 ? x : quantize_weights(x);
  const quant::QParams params = parameters_now();
  autograd::AffineGrid grid{
      .scale = params.scale, .zero_point = params.zero_point, .offset = {}, .lo = spec().lo(), .hi = spec().hi()};
  grid.gradient.ewgs = ewgs_;
  Tensor y = autograd::fake_quantize(x, grid);
  if (gradient_bits_ == 0) return y;
  auto saved = std::make_unique<GradientQuantization>();
  saved->bits = gradient_bits_;
  return autograd::connect(y.detach().clone(), {y}, std::move(saved));
}

quant::QParams Dorefa::parameters_now() const {
  return {scale_, at::full({1}, spec().symmetric_zero_point(), at::kInt)};
}

}  // namespace qat::quantizers
