#include "quantizers/floating_point.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "core/autograd/fake_quantize.h"
#include "core/base/error.h"
#include "core/quant/uniform.h"

namespace qat::quantizers {

struct Fp8Options {
  std::string format = "e4m3";
  bool scaled = true;
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::Fp8Options> {
  static void describe(Fields<qat::quantizers::Fp8Options>& f) {
    using T = qat::quantizers::Fp8Options;
    f.field("format", &T::format).doc("exponent and mantissa bits").one_of({"e4m3", "e5m2"});
    f.field("scaled", &T::scaled).doc("bring the largest value near the format's largest by a power of two");
  }
};

namespace qat::quantizers {

FloatingPoint::FloatingPoint(const quant::QuantSpec& spec, const quant::QuantizerOptions& options, at::ScalarType type,
                             double largest, bool scaled)
    : Quantizer(spec),
      type_(type),
      largest_(largest),
      scaled_(scaled),
      scale_(register_buffer("scale", at::ones({1}, at::kFloat))) {
  if (scaled && !spec.is_weight()) {
    observer_ = register_module("observer", quant::observers().get(options.observer)({spec, options.observer_options}));
  }
}

void FloatingPoint::set_scale(double largest) {
  QAT_CHECK(std::isfinite(largest), "values to quantize are not finite: the network diverges");
  if (scaled_) scale_.fill_(std::exp2(std::ceil(std::log2(std::max(largest, 1e-30) / largest_))));
}

void FloatingPoint::refresh(const at::Tensor& weight) {
  if (weight.numel() != 0) set_scale(weight.detach().abs().max().item<double>());
}

void FloatingPoint::observe(const at::Tensor& values) {
  if (spec().is_weight()) return refresh(values);
  if (observer_) observer_->observe(values);
}

void FloatingPoint::initialize_parameters() {
  if (!observer_) return;
  const auto [min, max] = observer_->range();
  set_scale(std::max(std::abs(min), std::abs(max)));
}

at::Tensor FloatingPoint::fake_quantize(const at::Tensor& x) {
  at::Tensor y, inside;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor t = x.detach() / scale_;
    inside = t.abs() <= largest_;
    y = t.clamp(-largest_, largest_).to(type_).to(at::kFloat) * scale_;
  }
  return autograd::straight_through(y, x, inside);
}

Float16::Float16(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : FloatingPoint(spec, options, at::kHalf, 65504, false) {
  options.options.as<quant::NoOptions>();
}

Bfloat16::Bfloat16(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : FloatingPoint(spec, options, at::kBFloat16, 0x1.fep127, false) {
  options.options.as<quant::NoOptions>();
}

Fp8::Fp8(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : FloatingPoint(
          spec, options, options.options.as<Fp8Options>().format == "e4m3" ? at::kFloat8_e4m3fn : at::kFloat8_e5m2,
          options.options.as<Fp8Options>().format == "e4m3" ? 448 : 57344, options.options.as<Fp8Options>().scaled) {}

}  // namespace qat::quantizers
