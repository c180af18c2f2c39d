#include "core/nn/layer.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/batch_norm.h>
#include <c10/core/GradMode.h>

#include "core/autograd/fake_quantize.h"
#include "core/base/error.h"

namespace qat::nn {

at::Tensor to_float(const Value& value) {
  if (const auto* tensor = std::get_if<at::Tensor>(&value)) return *tensor;
  return std::get<QuantizedTensor>(value).dequantize();
}

QLayer::QLayer(std::string label) : label_(std::move(label)) {}

void QLayer::set_phase(Phase phase) {
  phase_ = phase;
  set_quantizer_modes();
}

void QLayer::train(bool on) {
  torch::nn::Module::train(on);
  set_quantizer_modes();
}

void QLayer::set_quantizer_modes() {
  for (const auto& quantizer : {weight_quantizer(), bias_quantizer(), output_quantizer_}) {
    if (quantizer) quantizer->train(is_training() && phase_ != Phase::kFrozen);
  }
}

namespace {
const std::shared_ptr<quant::Quantizer> kNone;
}  // namespace

const std::shared_ptr<quant::Quantizer>& QLayer::weight_quantizer() const { return kNone; }

const std::shared_ptr<quant::Quantizer>& QLayer::bias_quantizer() const { return kNone; }

void QLayer::set_output_quantizer(std::shared_ptr<quant::Quantizer> quantizer) {
  output_quantizer_ = std::move(quantizer);
}

void QLayer::set_weight_quantizer(std::shared_ptr<quant::Quantizer>) {
  throw GraphError(fmt::format("{} ({}): has no weight to quantize", label(), type()));
}

Value QLayer::run(const std::vector<Value>& inputs, int64_t batch) {
  batch_ = batch;
  try {
    if (is_quantized()) {
      if (!has_integer_form() || excluded_ || computes_on_values()) return QLayer::run_quantized(inputs);
      if (output_quantizer_ && !output_quantizer_->rule()) return run_with_forward(inputs);
      return run_quantized(inputs);
    }
    std::vector<at::Tensor> values;
    for (const Value& input : inputs) values.push_back(to_float(input));
    at::Tensor result = run_float(values);
    if (phase_ == Phase::kCalibrate && output_quantizer_) output_quantizer_->observe(result);
    return result;
  } catch (const Error& error) {
    throw GraphError(fmt::format("{} ({}): {}", label(), type(), error.what()));
  }
}

Value QLayer::run_quantized(const std::vector<Value>& inputs) {
  const at::Tensor result = QLayer::run_values(inputs);
  if (!output_quantizer_) return result;
  return quantize_values(*output_quantizer_, result);
}

at::Tensor QLayer::run_values(const std::vector<Value>& inputs) {
  std::vector<at::Tensor> values;
  for (const Value& input : inputs) values.push_back(to_float(input));
  return run_float(values);
}

autograd::OutputQuantizer QLayer::call_of(quant::Quantizer& quantizer) const {
  autograd::OutputQuantizer call = quantizer.output(learning());
  if (!observing(quantizer)) call.observe = nullptr;
  return call;
}

Value QLayer::quantize_values(quant::Quantizer& quantizer, const at::Tensor& values) const {
  const bool has_codes = quantizer.obstacle().empty();
  if (has_codes && quantizer.rule()) return autograd::encode(values, call_of(quantizer));
  if (observing(quantizer) && values.numel() != 0) {
    const auto [min, max] = at::aminmax(values.detach());
    quantizer.observe_range(min.item<float>(), max.item<float>());
  }
  const at::Tensor quantized = quantizer.forward(values);
  if (!has_codes) return quantized;
  const autograd::OutputQuantizer output = quantizer.output(false);
  return autograd::activation_codes(quantized, output.scale_value(), output.range());
}

Value QLayer::run_with_forward(const std::vector<Value>& inputs) {
  quant::Quantizer& quantizer = *output_quantizer_;
  // While statistics are those of the batch there is no target's formula to follow.
  if (learning() || !quantizer.traits().integer_levels || !quantizer.obstacle().empty()) {
    return quantize_values(quantizer, run_values(inputs));
  }
  const auto codes = [&] {
    const at::NoGradGuard no_grad;
    return std::get<QuantizedTensor>(run_quantized(inputs));
  }();
  if (!at::GradMode::is_enabled()) return codes;
  return autograd::with_gradient(codes, quantizer.forward(run_values(inputs)));
}

void QLayer::initialize_quantizers() {
  if (output_quantizer_) output_quantizer_->initialize();
}

void QLayer::project() {
  if (output_quantizer_) output_quantizer_->project();
}

at::Tensor QLayer::penalty() const { return output_quantizer_ ? output_quantizer_->penalty() : at::Tensor(); }

const QuantizedTensor& QLayer::codes_of(const Value& value) const {
  const auto* codes = std::get_if<QuantizedTensor>(&value);
  QAT_CHECK(codes != nullptr, "expected quantized input, found floats: its producer needs an output quantizer");
  return *codes;
}

at::Tensor QLayer::run_batch_norm(const at::Tensor& x, const autograd::BatchNorm& norm) const {
  const bool batch_statistics = !norm.running_mean.defined() || reestimating() ||
                                (is_training() && (phase_ == Phase::kFloat || phase_ == Phase::kLive));
  return at::batch_norm(x, norm.gamma, norm.beta, norm.running_mean, norm.running_var, batch_statistics,
                        reestimation_.value_or(norm.momentum), norm.eps, false);
}

}  // namespace qat::nn
