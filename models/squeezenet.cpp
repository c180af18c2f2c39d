// SqueezeNet (Iandola et al., arXiv:1602.07360) 1.0 and its cheaper revision 1.1.
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/relu.h>
#include <torch/nn/init.h>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

/// A 1x1 convolution, then 1x1 and 3x3 convolutions of `expanded` channels each, concatenated.
class Fire : public nn::Module {
 public:
  Fire(int64_t in, int64_t squeezed, int64_t expanded) {
    squeeze_ = register_module("squeeze", nn::Conv2d(nn::Conv2dOptions(in, squeezed, 1)));
    expand1x1_ = register_module("expand1x1", nn::Conv2d(nn::Conv2dOptions(squeezed, expanded, 1)));
    expand3x3_ = register_module("expand3x3", nn::Conv2d(nn::Conv2dOptions(squeezed, expanded, 3).padding(1)));
  }

  Tensor forward(const Tensor& input) {
    const Tensor x = at::relu(squeeze_(input));
    return at::cat({at::relu(expand1x1_(x)), at::relu(expand3x3_(x))}, 1);
  }

 private:
  nn::Conv2d squeeze_{nullptr}, expand1x1_{nullptr}, expand3x3_{nullptr};
};

/// The eight fire modules are those of both versions; what differs is the first convolution and where the pools stand.
struct SqueezeNetVariant {
  const char* name;
  const char* description;
  int64_t channels, kernel;      // of the first convolution
  std::vector<int> pools_after;  // numbers of fire modules
};

const std::vector<SqueezeNetVariant>& squeezenet_variants() {
  static const std::vector<SqueezeNetVariant> table = {
      {"squeezenet1_0", "SqueezeNet 1.0, ImageNet", 96, 7, {3, 7}},
      {"squeezenet1_1", "SqueezeNet 1.1, ImageNet", 64, 3, {2, 4}},
  };
  return table;
}

std::shared_ptr<FeatureClassifier> squeezenet(const SqueezeNetVariant& variant, const ImagenetOptions& options) {
  constexpr int64_t kFires[][2] = {{16, 64},  {16, 64},  {32, 128}, {32, 128},
                                   {48, 192}, {48, 192}, {64, 256}, {64, 256}};  // squeezed, expanded
  Chain features(nn::Conv2d(nn::Conv2dOptions(options.in_channels, variant.channels, variant.kernel).stride(2)),
                 activation_layer(Activation::kRelu), max_pool_layer(3, 2, 0, true));
  int64_t channels = variant.channels;
  int number = 0;
  for (const auto& [squeezed, expanded] : kFires) {
    features->push_back(Fire(channels, squeezed, expanded));
    channels = 2 * expanded;
    ++number;
    for (const int pool : variant.pools_after) {
      if (pool == number) features->push_back(max_pool_layer(3, 2, 0, true));
    }
  }
  nn::Conv2d last(nn::Conv2dOptions(512, options.num_classes, 1));
  Chain classifier(nn::Dropout(0.5), last, activation_layer(Activation::kRelu),
                   nn::Functional([](const Tensor& x) { return global_average(x); }));
  auto net = std::make_shared<FeatureClassifier>(features, 0, classifier);
  for_each_layer<nn::Conv2d>(*net, [](nn::Conv2dImpl& conv) {
    nn::init::kaiming_uniform_(conv.weight);
    init_zero_bias(conv.bias);
  });
  init_normal(*last, 0.01);
  return net;
}

}  // namespace

void add_squeezenets(Registry<ModelFactory>& models) {
  for (const SqueezeNetVariant& variant : squeezenet_variants()) {
    add_model(models, variant.name, variant.description,
              [&variant](const ImagenetOptions& options) { return squeezenet(variant, options); });
  }
}

}  // namespace qat::models
