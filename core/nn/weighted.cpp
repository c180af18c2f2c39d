#include "core/nn/weighted.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/conv_transpose1d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/conv_transpose3d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include "core/base/error.h"
#include "core/base/random.h"

namespace qat::nn {
namespace {

/// Freezing moves weights, and so may the scale that their largest gives: passes until every frozen code is kept.
constexpr int kFreezingPasses = 4;

/// true with the probability, by the key and the element's place alone.
at::Tensor random_mask(at::IntArrayRef sizes, double probability, uint64_t key) {
  at::Tensor mask = at::empty(sizes, at::kBool);
  auto* out = mask.mutable_data_ptr<bool>();
  for (int64_t i = 0; i < mask.numel(); ++i) {
    out[i] = static_cast<double>(split_mix64(key, static_cast<uint64_t>(i)) >> 11) * 0x1p-53 < probability;
  }
  return mask;
}

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
  const autograd::ConvCall conv = call();
  weight_quantizer_->observe(weight_for(conv));
  weight_quantizer_->initialize();
  if (!bias_quantizer_) return;
  bias_quantizer_->observe(folded_bias(conv));
  bias_quantizer_->initialize();
}

void WeightedLayer::project() {
  QLayer::project();
  if (!weight_quantizer_) return;
  weight_quantizer_->project();
  weight_quantizer_->project_weight(tensors_.weight);
  if (bias_quantizer_) bias_quantizer_->project();
  if (oscillations_ && is_quantized() && step().freezing_threshold) freeze_oscillating();
}

std::string WeightedLayer::oscillation_obstacle() const {
  const quant::Quantizer& q = *weight_quantizer_;
  if (const std::string obstacle = q.obstacle(); !obstacle.empty()) return obstacle;
  if (!q.traits().integer_levels) return fmt::format("not every integer is a level of {}", q.method());
  return q.traits().idempotent ? "" : fmt::format("{} maps a level to another one", q.method());
}

void WeightedLayer::track_oscillations() {
  std::vector<int64_t> sizes = tensors_.weight.sizes().vec();
  if (geometry_.transposed) sizes = autograd::output_first(tensors_.weight.detach(), geometry_.groups).sizes().vec();
  oscillations_ = weight_quantizer_->register_module("oscillation", std::make_shared<OscillationTracker>(sizes));
}

void WeightedLayer::freeze_oscillating() {
  const at::NoGradGuard no_grad;
  const autograd::ConvCall conv = call();
  autograd::QuantizedWeight weight = weight_quantizer_->quantize_weight(weight_for(conv));
  oscillations_->update(weight.codes, *step().freezing_threshold, step().freezing_momentum);
  const at::Tensor &frozen = oscillations_->frozen(), &kept = oscillations_->frozen_codes();
  const at::Tensor latent_frozen =
      geometry_.transposed ? autograd::output_first(frozen.to(at::kFloat), geometry_.groups).ne(0) : frozen;
  for (int pass = 0; pass < kFreezingPasses; ++pass) {
    const at::Tensor values = kept.to(at::kFloat) * per_row(weight.scale, kept.dim());
    tensors_.weight.copy_(at::where(latent_frozen, latent_of(values, conv), tensors_.weight));
    weight = weight_quantizer_->quantize_weight(weight_for(conv));
    if (!weight.codes.ne(kept).logical_and(frozen).any().item<bool>()) return;
  }
}

bool WeightedLayer::can_be_dampened() const {
  const quant::Traits traits = weight_quantizer_->traits();
  return traits.affine && traits.integer_levels;
}

at::Tensor WeightedLayer::dampening_loss() const {
  const at::Tensor w = weight_for(call());
  at::Tensor target, inside;
  {
    const at::NoGradGuard no_grad;
    target = weight_quantizer_->forward(w.detach());
    const at::Tensor scale = weight_quantizer_->qparams().scale.detach();
    const at::Tensor t = w.detach() / per_row(scale.repeat_interleave(w.size(0) / scale.numel()), w.dim());
    inside = t.ge(weight_quantizer_->spec().lo()).logical_and(t.le(weight_quantizer_->spec().hi()));
  }
  // Beyond the outermost levels clip(w) is the level itself: no loss.
  return (target - w).square().mul(inside).sum() * step().dampening;
}

at::Tensor WeightedLayer::penalty() const {
  at::Tensor sum = QLayer::penalty();
  const auto add = [&](const at::Tensor& term) {
    if (term.defined()) sum = sum.defined() ? sum + term : term;
  };
  if (weight_quantizer_) add(weight_quantizer_->penalty());
  if (bias_quantizer_) add(bias_quantizer_->penalty());
  if (weight_quantizer_ && is_quantized() && step().dampening > 0 && can_be_dampened()) add(dampening_loss());
  return sum;
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
  const bool on_values = is_quantized() && weight_quantizer_ && computes_on_values();
  return evaluate_latent(inputs[0], on_values ? quantized_values() : tensors_.weight);
}

at::Tensor WeightedLayer::evaluate(const at::Tensor& input, const at::Tensor& weight) const {
  return evaluate_latent(input, latent_of(weight, call()));
}

void WeightedLayer::set_weight_to_quantize(const at::Tensor& weight) {
  const at::NoGradGuard no_grad;
  tensors_.weight.copy_(latent_of(weight, call()));
}

at::Tensor WeightedLayer::evaluate_latent(const at::Tensor& input, const at::Tensor& weight) const {
  const auto& [raw, bias, norm, begin, input_norm] = tensors_;
  const at::Tensor x = input_norm ? run_batch_norm(input, *input_norm) : input;
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
  call.saturates = saturates_;
  if (call.batch_norm && reestimating()) call.batch_norm->momentum = reestimation_momentum();
  if (call.batch_norm && mode_ == BatchNormMode::kFolded) {
    call.bias = at::Tensor();  // merged into beta
  } else if (call.batch_norm && weight_quantizer_ && values_reason().empty()) {
    const bool one_scale = weight_quantizer_->spec().granularity == quant::Granularity::kTensor;
    const quant::Traits traits = weight_quantizer_->traits();
    if (!traits.normalizes && (one_scale || !traits.scale_folds || mode_ == BatchNormMode::kBatchCorrected)) {
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
  if (bias_quantizer_ && !call.live && bias_quantizer_->initialized()) quantize_bias(call);
  return call;
}

at::Tensor WeightedLayer::folded_bias(const autograd::ConvCall& call) const {
  if (!call.batch_norm) return call.bias;
  const autograd::BatchNorm& norm = *call.batch_norm;
  const at::Tensor k = norm.gamma.detach().to(at::kDouble) * (norm.running_var.to(at::kDouble) + norm.eps).rsqrt();
  at::Tensor shift = -norm.running_mean.to(at::kDouble);
  if (call.bias.defined()) shift = shift + call.bias;
  return (norm.beta + shift * k).to(at::kFloat);
}

void WeightedLayer::quantize_bias(autograd::ConvCall& call) const {
  const at::Tensor bias = folded_bias(call), quantized = bias_quantizer_->forward(bias);
  if (call.batch_norm) {
    call.batch_norm->beta = call.batch_norm->beta + (quantized - bias);
  } else {
    call.bias = quantized;
  }
}

at::Tensor WeightedLayer::weight_for(const autograd::ConvCall& call) const {
  at::Tensor weight = tensors_.weight;
  if (geometry_.transposed) weight = autograd::output_first(weight, geometry_.groups);
  if (tensors_.input_norm) weight = weight * per_input(gain_of(*tensors_.input_norm), weight, geometry_.groups);
  if (call.weight_gain.empty()) return weight;
  return weight * per_row(at::tensor(call.weight_gain, at::kDouble).to(at::kFloat), weight.dim());
}

at::Tensor WeightedLayer::latent_of(at::Tensor quantized, const autograd::ConvCall& call) const {
  if (!call.weight_gain.empty()) {
    quantized = quantized / per_row(at::tensor(call.weight_gain, at::kDouble).to(at::kFloat), quantized.dim());
  }
  if (tensors_.input_norm) {
    quantized = quantized / per_input(gain_of(*tensors_.input_norm), quantized, geometry_.groups);
  }
  return geometry_.transposed ? autograd::output_first(quantized, geometry_.groups) : quantized;
}

at::Tensor WeightedLayer::quantized_values() const {
  const at::Tensor& latent = tensors_.weight;
  at::Tensor values = geometry_.transposed ? autograd::output_first(latent, geometry_.groups) : latent;
  values = weight_quantizer_->forward(values);
  if (geometry_.transposed) values = autograd::output_first(values, geometry_.groups);
  if (!noisy()) return values;
  return at::where(random_mask(latent.sizes(), step().noise_probability, step().noise_key), values, latent);
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
