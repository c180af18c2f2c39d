#include "models/blocks.h"

#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/hardsigmoid.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/relu6.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <torch/nn/init.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace qat::models {

namespace nn = torch::nn;
using at::Tensor;

Tensor activate(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kRelu6:
      return at::relu6(x);
    case Activation::kHardtanh:
      return at::hardtanh(x);
    case Activation::kHardswish:
      return at::hardswish(x);
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kSigmoid:
      return at::sigmoid(x);
    case Activation::kHardsigmoid:
      return at::hardsigmoid(x);
    case Activation::kNone:
      break;
  }
  return x;
}

nn::Functional activation_layer(Activation activation) {
  return nn::Functional([activation](const Tensor& x) { return activate(activation, x); });
}

nn::Functional max_pool_layer(int64_t kernel, int64_t stride, int64_t padding, bool ceil) {
  return nn::Functional([=](const Tensor& x) {
    return at::max_pool2d(x, {kernel, kernel}, {stride, stride}, {padding, padding}, {1, 1}, ceil);
  });
}

nn::Functional flatten_layer() {
  return nn::Functional([](const Tensor& x) { return x.flatten(1); });
}

Tensor global_average(const Tensor& x) { return at::adaptive_avg_pool2d(x, {1, 1}).flatten(1); }

Tensor shuffle_channels(const Tensor& x, int64_t groups) {
  const int64_t n = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const Tensor grouped = x.view({n, groups, channels / groups, height, width});
  return grouped.transpose(1, 2).contiguous().view({n, channels, height, width});
}

int64_t make_divisible(double value, int64_t divisor) {
  const double step = static_cast<double>(divisor);
  const int64_t rounded = std::max(divisor, static_cast<int64_t>(value + step / 2) / divisor * divisor);
  return static_cast<double>(rounded) < 0.9 * value ? rounded + divisor : rounded;
}

nn::BatchNorm2d batch_norm(int64_t channels, const BatchNormOptions& options) {
  return nn::BatchNorm2d(nn::BatchNorm2dOptions(channels).eps(options.eps).momentum(options.momentum));
}

nn::Conv2d same_conv(const ConvSpec& spec) {
  return nn::Conv2d(nn::Conv2dOptions(spec.in, spec.out, spec.kernel)
                        .stride(spec.stride)
                        .padding((spec.kernel - 1) / 2)
                        .groups(spec.groups)
                        .bias(false));
}

Chain conv_bn(const ConvSpec& spec, Activation activation, const BatchNormOptions& norm) {
  Chain layers(same_conv(spec), batch_norm(spec.out, norm));
  if (activation != Activation::kNone) layers->push_back(activation_layer(activation));
  return layers;
}

ConvBnRelu::ConvBnRelu(const nn::Conv2dOptions& conv, const BatchNormOptions& norm)
    : conv_(register_module("conv", nn::Conv2d(conv))),
      bn_(register_module("bn", batch_norm(conv.out_channels(), norm))) {}

Tensor ConvBnRelu::forward(const Tensor& x) { return at::relu(bn_(conv_(x))); }

SqueezeExcite::SqueezeExcite(int64_t channels, int64_t squeezed, Activation inner, Activation scale)
    : inner_(inner), scale_(scale) {
  fc1_ = register_module("fc1", nn::Conv2d(nn::Conv2dOptions(channels, squeezed, 1)));
  fc2_ = register_module("fc2", nn::Conv2d(nn::Conv2dOptions(squeezed, channels, 1)));
}

Tensor SqueezeExcite::forward(const Tensor& x) {
  const Tensor squeezed = activate(inner_, fc1_(at::adaptive_avg_pool2d(x, {1, 1})));
  return activate(scale_, fc2_(squeezed)) * x;
}

Tensor StochasticDepth::forward(const Tensor& x) const {
  if (!is_training() || p_ == 0.0) return x;
  std::vector<int64_t> sizes(static_cast<size_t>(x.dim()), 1);
  sizes[0] = x.size(0);
  Tensor kept = at::empty(sizes, x.options()).bernoulli_(1.0 - p_);
  if (p_ < 1.0) kept.div_(1.0 - p_);
  return x * kept;
}

void set_dropout(nn::Module& module, double p) {
  for_each_layer<nn::Dropout>(module, [p](nn::DropoutImpl& layer) { layer.options.p(p); });
  for (const auto& item : module.modules(false)) {
    if (auto* layer = dynamic_cast<StochasticDepth*>(item.get())) layer->set_probability(p);
  }
}

FeatureClassifier::FeatureClassifier(Chain features, int64_t pooled, Chain classifier, bool flatten)
    : features_(register_module("features", std::move(features))),
      classifier_(register_module("classifier", std::move(classifier))),
      pooled_(pooled),
      flatten_(flatten) {}

Tensor FeatureClassifier::forward(const Tensor& input) {
  Tensor x = features_->forward(input);
  if (pooled_ != 0) {
    x = at::adaptive_avg_pool2d(x, {pooled_, pooled_});
    if (flatten_) x = x.flatten(1);
  }
  return classifier_->forward(x);
}

void init_zero_bias(const Tensor& bias) {
  if (bias.defined()) nn::init::zeros_(bias);
}

void init_kaiming_fan_out(nn::Conv2dImpl& conv) {
  nn::init::kaiming_normal_(conv.weight, 0.0, torch::kFanOut, torch::kReLU);
  init_zero_bias(conv.bias);
}

void init_normal(nn::Conv2dImpl& conv, double std) {
  nn::init::normal_(conv.weight, 0.0, std);
  init_zero_bias(conv.bias);
}

void init_normal(nn::LinearImpl& linear, double std) {
  nn::init::normal_(linear.weight, 0.0, std);
  init_zero_bias(linear.bias);
}

void init_truncated_normal(Tensor weight, double std) {
  const at::NoGradGuard guard;
  weight.normal_(0.0, std).clamp_(-2.0, 2.0);
}

void init_kaiming_fan_out_and_normal(nn::Module& module, double linear_std) {
  for_each_layer<nn::Conv2d>(module, [](nn::Conv2dImpl& conv) { init_kaiming_fan_out(conv); });
  for_each_layer<nn::Linear>(module, [=](nn::LinearImpl& linear) { init_normal(linear, linear_std); });
}

}  // namespace qat::models
