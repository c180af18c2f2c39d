#include "quantizers/tqt.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace qat::quantizers {

struct TqtOptions : quant::UniformOptions {};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::TqtOptions> {
  static void describe(Fields<qat::quantizers::TqtOptions>& f) { quant::describe_uniform(f); }
};

namespace qat::quantizers {
namespace {

/// Thresholds stay where their steps are ordinary float32 numbers.
constexpr double kLowestLog2 = -20, kHighestLog2 = 60;

}  // namespace

Tqt::Tqt(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : UniformQuantizer(spec, options.options.as<TqtOptions>(), quant::GradientRule::kLearnedStep),
      log2_t_(register_parameter("log2_t", at::zeros({spec.scales()}, at::kFloat))) {
  if (!spec.is_weight()) {
    observer_ = register_module("observer", quant::observers().get(options.observer)({spec, options.observer_options}));
  }
}

void Tqt::set_threshold(const at::Tensor& t) {
  const at::NoGradGuard no_grad;
  QAT_CHECK(t.isfinite().all().item<bool>(), "values to quantize are not finite: the network diverges");
  log2_t_.copy_(t.log2().clamp(kLowestLog2, kHighestLog2));
}

void Tqt::observe(const at::Tensor& values) {
  if (observer_) return observer_->observe(values);
  const at::NoGradGuard no_grad;
  const at::Tensor x = rows(values.detach()).to(at::kDouble), mean = x.mean(1);
  set_threshold(mean.abs() + (x - mean.unsqueeze(1)).square().mean(1).sqrt() * 3);
}

void Tqt::initialize_parameters() {
  if (!observer_) return;
  const auto [min, max] = observer_->range();
  set_threshold(at::full({1}, std::max(std::abs(min), std::abs(max)), at::kDouble));
}

quant::QParams Tqt::parameters_now() const {
  const at::Tensor exponent = autograd::straight_through(log2_t_.detach().ceil(), log2_t_);
  return {(exponent - spec().magnitude_bits()).exp2(),
          at::full({spec().scales()}, spec().symmetric_zero_point(), at::kInt)};
}

at::Tensor Tqt::fake_quantize(const at::Tensor& x) {
  autograd::AffineGrid g = grid(x);
  using Mask = ops::GridGradient::Mask;
  if (g.gradient.mask == Mask::kValue) g.gradient.mask = Mask::kCode;
  return autograd::fake_quantize(x, g);
}

void Tqt::project() {
  const at::NoGradGuard no_grad;
  log2_t_.clamp_(kLowestLog2, kHighestLog2);
}

}  // namespace qat::quantizers
