// ConvNeXt (Liu et al., CVPR 2022, arXiv:2201.03545).
#include <ATen/ops/full.h>
#include <torch/nn/modules/normalization.h>

#include <array>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct ConvNextVariant {
  const char* name;
  const char* description;
  std::array<int64_t, 4> blocks, channels;  // of the stages
  double drop;                              // stochastic depth of the last block; linear from 0 at the first
};

constexpr ConvNextVariant kConvNextVariants[] = {
    {"convnext_tiny", "ConvNeXt-T, ImageNet", {3, 3, 9, 3}, {96, 192, 384, 768}, 0.1},
    {"convnext_small", "ConvNeXt-S, ImageNet", {3, 3, 27, 3}, {96, 192, 384, 768}, 0.4},
    {"convnext_base", "ConvNeXt-B, ImageNet", {3, 3, 27, 3}, {128, 256, 512, 1024}, 0.5},
    {"convnext_large", "ConvNeXt-L, ImageNet", {3, 3, 27, 3}, {192, 384, 768, 1536}, 0.5}};

nn::LayerNormOptions norm_options(int64_t channels) { return nn::LayerNormOptions({channels}).eps(1e-6); }

/// Layer norm over the channels of [N, C, H, W].
class ChannelNorm : public nn::LayerNormImpl {
 public:
  explicit ChannelNorm(int64_t channels) : nn::LayerNormImpl(norm_options(channels)) {}
  Tensor forward(const Tensor& x) { return nn::LayerNormImpl::forward(x.permute({0, 2, 3, 1})).permute({0, 3, 1, 2}); }
};

/// x + stochastic_depth(layer_scale * block(x)); block: 7x7 depthwise convolution, then channels last: layer norm, two
/// linear layers with GELU between. Permutations take places 1 and 6 of the block.
class ConvNextBlock : public nn::Module {
 public:
  ConvNextBlock(int64_t channels, double drop) {
    layer_scale_ = register_parameter("layer_scale", at::full({channels, 1, 1}, 1e-6));
    Chain layers(nn::Conv2d(nn::Conv2dOptions(channels, channels, 7).padding(3).groups(channels)),
                 nn::Functional([](const Tensor& x) {
                   return x.permute({0, 2, 3, 1});
                 }),
                 nn::LayerNorm(norm_options(channels)), nn::Linear(channels, 4 * channels),
                 activation_layer(Activation::kGelu), nn::Linear(4 * channels, channels),
                 nn::Functional([](const Tensor& x) {
                   return x.permute({0, 3, 1, 2});
                 }));
    layers_ = register_module("block", layers);
    stochastic_depth_ = register_module("stochastic_depth", std::make_shared<StochasticDepth>(drop));
  }

  Tensor forward(const Tensor& x) { return stochastic_depth_->forward(layer_scale_ * layers_->forward(x)) + x; }

 private:
  Tensor layer_scale_;
  Chain layers_{nullptr};
  std::shared_ptr<StochasticDepth> stochastic_depth_;
};

std::shared_ptr<FeatureClassifier> convnext(const ConvNextVariant& variant, const ImagenetOptions& options) {
  const auto patches = [](int64_t in, int64_t out, int64_t size) {
    return nn::Conv2d(nn::Conv2dOptions(in, out, size).stride(size));
  };
  int64_t total = 0, number = 0;
  for (const int64_t blocks : variant.blocks) total += blocks;

  Chain features;
  for (size_t i = 0; i < variant.blocks.size(); ++i) {
    const int64_t channels = variant.channels[i];
    if (i == 0) {
      features->push_back(Chain(patches(options.in_channels, channels, 4), ChannelNorm(channels)));
    } else {
      const int64_t before = variant.channels[i - 1];
      features->push_back(Chain(ChannelNorm(before), patches(before, channels, 2)));
    }
    Chain stage;
    for (int64_t j = 0; j < variant.blocks[i]; ++j, ++number) {
      stage->push_back(
          ConvNextBlock(channels, variant.drop * static_cast<double>(number) / static_cast<double>(total - 1)));
    }
    features->push_back(stage);
  }
  const int64_t channels = variant.channels.back();
  Chain classifier(ChannelNorm(channels), flatten_layer(), nn::Linear(channels, options.num_classes));
  auto net = std::make_shared<FeatureClassifier>(features, 1, classifier, false);
  for_each_layer<nn::Conv2d>(*net, [](nn::Conv2dImpl& conv) {
    init_truncated_normal(conv.weight, 0.02);
    init_zero_bias(conv.bias);
  });
  for_each_layer<nn::Linear>(*net, [](nn::LinearImpl& linear) {
    init_truncated_normal(linear.weight, 0.02);
    init_zero_bias(linear.bias);
  });
  return net;
}

}  // namespace

void add_convnexts(Registry<ModelFactory>& models) {
  for (const ConvNextVariant& variant : kConvNextVariants) {
    add_model(models, variant.name, variant.description,
              [variant](const ImagenetOptions& options) { return convnext(variant, options); });
  }
}

}  // namespace qat::models
