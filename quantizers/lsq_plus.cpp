#include "quantizers/lsq_plus.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace qat::quantizers {

struct LsqPlusOptions {
  std::string offset = "integer";
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::LsqPlusOptions> {
  static void describe(Fields<qat::quantizers::LsqPlusOptions>& f) {
    f.field("offset", &qat::quantizers::LsqPlusOptions::offset)
        .doc("of signed activations: a whole number of steps, or any real number")
        .one_of({"integer", "real"});
  }
};

namespace qat::quantizers {

LsqPlus::LsqPlus(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : Quantizer(spec),
      real_offset_(options.options.as<LsqPlusOptions>().offset == "real" && !spec.is_weight() && spec.is_signed),
      scale_(register_parameter("scale", at::ones({spec.scales()}, at::kFloat))) {
  if (spec.is_weight()) return;
  quant::QuantSpec observed = spec;
  observed.affine = spec.is_signed;
  observer_ = register_module("observer", quant::observers().get("mse")({observed, {}}));
  if (spec.is_signed) offset_ = register_parameter("offset", at::zeros({1}, at::kFloat));
}

quant::Traits LsqPlus::traits() const { return {.affine = !real_offset_, .code_bits = spec().bits}; }

void LsqPlus::observe(const at::Tensor& values) {
  if (observer_) return observer_->observe(values);
  const at::NoGradGuard no_grad;
  const at::Tensor x = rows(values.detach()).to(at::kDouble), mean = x.mean(1);
  const at::Tensor deviation = (x - mean.unsqueeze(1)).square().mean(1).sqrt();
  const at::Tensor reach = at::maximum((mean - deviation * 3).abs(), (mean + deviation * 3).abs());
  scale_.copy_((reach / std::exp2(spec().magnitude_bits())).clamp_min(quant::kSmallestScale));
  QAT_CHECK(scale_.isfinite().all().item<bool>(), "a weight is not finite: the network diverged");
}

void LsqPlus::initialize_parameters() {
  if (!observer_) return;
  const auto [min, max] = observer_->range();
  const at::NoGradGuard no_grad;
  const double low = has_offset() ? std::min(min, 0.0) : 0.0;
  const double width = std::max(max, 0.0) - low;
  scale_.fill_(width == 0 ? quant::kScaleOfZeros : std::max(width / spec().hi(), quant::kSmallestScale));
  if (has_offset()) offset_.fill_(low);
}

quant::QParams LsqPlus::parameters_now() const {
  if (!has_offset()) return {scale_, at::zeros({spec().scales()}, at::kInt)};
  QAT_CHECK(!real_offset_, "lsq_plus with a real offset has no zero point");
  const double z = std::nearbyint(-*offset_.const_data_ptr<float>() / *scale_.const_data_ptr<float>());
  return {scale_, at::full({1}, static_cast<int64_t>(std::clamp(z, 0.0, spec().hi() - 1.0)), at::kInt)};
}

at::Tensor LsqPlus::fake_quantize(const at::Tensor& x) {
  autograd::AffineGrid grid{.scale = scale_,
                            .zero_point = at::zeros({spec().scales()}, at::kInt),
                            .offset = {},
                            .lo = spec().lo(),
                            .hi = spec().hi()};
  const int64_t sharing = spec().is_weight() ? spec().scales() : x.dim() == 0 ? 1 : x.size(0);
  grid.gradient_scale = gradient_scale(x.numel() / std::max<int64_t>(sharing, 1));
  if (!has_offset()) return autograd::fake_quantize(x, grid);
  if (real_offset_) {
    // x - beta and + beta give beta the gradient of what is outside; g belongs to it as to the scale.
    const at::Tensor beta = offset_ * grid.gradient_scale + (offset_ * (1 - grid.gradient_scale)).detach();
    return autograd::fake_quantize(x - beta, grid) + beta;
  }
  grid.zero_point = parameters_now().zero_point;
  // The kernel's dscale holds z fixed; along y = s * q + beta an element outside adds z * g: through the offset.
  const double z = grid.zero_point.item<int32_t>();
  grid.offset = offset_ + (scale_ - scale_.detach()) * z;
  return autograd::fake_quantize(x, grid);
}

double LsqPlus::gradient_scale(int64_t elements) const {
  const double levels = spec().is_weight() ? spec().hi() : spec().hi() - spec().lo();
  return 1.0 / std::sqrt(static_cast<double>(elements) * levels);
}

void LsqPlus::project() {
  const at::NoGradGuard no_grad;
  scale_.clamp_min_(quant::kSmallestScale);
}

}  // namespace qat::quantizers
