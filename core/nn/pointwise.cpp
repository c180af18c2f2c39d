#include "core/nn/pointwise.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

namespace qat::nn {

at::Tensor QAdd::run_float(const std::vector<at::Tensor>& inputs) {
  const at::Tensor y = inputs[0] + inputs[1];
  return relu_ ? at::relu(y) : y;
}

Value QAdd::run_quantized(const std::vector<Value>& inputs) {
  const QuantizedTensor &a = codes_of(inputs[0]), &b = codes_of(inputs[1]);
  return autograd::add(a, b, output_call(), relu_);
}

at::Tensor FloatBatchNorm::run_float(const std::vector<at::Tensor>& inputs) { return run_batch_norm(inputs[0], norm_); }

at::Tensor ReLULayer::run_float(const std::vector<at::Tensor>& inputs) { return at::relu(inputs[0]); }

Value ReLULayer::run_quantized(const std::vector<Value>& inputs) {
  if (!std::holds_alternative<QuantizedTensor>(inputs[0])) return QLayer::run_quantized(inputs);
  return autograd::relu(codes_of(inputs[0]));
}

at::Tensor QMaxPool2d::run_float(const std::vector<at::Tensor>& inputs) {
  return at::max_pool2d(inputs[0], pool_.kernel, pool_.stride, pool_.padding, pool_.dilation, pool_.ceil_mode);
}

Value QMaxPool2d::run_quantized(const std::vector<Value>& inputs) {
  if (!std::holds_alternative<QuantizedTensor>(inputs[0])) return QLayer::run_quantized(inputs);
  return autograd::max_pool2d(codes_of(inputs[0]), pool_);
}

at::Tensor QAvgPool2d::run_float(const std::vector<at::Tensor>& inputs) {
  return at::avg_pool2d(inputs[0], pool_.kernel, pool_.stride, pool_.padding, pool_.ceil_mode, pool_.count_include_pad);
}

Value QAvgPool2d::run_quantized(const std::vector<Value>& inputs) {
  const QuantizedTensor& x = codes_of(inputs[0]);
  return autograd::avg_pool2d(x, pool_, output_call());
}

at::Tensor QGlobalAvgPool2d::run_float(const std::vector<at::Tensor>& inputs) {
  return at::adaptive_avg_pool2d(inputs[0], {1, 1});
}

Value QGlobalAvgPool2d::run_quantized(const std::vector<Value>& inputs) {
  const QuantizedTensor& x = codes_of(inputs[0]);
  return autograd::global_avg_pool2d(x, output_call());
}

at::Tensor QDropout::run_float(const std::vector<at::Tensor>& inputs) {
  return at::dropout(inputs[0], probability_, is_training() && phase() != Phase::kCalibrate);
}

Value QDropout::run_quantized(const std::vector<Value>& inputs) {
  if (!std::holds_alternative<QuantizedTensor>(inputs[0])) return QLayer::run_quantized(inputs);
  return is_training() ? autograd::dropout(codes_of(inputs[0]), probability_) : inputs[0];
}

at::Tensor QFlatten::run_float(const std::vector<at::Tensor>& inputs) { return inputs[0].flatten(1); }

Value QFlatten::run_quantized(const std::vector<Value>& inputs) {
  if (!std::holds_alternative<QuantizedTensor>(inputs[0])) return QLayer::run_quantized(inputs);
  return autograd::flatten(codes_of(inputs[0]));
}

}  // namespace qat::nn
