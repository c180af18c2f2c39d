// DenseNet-BC (Huang et al., CVPR 2017, arXiv:1608.06993): every layer reads the outputs of all layers of its block.
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/relu.h>
#include <torch/nn/init.h>

#include <array>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct DenseNetVariant {
  const char* name;
  const char* description;
  int64_t growth;                 // channels that a layer adds
  std::array<int64_t, 4> layers;  // in the four blocks
  int64_t first;                  // channels of the first convolution
};

constexpr DenseNetVariant kDenseNetVariants[] = {{"densenet121", "DenseNet-121, ImageNet", 32, {6, 12, 24, 16}, 64},
                                                 {"densenet161", "DenseNet-161, ImageNet", 48, {6, 12, 36, 24}, 96},
                                                 {"densenet169", "DenseNet-169, ImageNet", 32, {6, 12, 32, 32}, 64},
                                                 {"densenet201", "DenseNet-201, ImageNet", 32, {6, 12, 48, 32}, 64}};

/// Norm, ReLU, 1x1 convolution to 4 * growth channels, norm, ReLU, 3x3 convolution to `growth` channels.
class DenseLayer : public nn::Module {
 public:
  DenseLayer(int64_t in, int64_t growth) {
    norm1_ = register_module("norm1", batch_norm(in));
    conv1_ = register_module("conv1", same_conv({in, 4 * growth, 1}));
    norm2_ = register_module("norm2", batch_norm(4 * growth));
    conv2_ = register_module("conv2", same_conv({4 * growth, growth, 3}));
  }

  Tensor forward(const Tensor& x) { return conv2_(at::relu(norm2_(conv1_(at::relu(norm1_(x)))))); }

 private:
  nn::BatchNorm2d norm1_{nullptr}, norm2_{nullptr};
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
};

class DenseBlock : public nn::Module {
 public:
  DenseBlock(int64_t layers, int64_t in, int64_t growth) {
    for (int64_t i = 0; i < layers; ++i) {
      layers_.push_back(
          register_module("denselayer" + std::to_string(i + 1), std::make_shared<DenseLayer>(in + i * growth, growth)));
    }
  }

  Tensor forward(const Tensor& x) {
    std::vector<Tensor> features{x};
    for (const auto& layer : layers_) {
      features.push_back(layer->forward(features.size() == 1 ? x : at::cat(features, 1)));
    }
    return at::cat(features, 1);
  }

 private:
  std::vector<std::shared_ptr<DenseLayer>> layers_;
};

Chain transition(int64_t channels) {
  Chain layers;
  layers->push_back("norm", batch_norm(channels));
  layers->push_back("relu", activation_layer(Activation::kRelu));
  layers->push_back("conv", same_conv({channels, channels / 2, 1}));
  layers->push_back("pool", nn::Functional([](const Tensor& x) { return at::avg_pool2d(x, {2, 2}, {2, 2}); }));
  return layers;
}

class Densenet : public nn::Module {
 public:
  Densenet(const DenseNetVariant& variant, const ImagenetOptions& options) {
    int64_t channels = variant.first;
    features_->push_back("conv0", same_conv({options.in_channels, channels, 7, 2}));
    features_->push_back("norm0", batch_norm(channels));
    features_->push_back("relu0", activation_layer(Activation::kRelu));
    features_->push_back("pool0", max_pool_layer(3, 2, 1));
    for (size_t i = 0; i < variant.layers.size(); ++i) {
      const std::string number = std::to_string(i + 1);
      features_->push_back("denseblock" + number, DenseBlock(variant.layers[i], channels, variant.growth));
      channels += variant.layers[i] * variant.growth;
      if (i + 1 == variant.layers.size()) break;
      features_->push_back("transition" + number, transition(channels));
      channels /= 2;
    }
    features_->push_back("norm5", batch_norm(channels));
    register_module("features", features_);
    classifier_ = register_module("classifier", nn::Linear(channels, options.num_classes));
    for_each_layer<nn::Conv2d>(*this, [](nn::Conv2dImpl& conv) { nn::init::kaiming_normal_(conv.weight); });
    init_zero_bias(classifier_->bias);
  }

  Tensor forward(const Tensor& x) { return classifier_(global_average(at::relu(features_->forward(x)))); }

 private:
  Chain features_;
  nn::Linear classifier_{nullptr};
};

}  // namespace

void add_densenets(Registry<ModelFactory>& models) {
  for (const DenseNetVariant& variant : kDenseNetVariants) {
    add_model(models, variant.name, variant.description,
              [variant](const ImagenetOptions& options) { return std::make_shared<Densenet>(variant, options); });
  }
}

}  // namespace qat::models
