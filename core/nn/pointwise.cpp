#include "core/nn/pointwise.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max_pool2d.h>

namespace qat::nn {

at::Tensor QAdd::run_float(const std::vector<at::Tensor>& inputs) { return activation_(inputs[0] + inputs[1]); }

Value QAdd::run_quantized(const std::vector<Value>& inputs) {
  const QuantizedTensor &a = codes_of(inputs[0]), &b = codes_of(inputs[1]);
  return autograd::add(a, b, output_call(), activation_.is_non_negative());
}

at::Tensor QMul::run_float(const std::vector<at::Tensor>& inputs) { return inputs[0] * inputs[1]; }

Value QMul::run_quantized(const std::vector<Value>& inputs) {
  const QuantizedTensor &a = codes_of(inputs[0]), &b = codes_of(inputs[1]);
  return autograd::mul(a, b, output_call());
}

at::Tensor QConcat::run_float(const std::vector<at::Tensor>& inputs) { return at::cat(inputs, 1); }

Value QConcat::run_quantized(const std::vector<Value>& inputs) {
  std::vector<QuantizedTensor> codes;
  for (const Value& input : inputs) codes.push_back(codes_of(input));
  return autograd::concat(codes, output_call());
}

Value QRequantize::run_quantized(const std::vector<Value>& inputs) {
  return autograd::concat({codes_of(inputs[0])}, output_call());
}

at::Tensor FloatBatchNorm::run_float(const std::vector<at::Tensor>& inputs) { return run_batch_norm(inputs[0], norm_); }

std::string ActivationLayer::type() const {
  const std::string name = activation_.name();
  return name.substr(0, name.find('('));
}

Value ActivationLayer::run_quantized(const std::vector<Value>& inputs) {
  if (!std::holds_alternative<QuantizedTensor>(inputs[0])) return QLayer::run_quantized(inputs);
  const QuantizedTensor& x = codes_of(inputs[0]);
  if (passes_through()) return autograd::relu(x);
  return autograd::table(x, *activation_.table(), output_call());
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
  const at::Tensor& x = inputs[0];
  const bool active = is_training() && phase() != Phase::kCalibrate;
  if (!per_sample_) return at::dropout(x, probability_, active);
  if (!active || probability_ == 0.0) return x;
  std::vector<int64_t> sizes(static_cast<size_t>(x.dim()), 1);
  sizes[0] = x.size(0);
  const at::Tensor kept = at::empty(sizes, x.options()).bernoulli_(1.0 - probability_);
  return x * (probability_ < 1.0 ? kept.div_(1.0 - probability_) : kept);
}

Value QDropout::run_quantized(const std::vector<Value>& inputs) {
  if (!std::holds_alternative<QuantizedTensor>(inputs[0])) return QLayer::run_quantized(inputs);
  if (!is_training() || probability_ == 0.0) return inputs[0];
  const QuantizedTensor& x = codes_of(inputs[0]);
  return per_sample_ ? autograd::drop_samples(x, probability_) : autograd::dropout(x, probability_);
}

Value QMove::run_quantized(const std::vector<Value>& inputs) {
  if (!std::holds_alternative<QuantizedTensor>(inputs[0])) return QLayer::run_quantized(inputs);
  return autograd::move(codes_of(inputs[0]), [call = call_, n = batch()](const at::Tensor& x) { return call({x}, n); });
}

}  // namespace qat::nn
