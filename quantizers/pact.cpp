#include "quantizers/pact.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include "core/autograd/fake_quantize.h"
#include "core/autograd/node.h"
#include "core/autograd/watched.h"
#include "core/quant/uniform.h"

namespace qat::quantizers {

struct PactOptions {
  double alpha = 6;
  double decay = 0;
  bool rounding_term = false;
  double ewgs = 0;
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::PactOptions> {
  static void describe(Fields<qat::quantizers::PactOptions>& f) {
    using T = qat::quantizers::PactOptions;
    f.field("alpha", &T::alpha).doc("first clip level").above(0);
    f.field("decay", &T::decay).doc("weight of alpha^2 / 2 in the loss").minimum(0);
    f.field("rounding_term", &T::rounding_term).doc("differentiate the step inside the range too");
    f.field("ewgs", &T::ewgs).doc("element-wise gradient scaling (arXiv:2104.00903); 0: off").minimum(0);
  }
};

namespace qat::quantizers {
namespace {

using at::Tensor;

/// The paper's gradient; low = (lo - z) / (hi - z) is the lower clip level in units of alpha.
struct PactBackward final : autograd::Backward {
  autograd::Watched x;
  double alpha = 1, low = 0;
  Tensor y;         // only with EWGS
  double gain = 0;  // ewgs / width of the range

  std::string name() const override { return "qat::pact"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const Tensor& values = x.get(name());
    const Tensor above = values >= alpha, below = values < alpha * low;
    if (needed[0]) {
      result[0] = grad.masked_fill(above.logical_or(below), 0.0);
      if (gain != 0) result[0] = result[0] * (1 + grad.sign() * (values - y) * gain);
    }
    if (needed[1]) {
      const Tensor g = grad.to(at::kDouble);
      result[1] = ((g * above).sum() + (g * below).sum() * low).view({1}).to(at::kFloat);
    }
    return result;
  }
};

}  // namespace

Pact::Pact(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) : Quantizer(spec) {
  const auto o = options.options.as<PactOptions>();
  rounding_term_ = o.rounding_term;
  decay_ = o.decay;
  ewgs_ = o.ewgs;
  alpha_ = register_parameter("alpha", at::full({1}, o.alpha, at::kFloat));
}

quant::QParams Pact::parameters_now() const {
  return {alpha_ / static_cast<double>(spec().positive_levels()),
          at::full({1}, spec().symmetric_zero_point(), at::kInt)};
}

Tensor Pact::fake_quantize(const Tensor& x) {
  const quant::QParams params = parameters_now();
  autograd::AffineGrid grid{
      .scale = params.scale, .zero_point = params.zero_point, .offset = {}, .lo = spec().lo(), .hi = spec().hi()};
  grid.gradient.ewgs = ewgs_;
  if (rounding_term_) return autograd::fake_quantize(x, grid);
  Tensor y;
  auto saved = std::make_unique<PactBackward>();
  {
    const at::NoGradGuard no_grad;
    y = autograd::fake_quantize(x.detach(), grid);
    saved->x = autograd::Watched(x.detach());
    saved->alpha = alpha_.item<float>();
    saved->low = static_cast<double>(spec().lo() - spec().symmetric_zero_point()) / spec().positive_levels();
    if (ewgs_ != 0) {
      saved->y = y.detach();
      saved->gain = ewgs_ / (params.scale.item<double>() * (spec().hi() - spec().lo()));
    }
  }
  return autograd::connect(y, {x, alpha_}, std::move(saved));
}

void Pact::project() {
  const at::NoGradGuard no_grad;
  alpha_.clamp_min_(quant::kSmallestScale * spec().positive_levels());
}

Tensor Pact::penalty() const { return decay_ == 0 ? Tensor() : alpha_.square().sum() * (decay_ / 2); }

}  // namespace qat::quantizers
