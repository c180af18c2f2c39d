#include "core/quant/quantizer.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/autograd/fake_quantize.h"
#include "core/base/error.h"

namespace qat::quant {
namespace {

/// Codes of the integer path: uint8 activations, int8 weights.
constexpr int kCodeBits = 8;
constexpr int kLargestWeightCode = 127;

}  // namespace

Quantizer::Quantizer(QuantSpec spec)
    : spec_(spec), initialized_(register_buffer("initialized", at::zeros({1}, at::kBool))) {
  spec_.check();
}

void Quantizer::initialize() {
  initialize_parameters();
  initialized_.fill_(true);
}

bool Quantizer::initialized() const { return *initialized_.const_data_ptr<bool>(); }

QParams Quantizer::qparams() const {
  QAT_CHECK(initialized(), "a {} quantizer was used before it was initialized: run the calibrate stage first",
            method());
  return parameters_now();
}

QParams Quantizer::parameters_now() const {
  throw Error(fmt::format("{} has no scale and zero point: its levels are not evenly spaced", method()));
}

at::Tensor Quantizer::rows(const at::Tensor& x) const {
  const int64_t scales = spec_.scales();
  return x.reshape({scales, x.numel() / scales});
}

at::Tensor Quantizer::forward(const at::Tensor& x) {
  QAT_CHECK(initialized(), "a {} quantizer was used before it was initialized: run the calibrate stage first",
            method());
  if (spec_.is_weight()) {
    QAT_CHECK(x.numel() == 0 || std::isfinite(x.detach().abs().max().item<float>()),
              "a weight is not finite: the network diverged");
    refresh(x);
  }
  return fake_quantize(x);
}

std::string Quantizer::obstacle() const {
  const Traits t = traits();
  if (!t.affine) return fmt::format("the levels of {} are not integers times a scale", method());
  if (t.code_bits > kCodeBits) {
    return fmt::format("{} with {} bits needs {}-bit codes, the integer path has {}", method(), spec_.bits, t.code_bits,
                       kCodeBits);
  }
  if (spec_.is_weight() && t.integer_levels && spec_.lo() < -kLargestWeightCode) {
    return fmt::format(
        "{} has the code {}, which a batch norm with negative gamma turns into one beyond int8: set "
        "narrow_range",
        method(), spec_.lo());
  }
  return "";
}

autograd::OutputQuantizer Quantizer::output(bool learning) {
  autograd::OutputQuantizer result;
  if (learning && follows_data()) {
    result.observe = [this](double min, double max) { observe_range(min, max); };
  }
  const QParams params = qparams();
  result.scale = params.scale;
  result.zero_point = params.zero_point;
  result.lo = spec_.lo();
  result.hi = spec_.hi();
  result.rule = rule().value_or(GradientRule::kStraightThrough);
  result.learn = learning && rule().has_value();
  result.gradient_scale = [this](int64_t elements) { return gradient_scale(elements); };
  return result;
}

autograd::QuantizedWeight Quantizer::quantize_weight(const at::Tensor& weight) {
  if (!rule()) {
    const at::Tensor values = forward(weight);
    return autograd::weight_codes(values, qparams().scale);
  }
  refresh(weight);
  const int64_t per_scale = weight.numel() / std::max<int64_t>(spec_.scales(), 1);
  return autograd::quantize_weight(weight, qparams().scale, spec_.lo(), spec_.hi(), *rule(), gradient_scale(per_scale));
}

std::shared_ptr<Quantizer> QuantizerMethod::operator()(const QuantSpec& spec, const QuantizerOptions& options) const {
  std::shared_ptr<Quantizer> made = make_(spec, options);
  const std::string name = made->method();
  QAT_CHECK(spec.is_weight() ? support_.weights : support_.activations, "{} quantizes {} only", name,
            spec.is_weight() ? "activations" : "weights");
  QAT_CHECK(spec.bits >= support_.min_bits && spec.bits <= support_.max_bits, "{} takes {} to {} bits, found {}", name,
            support_.min_bits, support_.max_bits, spec.bits);
  const Traits traits = made->traits();
  QAT_CHECK(
      !spec.reduce_range || (traits.affine && traits.code_bits <= spec.bits),
      "reduce_range: the levels of {} do not follow a range of codes: choose another quantizer, or set it to false",
      name);
  QAT_CHECK(support_.channels || spec.granularity == Granularity::kTensor, "{} has one range a tensor", name);
  return made;
}

Registry<QuantizerMethod>& quantizers() {
  static Registry<QuantizerMethod> instance("quantizer");
  return instance;
}

Registry<ObserverFactory>& observers() {
  static Registry<ObserverFactory> instance("observer");
  return instance;
}

std::string describe(const std::string& method) {
  const QuantizerMethod& entry = quantizers().get(method);
  const Support& s = entry.support();
  const char* kinds = !s.activations ? "weight" : !s.weights ? "activation" : "weight, activation";
  const std::string bits =
      s.min_bits == s.max_bits ? fmt::format("{}", s.min_bits) : fmt::format("{}-{}", s.min_bits, s.max_bits);
  std::string result =
      fmt::format("{}; {} bits; {}", kinds, bits, s.weights && s.channels ? "tensor, channel, group" : "tensor");
  const QuantSpec spec{.role = s.weights ? Role::kWeight : Role::kActivation,
                       .bits = std::min(s.max_bits, std::max(s.min_bits, 4))};
  const Traits t = entry(spec, {})->traits();
  result += t.affine ? "; affine" : "; level table";
  if (t.idempotent) result += ", idempotent";
  if (t.integer_levels) result += ", integer levels";
  return result;
}

}  // namespace qat::quant
