#include "quantizers/minmax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/error.h"
#include "core/ops/weight_codes.h"

namespace qat::quantizers {

struct MinMaxOptions : quant::UniformOptions {};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::MinMaxOptions> {
  static void describe(Fields<qat::quantizers::MinMaxOptions>& f) { quant::describe_uniform(f); }
};

namespace qat::quantizers {

at::Tensor largest_scale(const at::Tensor& x, double levels) {
  const at::NoGradGuard no_grad;
  if (x.numel() == 0) return at::full({x.size(0)}, quant::kSmallestScale, at::kFloat);
  const at::Tensor values = x.detach().to(at::kFloat).contiguous();
  const at::Tensor largest = at::empty({x.size(0)}, at::kFloat);
  ops::largest_magnitudes(values.const_data_ptr<float>(), x.size(0), x.size(1), largest.mutable_data_ptr<float>());
  float* scale = largest.mutable_data_ptr<float>();
  const auto most = static_cast<float>(levels);
  for (int64_t c = 0; c < largest.numel(); ++c) {
    QAT_CHECK(std::isfinite(scale[c]), "a weight is not finite: the network diverged");
    scale[c] = std::max(scale[c] / most, static_cast<float>(quant::kSmallestScale));
    // The scale that the quantized values have in turn, so that quantizing them again changes no bit.
    for (int pass = 0; pass < 2; ++pass) scale[c] = scale[c] * most / most;
  }
  return largest;
}

MinMax::MinMax(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : UniformQuantizer(spec, options.options.as<MinMaxOptions>(), quant::GradientRule::kStraightThrough),
      scale_(register_buffer("scale", at::ones({spec.scales()}, at::kFloat))),
      zero_point_(register_buffer("zero_point", at::full({spec.scales()}, spec.symmetric_zero_point(), at::kInt))) {
  if (!spec.is_weight()) {
    observer_ = register_module("observer", quant::observers().get(options.observer)({spec, options.observer_options}));
  }
}

void MinMax::observe(const at::Tensor& values) {
  if (observer_) {
    observer_->observe(values);
  } else {
    refresh(values);
  }
}

void MinMax::refresh(const at::Tensor& weight) {
  // Rows in the order of memory, which has channels last: their order within a row is of no matter.
  if (!observer_) scale_.copy_(largest_scale(rows(weight.dim() > 2 ? weight.movedim(1, -1) : weight), spec().hi()));
}

void MinMax::observe_range(double min, double max) {
  observer_->observe(min, max);
  initialize_parameters();
}

void MinMax::initialize_parameters() {
  if (!observer_) return;
  const auto [min, max] = observer_->range();
  const quant::QuantSpec& s = spec();
  const quant::Scheme scheme = s.is_signed && s.affine ? quant::Scheme::kAffine : quant::Scheme::kSymmetric;
  const quant::ScaleZero params =
      quant::choose_params(scheme, s.is_signed ? min : 0.0, max, s.lo(), s.hi(), s.symmetric_zero_point());
  scale_.fill_(std::min<double>(params.scale, s.largest_scale(params.zero_point)));
  zero_point_.fill_(params.zero_point);
}

std::optional<quant::DeviceForm> MinMax::device_form() const {
  if (!observer_) return quant::DeviceForm{.follows_weight = true, .range = std::nullopt};
  std::optional<quant::RangeForm> range = observer_->device_form();
  if (follows_data() && !range) return std::nullopt;
  return quant::DeviceForm{.range = std::move(range)};
}

quant::QParams MinMax::parameters_now() const { return {scale_, zero_point_}; }

}  // namespace qat::quantizers
