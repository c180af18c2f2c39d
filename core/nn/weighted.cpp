#include "core/nn/weighted.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>

#include "core/base/error.h"

namespace qat::nn {
WeightedLayer::WeightedLayer(std::string label, LayerTensors tensors, ConvGeometry2d geometry, bool relu)
    : QLayer(std::move(label)), tensors_(std::move(tensors)), geometry_(geometry), relu_(relu) {}

void WeightedLayer::set_weight_quantizer(std::shared_ptr<quant::Quantizer> quantizer) {
  weight_quantizer_ = std::move(quantizer);
}

void WeightedLayer::initialize_quantizers() {
  QLayer::initialize_quantizers();
  if (!weight_quantizer_) return;
  weight_quantizer_->observe(tensors_.weight);
  weight_quantizer_->initialize();
}

void WeightedLayer::project() {
  QLayer::project();
  if (!weight_quantizer_) return;
  weight_quantizer_->project();
  weight_quantizer_->project_weight(tensors_.weight);
}

at::Tensor WeightedLayer::penalty() const {
  const at::Tensor output = QLayer::penalty(), weight = weight_quantizer_ ? weight_quantizer_->penalty() : at::Tensor();
  if (!output.defined()) return weight;
  return weight.defined() ? output + weight : output;
}

at::Tensor WeightedLayer::run_float(const std::vector<at::Tensor>& inputs) {
  const auto& [raw, bias, norm] = tensors_;
  const bool on_values = is_quantized() && weight_quantizer_ && !values_reason().empty();
  const at::Tensor weight = on_values ? weight_quantizer_->forward(raw) : raw;
  at::Tensor y = weight.dim() == 4 ? at::conv2d(inputs[0], weight, bias, geometry_.stride, geometry_.padding,
                                                geometry_.dilation, geometry_.groups)
                                   : at::linear(inputs[0], weight, bias);
  if (norm) y = run_batch_norm(y, *norm);
  return relu_ ? at::relu(y) : y;
}

autograd::ConvCall WeightedLayer::call() const {
  autograd::ConvCall call;
  call.name = label();
  call.stride = geometry_.stride, call.padding = geometry_.padding, call.dilation = geometry_.dilation;
  call.groups = geometry_.groups;
  call.bias = tensors_.bias;
  call.batch_norm = tensors_.batch_norm;
  call.live = learning();
  call.relu = relu_;
  call.memory = memory_;
  return call;
}

at::Tensor WeightedLayer::run_values(const std::vector<Value>& inputs) {
  return autograd::conv(codes_of(inputs[0]), weight_quantizer_->quantize_weight(tensors_.weight), call()).values;
}

Value WeightedLayer::run_quantized(const std::vector<Value>& inputs) {
  const QuantizedTensor& x = codes_of(inputs[0]);
  autograd::ConvCall conv = call();
  if (output_quantizer()) conv.output = output_call();
  autograd::ConvResult result = autograd::conv(x, weight_quantizer_->quantize_weight(tensors_.weight), conv);
  if (result.codes) return *result.codes;
  return result.values;
}

}  // namespace qat::nn
