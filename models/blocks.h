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

enum class Activation { kNone, kRelu, kRelu6, kHardtanh, kHardswish, kSilu, kGelu, kSigmoid, kHardsigmoid };

at::Tensor activate(Activation activation, const at::Tensor& x);

/// Modules without parameters: they take a place (and so a number) in a Chain.
torch::nn::Functional activation_layer(Activation activation);
/// Windows of kernel x kernel; `ceil`: windows that begin inside the image may end outside.
torch::nn::Functional max_pool_layer(int64_t kernel, int64_t stride, int64_t padding = 0, bool ceil = false);
torch::nn::Functional flatten_layer();

/// [N, C, H, W] -> [N, C], the mean over H and W.
at::Tensor global_average(const at::Tensor& x);

/// Channel i * C / groups + j becomes channel groups * j + i. x [N, C, H, W], C a multiple of groups.
at::Tensor shuffle_channels(const at::Tensor& x, int64_t groups);

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

/// ReLU(batch norm(convolution(x))); the names are conv and bn.
class ConvBnRelu : public torch::nn::Module {
 public:
  explicit ConvBnRelu(const torch::nn::Conv2dOptions& conv, const BatchNormOptions& norm = {});
  at::Tensor forward(const at::Tensor& x);

 private:
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d bn_{nullptr};
};

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

/// Options of networks whose first linear layer knows the size of the images.
struct SizedOptions {
  int64_t num_classes = 10;
  int64_t in_channels = 3;
  int64_t image_size = 32;  // H = W
};

/// The rows of a struct with the members of SizedOptions.
template <class Options>
void describe_sized_classifier(config::Fields<Options>& f) {
  describe_classifier(f);
  f.field("image_size", &Options::image_size).doc("height and width of the images").minimum(1).maximum(16384);
}

/// Registers a network for images of image_size, at least `smallest`: make(SizedOptions) like add_model's.
template <class Make>
void add_sized_model(Registry<ModelFactory>& models, const std::string& name, const std::string& description,
                     int64_t smallest, Make make) {
  models.add(name, description, [make, smallest](const config::Node& node) {
    const auto options = config::parse<SizedOptions>(node);
    if (options.image_size < smallest) {
      throw node.error(fmt::format("image_size {}: expected at least {}", options.image_size, smallest));
    }
    return wrap(make(options), options.image_size);
  });
}

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

}  // namespace qat::models

template <>
struct qat::config::Schema<qat::models::SizedOptions> {
  static void describe(Fields<qat::models::SizedOptions>& f) { qat::models::describe_sized_classifier(f); }
};
