#include "core/nn/layer.h"

#include <ATen/ops/batch_norm.h>

#include "core/base/error.h"

namespace qat::nn {

at::Tensor to_float(const Value& value) {
  if (const auto* tensor = std::get_if<at::Tensor>(&value)) return *tensor;
  return std::get<QuantizedTensor>(value).dequantize();
}

QLayer::QLayer(std::string label) : label_(std::move(label)) {}

const std::shared_ptr<quant::Quantizer>& QLayer::weight_quantizer() const {
  static const std::shared_ptr<quant::Quantizer> none;
  return none;
}

void QLayer::set_output_quantizer(std::shared_ptr<quant::Quantizer> quantizer) {
  output_quantizer_ = std::move(quantizer);
}

void QLayer::set_weight_quantizer(std::shared_ptr<quant::Quantizer>) {
  throw GraphError(fmt::format("{} ({}): has no weight to quantize", label(), type()));
}

Value QLayer::run(const std::vector<Value>& inputs, int64_t batch) {
  batch_ = batch;
  try {
    if (phase_ == Phase::kLive || phase_ == Phase::kFrozen) {
      if (has_integer_form() && !excluded_) return run_quantized(inputs);
      return QLayer::run_quantized(inputs);
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
  std::vector<at::Tensor> values;
  for (const Value& input : inputs) values.push_back(to_float(input));
  at::Tensor result = run_float(values);
  if (!output_quantizer_) return result;
  return autograd::encode(result, output_call());
}

void QLayer::initialize_quantizers() {
  if (output_quantizer_) output_quantizer_->initialize();
}

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
