// Building blocks that several families share: layers, initialisation, and the features-pool-classifier network.
#pragma once

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/functional.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>

#include "models/model.h"

namespace qat::models {

/// A Sequential that can stand inside another: its forward is not a template.
class ChainImpl : public torch::nn::SequentialImpl {
 public:
  using SequentialImpl::SequentialImpl;
  at::Tensor forward(const at::Tensor& x) { return SequentialImpl::forward(x); }
};
TORCH_MODULE(Chain);

enum class Activation { kNone, kRelu, kRelu6, kHardswish, kSilu, kGelu, kSigmoid, kHardsigmoid };

at::Tensor activate(Activation activation, const at::Tensor& x);

/// Modules without parameters: they take a place (and so a number) in a Chain.
torch::nn::Functional activation_layer(Activation activation);
/// Windows of kernel x kernel; `ceil`: windows that begin inside the image may end outside.
torch::nn::Functional max_pool_layer(int64_t kernel, int64_t stride, int64_t padding = 0, bool ceil = false);
torch::nn::Functional flatten_layer();

/// [N, C, H, W] -> [N, C], the mean over H and W.
at::Tensor global_average(const at::Tensor& x);

/// The nearest multiple of `divisor` (halves up), the next one where that would lose more than a tenth; >= divisor.
int64_t make_divisible(double value, int64_t divisor);

struct BatchNormOptions {
  double eps = 1e-5;
  double momentum = 0.1;
};

torch::nn::BatchNorm2d batch_norm(int64_t channels, const BatchNormOptions& options = {});

/// A square convolution without bias whose padding keeps the size at stride 1 (odd kernels).
struct ConvSpec {
  int64_t in;
  int64_t out;
  int64_t kernel = 3;
  int64_t stride = 1;
  int64_t groups = 1;
};

torch::nn::Conv2d same_conv(const ConvSpec& spec);

/// 0: convolution, 1: batch norm, 2: activation (none with kNone).
Chain conv_bn(const ConvSpec& spec, Activation activation, const BatchNormOptions& norm = {});

/// x * scale(fc2(inner(fc1(mean over H, W of x)))), fc1 and fc2 1x1 convolutions with bias (Hu et al., CVPR 2018,
/// arXiv:1709.01507). x [N, channels, H, W].
class SqueezeExcite : public torch::nn::Module {
 public:
  SqueezeExcite(int64_t channels, int64_t squeezed, Activation inner, Activation scale);
  at::Tensor forward(const at::Tensor& x);

 private:
  torch::nn::Conv2d fc1_{nullptr}, fc2_{nullptr};
  Activation inner_, scale_;
};

/// In training, zeroes whole samples of the batch with probability p and divides the others by 1 - p (Huang et al.,
/// ECCV 2016, arXiv:1603.09382). x [N, ...].
class StochasticDepth : public torch::nn::Module {
 public:
  explicit StochasticDepth(double p) : p_(p) {}
  at::Tensor forward(const at::Tensor& x) const;
  void set_probability(double p) { p_ = p; }

 private:
  double p_;
};

/// Sets the probability of every dropout and stochastic depth below `module`: 0 makes training deterministic.
void set_dropout(torch::nn::Module& module, double p);

/// features, adaptive average pooling to [N, C, pooled, pooled], flatten, classifier; the names are torchvision's.
class FeatureClassifier : public torch::nn::Module {
 public:
  /// pooled 0: the classifier takes the features as they are. flatten false: it takes [N, C, pooled, pooled].
  FeatureClassifier(Chain features, int64_t pooled, Chain classifier, bool flatten = true);
  at::Tensor forward(const at::Tensor& x);

 private:
  Chain features_, classifier_;
  int64_t pooled_;
  bool flatten_;
};

/// Calls f(layer) for every layer of the holder type Layer, in registration order.
template <class Layer, class F>
void for_each_layer(torch::nn::Module& module, F f) {
  for (const auto& item : module.modules(false)) {
    if (auto* layer = item->as<Layer>()) f(*layer);
  }
}

/// Initialisers of weights; biases become 0 where there are any.
/// Normal with standard deviation sqrt(2 / fan_out), fan_out = out * kernel area whatever the groups.
void init_kaiming_fan_out(torch::nn::Conv2dImpl& conv);
void init_normal(torch::nn::Conv2dImpl& conv, double std);
void init_normal(torch::nn::LinearImpl& linear, double std);
/// Normal clamped to [-2, 2]. Every standard deviation here is below 0.2: the same as a truncated normal but for 1e-22.
void init_truncated_normal(at::Tensor weight, double std);
void init_zero_bias(const at::Tensor& bias);

/// Every convolution by init_kaiming_fan_out, every linear layer normal with the standard deviation.
void init_kaiming_fan_out_and_normal(torch::nn::Module& module, double linear_std);

/// Registers one row of a family's table: make(options) -> shared_ptr to a module with forward(Tensor).
template <class Options = ImagenetOptions, class Make>
void add_model(Registry<ModelFactory>& models, const std::string& name, const std::string& description, Make make,
               int64_t smallest_image = 32) {
  models.add(name, description, [make, smallest_image](const config::Node& options) {
    return wrap(make(config::parse<Options>(options)), smallest_image);
  });
}

}  // namespace qat::models
