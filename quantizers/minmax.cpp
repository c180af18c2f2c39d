#include "quantizers/minmax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"

namespace qat::quantizers {
namespace {

/// A range of width 0 still needs a positive scale; torch.ao's observers use the same floor.
constexpr double kSmallestScale = std::numeric_limits<float>::epsilon();

}  // namespace

MinMax::MinMax(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : Quantizer(spec),
      scale_(register_buffer("scale", at::ones({spec.scales()}, at::kFloat))),
      zero_point_(register_buffer("zero_point", at::full({spec.scales()}, spec.symmetric_zero_point(), at::kInt))) {
  if (spec.role == quant::Role::kActivation) {
    observer_ = register_module("observer", quant::observers().get(options.observer)());
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
  if (observer_) return;
  const at::Tensor w = weight.detach();
  const at::Tensor largest =
      spec().granularity == quant::Granularity::kChannel ? w.abs().flatten(1).amax(1) : w.abs().amax().view({1});
  scale_.copy_((largest / static_cast<double>(spec().hi())).clamp_min(kSmallestScale));
  QAT_CHECK(scale_.isfinite().all().item<bool>(), "a weight is not finite: the network diverged");
}

void MinMax::observe_range(double min, double max) {
  observer_->observe(min, max);
  initialize_parameters();
}

void MinMax::initialize_parameters() {
  if (!observer_) return;
  auto [min, max] = observer_->range();
  min = std::min(min, 0.0);
  max = std::max(max, 0.0);
  const quant::QuantSpec& s = spec();
  const double hi = s.hi();
  double zero_point = s.symmetric_zero_point(), scale = 0;
  if (!s.is_signed) {
    scale = max / hi;
  } else if (s.affine) {
    scale = (max - min) / hi;
    if (scale > 0) zero_point = std::clamp(2.0 * std::nearbyint(-min / scale / 2.0), 0.0, hi - 1);
  } else {
    scale = std::max(-min, max) / (hi - zero_point);
  }
  scale_.fill_(std::max(std::min(scale, s.largest_scale(zero_point)), kSmallestScale));
  zero_point_.fill_(static_cast<int32_t>(zero_point));
}

quant::QParams MinMax::parameters_now() const { return {scale_, zero_point_}; }

}  // namespace qat::quantizers
