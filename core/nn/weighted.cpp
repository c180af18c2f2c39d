#include "core/nn/weighted.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/conv_transpose1d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/conv_transpose3d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include "core/base/error.h"

namespace qat::nn {
namespace {

/// [C] -> [C, 1, ...] of `dims` dimensions.
at::Tensor per_row(const at::Tensor& v, int64_t dims) {
  std::vector<int64_t> sizes(static_cast<size_t>(dims), 1);
  sizes[0] = v.numel();
  return v.view(sizes);
}

/// [in] -> [out, in / groups, 1, ...]: a factor for every input channel of a weight with output channels first.
at::Tensor per_input(const at::Tensor& v, const at::Tensor& weight, int64_t groups) {
  std::vector<int64_t> sizes(static_cast<size_t>(weight.dim()), 1);
  sizes[0] = weight.size(0), sizes[1] = weight.size(1);
  return v.view({groups, -1}).repeat_interleave(weight.size(0) / groups, 0).view(sizes);
}

/// gamma / sqrt(running_var + eps), differentiable in gamma.
at::Tensor gain_of(const autograd::BatchNorm& norm) {
  return norm.gamma * (norm.running_var.to(at::kDouble) + norm.eps).rsqrt().to(at::kFloat);
}

at::Tensor convolve(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, const ConvGeometry& g) {
  if (g.transposed) {
    const std::vector<int64_t> out =
        g.output_padding.empty() ? std::vector<int64_t>(g.stride.size()) : g.output_padding;
    if (w.dim() == 3) return at::conv_transpose1d(x, w, b, g.stride, g.padding, out, g.groups, g.dilation);
    if (w.dim() == 4) return at::conv_transpose2d(x, w, b, g.stride, g.padding, out, g.groups, g.dilation);
    return at::conv_transpose3d(x, w, b, g.stride, g.padding, out, g.groups, g.dilation);
  }
  if (w.dim() == 3) return at::conv1d(x, w, b, g.stride, g.padding, g.dilation, g.groups);
  if (w.dim() == 4) return at::conv2d(x, w, b, g.stride, g.padding, g.dilation, g.groups);
  return at::conv3d(x, w, b, g.stride, g.padding, g.dilation, g.groups);
}

}  // namespace

WeightedLayer::WeightedLayer(std::string label, LayerTensors tensors, ConvGeometry geometry, Activation activation)
    : QLayer(std::move(label)), tensors_(std::move(tensors)), geometry_(std::move(geometry)), activation_(activation) {}

std::string WeightedLayer::type() const {
  if (is_linear()) return "linear";
  return fmt::format("conv{}{}d", geometry_.transposed ? "_transpose" : "", tensors_.weight.dim() - 2);
}

int64_t WeightedLayer::out_channels() const {
  return geometry_.transposed ? tensors_.weight.size(1) * geometry_.groups : tensors_.weight.size(0);
}

void WeightedLayer::set_weight_quantizer(std::shared_ptr<quant::Quantizer> quantizer) {
  weight_quantizer_ = std::move(quantizer);
}

void WeightedLayer::initialize_quantizers() {
  QLayer::initialize_quantizers();
  if (!weight_quantizer_) return;
  const at::NoGradGuard no_grad;
  weight_quantizer_->observe(weight_for(call()));
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

std::optional<autograd::BatchNorm> WeightedLayer::batch_norm() const {
  std::optional<autograd::BatchNorm> norm = tensors_.batch_norm;
  if (!norm || !tensors_.norm_begin) return norm;
  for (at::Tensor* t : {&norm->gamma, &norm->beta, &norm->running_mean, &norm->running_var}) {
    *t = t->narrow(0, *tensors_.norm_begin, out_channels());
  }
  return norm;
}

at::Tensor WeightedLayer::run_float(const std::vector<at::Tensor>& inputs) {
  const auto& [raw, bias, norm, begin, input_norm] = tensors_;
  const bool on_values = is_quantized() && weight_quantizer_ && !values_reason().empty();
  const at::Tensor weight = on_values ? quantized_values() : raw;
  const at::Tensor x = input_norm ? run_batch_norm(inputs[0], *input_norm) : inputs[0];
  at::Tensor y = is_linear() ? at::linear(x, weight, bias) : convolve(x, weight, bias, geometry_);
  if (norm) y = run_batch_norm(y, *batch_norm());
  return activation_(y);
}

void WeightedLayer::merge_batch_norm() {
  std::optional<autograd::BatchNorm> norm = batch_norm();
  if (!norm) return;
  const at::NoGradGuard no_grad;
  const at::Tensor k = norm->gamma.to(at::kDouble) * (norm->running_var.to(at::kDouble) + norm->eps).rsqrt();
  const at::Tensor bias = tensors_.bias.defined() ? tensors_.bias.to(at::kDouble) : at::zeros_like(k);
  norm->beta.add_((bias - norm->running_mean) * k);
  if (tensors_.bias.defined()) tensors_.bias.zero_();
  at::Tensor weight = tensors_.weight;
  if (geometry_.transposed) {
    const at::Tensor first = autograd::output_first(weight, geometry_.groups);
    weight.copy_(autograd::output_first(first * per_row(k, weight.dim()), geometry_.groups));
  } else {
    weight.mul_(per_row(k, weight.dim()));
  }
  norm->gamma.fill_(1.0);
  norm->running_mean.zero_();
  norm->running_var.fill_(1.0 - norm->eps);
}

autograd::ConvCall WeightedLayer::call() const {
  autograd::ConvCall call;
  call.name = label();
  call.geometry = geometry_;
  call.bias = tensors_.bias;
  call.batch_norm = batch_norm();
  call.live = (learning() || reestimating()) && mode_ != BatchNormMode::kFolded;
  if (mode_ == BatchNormMode::kEma && !reestimating()) call.statistics = autograd::LiveStatistics::kRunning;
  call.relu = activation_.kind == Activation::Kind::kClip && activation_.lowest == 0.0 && !activation_.closed;
  call.memory = memory_;
  if (call.batch_norm && reestimating()) call.batch_norm->momentum = reestimation_momentum();
  if (call.batch_norm && mode_ == BatchNormMode::kFolded) {
    call.bias = at::Tensor();  // merged into beta
  } else if (call.batch_norm && weight_quantizer_ && values_reason().empty()) {
    const bool one_scale = weight_quantizer_->spec().granularity == quant::Granularity::kTensor;
    if (one_scale || !weight_quantizer_->traits().scale_folds || mode_ == BatchNormMode::kBatchCorrected) {
      call.weight_gain = call.batch_norm->running_gain();
    }
  }
  if (tensors_.input_norm) {
    const autograd::BatchNorm& norm = *tensors_.input_norm;
    const at::Tensor first =
        geometry_.transposed ? autograd::output_first(tensors_.weight, geometry_.groups) : tensors_.weight;
    const at::Tensor shift = norm.beta - norm.running_mean * gain_of(norm);
    const at::Tensor added = (first * per_input(shift, first, geometry_.groups)).flatten(1).sum(1);
    call.bias = call.bias.defined() ? call.bias + added : added;
  }
  return call;
}

at::Tensor WeightedLayer::weight_for(const autograd::ConvCall& call) const {
  at::Tensor weight = tensors_.weight;
  if (geometry_.transposed) weight = autograd::output_first(weight, geometry_.groups);
  if (tensors_.input_norm) weight = weight * per_input(gain_of(*tensors_.input_norm), weight, geometry_.groups);
  if (call.weight_gain.empty()) return weight;
  return weight * per_row(at::tensor(call.weight_gain, at::kDouble).to(at::kFloat), weight.dim());
}

at::Tensor WeightedLayer::quantized_values() const {
  if (!geometry_.transposed) return weight_quantizer_->forward(tensors_.weight);
  const at::Tensor first = autograd::output_first(tensors_.weight, geometry_.groups);
  return autograd::output_first(weight_quantizer_->forward(first), geometry_.groups);
}

std::pair<autograd::QuantizedWeight, autograd::ConvCall> WeightedLayer::quantized() const {
  autograd::ConvCall conv = call();
  autograd::QuantizedWeight weight = weight_quantizer_->quantize_weight(weight_for(conv));
  return {std::move(weight), std::move(conv)};
}

at::Tensor WeightedLayer::run_values(const std::vector<Value>& inputs) {
  return std::get<at::Tensor>(run_codes(inputs, false));
}

Value WeightedLayer::run_quantized(const std::vector<Value>& inputs) {
  return run_codes(inputs, output_quantizer() != nullptr);
}

Value WeightedLayer::run_codes(const std::vector<Value>& inputs, bool to_codes) {
  QuantizedTensor x = codes_of(inputs[0]);
  const std::vector<int64_t> sizes = x.sizes().vec();
  // The features of a linear layer are the last of any number of dimensions.
  const bool flat = is_linear() && sizes.size() != 2;
  if (flat) x = autograd::move(x, [f = sizes.back()](const at::Tensor& t) { return t.reshape({-1, f}); });
  auto [weight, conv] = quantized();
  if (to_codes) conv.output = output_call();
  const autograd::ConvResult result = autograd::conv(x, weight, conv);
  std::vector<int64_t> out = sizes;
  out.back() = out_channels();
  const autograd::Move unflatten = [out](const at::Tensor& t) { return t.reshape(out); };
  if (result.codes) return flat ? autograd::move(*result.codes, unflatten) : *result.codes;
  return activation_(flat ? unflatten(result.values) : result.values);
}

}  // namespace qat::nn
