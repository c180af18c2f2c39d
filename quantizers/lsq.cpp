#include "quantizers/lsq.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "core/base/error.h"

namespace qat::quantizers {

struct LsqOptions : quant::UniformOptions {};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::LsqOptions> {
  static void describe(Fields<qat::quantizers::LsqOptions>& f) { quant::describe_uniform(f); }
};

namespace qat::quantizers {

Lsq::Lsq(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : UniformQuantizer(spec, options.options.as<LsqOptions>(), quant::GradientRule::kLearnedStep),
      scale_(register_parameter("scale", at::ones({spec.scales()}, at::kFloat))),
      zero_point_(register_buffer("zero_point", at::full({spec.scales()}, spec.symmetric_zero_point(), at::kInt))),
      mean_abs_(register_buffer("mean_abs", at::zeros({spec.scales()}, at::kDouble))),
      batches_(register_buffer("batches", at::zeros({1}, at::kLong))) {}

void Lsq::observe(const at::Tensor& values) {
  if (values.numel() == 0) return;
  mean_abs_.add_(rows(values.detach()).to(at::kDouble).abs().mean(1));
  batches_.add_(1);
}

void Lsq::initialize_parameters() {
  const int64_t batches = *batches_.const_data_ptr<int64_t>();
  QAT_CHECK(batches > 0, "an lsq quantizer saw no data: run the calibrate stage first");
  const at::NoGradGuard no_grad;
  at::Tensor scale = mean_abs_ * (2.0 / (static_cast<double>(batches) * std::sqrt(spec().positive_levels())));
  if (!spec().is_weight()) scale.masked_fill_(scale == 0, quant::kScaleOfZeros);
  scale_.copy_(scale.clamp(quant::kSmallestScale, spec().largest_scale(spec().symmetric_zero_point())));
  QAT_CHECK(scale_.isfinite().all().item<bool>(), "values to quantize are not finite: the network diverges");
}

quant::QParams Lsq::parameters_now() const { return {scale_, zero_point_}; }

double Lsq::gradient_scale(int64_t elements) const {
  return 1.0 / std::sqrt(static_cast<double>(elements) * spec().positive_levels());
}

void Lsq::project() {
  const at::NoGradGuard no_grad;
  scale_.clamp_(quant::kSmallestScale, spec().largest_scale(spec().symmetric_zero_point()));
}

std::optional<quant::DeviceForm> Lsq::device_form() const {
  return quant::DeviceForm{.range = std::nullopt,
                           .lowest_scale = quant::kSmallestScale,
                           .highest_scale = spec().largest_scale(spec().symmetric_zero_point())};
}

}  // namespace qat::quantizers
