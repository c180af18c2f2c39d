// EfficientNet (Tan and Le, ICML 2019, arXiv:1905.11946) and EfficientNetV2 (ICML 2021, arXiv:2104.00298).
#include <torch/nn/init.h>

#include <cmath>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct EfficientNetStage {
  bool fused;  // one kernel x kernel convolution for expansion and depthwise convolution, no squeeze-excite
  int64_t expansion, kernel, stride, in, out, blocks;
};

struct EfficientNetVariant {
  const char* name;
  const char* description;
  const std::vector<EfficientNetStage>& stages;
  double width, depth;  // factors of channels and blocks
  double dropout;
  BatchNormOptions norm = {};
  int64_t last = 0;  // channels of the last convolution; 0: four times those of the last stage
};

const std::vector<EfficientNetStage>& stages_b() {
  static const std::vector<EfficientNetStage> stages = {{false, 1, 3, 1, 32, 16, 1},  {false, 6, 3, 2, 16, 24, 2},
                                                        {false, 6, 5, 2, 24, 40, 2},  {false, 6, 3, 2, 40, 80, 3},
                                                        {false, 6, 5, 1, 80, 112, 3}, {false, 6, 5, 2, 112, 192, 4},
                                                        {false, 6, 3, 1, 192, 320, 1}};
  return stages;
}

const std::vector<EfficientNetStage>& stages_v2_s() {
  static const std::vector<EfficientNetStage> stages = {{true, 1, 3, 1, 24, 24, 2},    {true, 4, 3, 2, 24, 48, 4},
                                                        {true, 4, 3, 2, 48, 64, 4},    {false, 4, 3, 2, 64, 128, 6},
                                                        {false, 6, 3, 1, 128, 160, 9}, {false, 6, 3, 2, 160, 256, 15}};
  return stages;
}

const std::vector<EfficientNetStage>& stages_v2_m() {
  static const std::vector<EfficientNetStage> stages = {{true, 1, 3, 1, 24, 24, 3},     {true, 4, 3, 2, 24, 48, 5},
                                                        {true, 4, 3, 2, 48, 80, 5},     {false, 4, 3, 2, 80, 160, 7},
                                                        {false, 6, 3, 1, 160, 176, 14}, {false, 6, 3, 2, 176, 304, 18},
                                                        {false, 6, 3, 1, 304, 512, 5}};
  return stages;
}

const std::vector<EfficientNetStage>& stages_v2_l() {
  static const std::vector<EfficientNetStage> stages = {{true, 1, 3, 1, 32, 32, 4},     {true, 4, 3, 2, 32, 64, 7},
                                                        {true, 4, 3, 2, 64, 96, 7},     {false, 4, 3, 2, 96, 192, 10},
                                                        {false, 6, 3, 1, 192, 224, 19}, {false, 6, 3, 2, 224, 384, 25},
                                                        {false, 6, 3, 1, 384, 640, 7}};
  return stages;
}

const std::vector<EfficientNetVariant>& efficientnet_variants() {
  constexpr BatchNormOptions kSlow{1e-3, 1e-2}, kWideEps{1e-3, 0.1};
  static const std::vector<EfficientNetVariant> table = {
      {"efficientnet_b0", "EfficientNet-B0, ImageNet", stages_b(), 1.0, 1.0, 0.2},
      {"efficientnet_b1", "EfficientNet-B1, ImageNet", stages_b(), 1.0, 1.1, 0.2},
      {"efficientnet_b2", "EfficientNet-B2, ImageNet", stages_b(), 1.1, 1.2, 0.3},
      {"efficientnet_b3", "EfficientNet-B3, ImageNet", stages_b(), 1.2, 1.4, 0.3},
      {"efficientnet_b4", "EfficientNet-B4, ImageNet", stages_b(), 1.4, 1.8, 0.4},
      {"efficientnet_b5", "EfficientNet-B5, ImageNet", stages_b(), 1.6, 2.2, 0.4, kSlow},
      {"efficientnet_b6", "EfficientNet-B6, ImageNet", stages_b(), 1.8, 2.6, 0.5, kSlow},
      {"efficientnet_b7", "EfficientNet-B7, ImageNet", stages_b(), 2.0, 3.1, 0.5, kSlow},
      {"efficientnet_v2_s", "EfficientNetV2-S, ImageNet", stages_v2_s(), 1.0, 1.0, 0.2, kWideEps, 1280},
      {"efficientnet_v2_m", "EfficientNetV2-M, ImageNet", stages_v2_m(), 1.0, 1.0, 0.3, kWideEps, 1280},
      {"efficientnet_v2_l", "EfficientNetV2-L, ImageNet", stages_v2_l(), 1.0, 1.0, 0.4, kWideEps, 1280}};
  return table;
}

/// Inverted residual with SiLU, squeeze-excite (not where fused), and stochastic depth on the residual branch.
class EfficientNetBlock : public nn::Module {
 public:
  EfficientNetBlock(const EfficientNetStage& stage, int64_t in, int64_t out, int64_t stride,
                    const BatchNormOptions& norm, double drop)
      : residual_(stride == 1 && in == out), stochastic_depth_(nullptr) {
    const int64_t hidden = make_divisible(static_cast<double>(in * stage.expansion), 8);
    Chain layers;
    if (stage.fused && hidden == in) {
      layers->push_back(conv_bn({in, out, stage.kernel, stride}, Activation::kSilu, norm));
    } else {
      if (stage.fused) {
        layers->push_back(conv_bn({in, hidden, stage.kernel, stride}, Activation::kSilu, norm));
      } else {
        if (hidden != in) layers->push_back(conv_bn({in, hidden, 1}, Activation::kSilu, norm));
        layers->push_back(conv_bn({hidden, hidden, stage.kernel, stride, hidden}, Activation::kSilu, norm));
        layers->push_back(SqueezeExcite(hidden, std::max<int64_t>(1, in / 4), Activation::kSilu, Activation::kSigmoid));
      }
      layers->push_back(conv_bn({hidden, out, 1}, Activation::kNone, norm));
    }
    layers_ = register_module("block", layers);
    stochastic_depth_ = register_module("stochastic_depth", std::make_shared<StochasticDepth>(drop));
  }

  Tensor forward(const Tensor& x) {
    const Tensor out = layers_->forward(x);
    return residual_ ? stochastic_depth_->forward(out) + x : out;
  }

 private:
  bool residual_;
  Chain layers_{nullptr};
  std::shared_ptr<StochasticDepth> stochastic_depth_;
};

std::shared_ptr<FeatureClassifier> efficientnet(const EfficientNetVariant& variant, const ImagenetOptions& options) {
  const auto widened = [&](int64_t channels) {
    return make_divisible(static_cast<double>(channels) * variant.width, 8);
  };
  const auto deepened = [&](int64_t blocks) {
    return static_cast<int64_t>(std::ceil(static_cast<double>(blocks) * variant.depth));
  };
  int64_t total = 0, number = 0;
  for (const EfficientNetStage& stage : variant.stages) total += deepened(stage.blocks);

  int64_t channels = widened(variant.stages.front().in);
  Chain features;
  features->push_back(conv_bn({options.in_channels, channels, 3, 2}, Activation::kSilu, variant.norm));
  for (const EfficientNetStage& stage : variant.stages) {
    Chain blocks;
    const int64_t out = widened(stage.out);
    for (int64_t i = 0; i < deepened(stage.blocks); ++i, ++number) {
      const double drop = 0.2 * static_cast<double>(number) / static_cast<double>(total);
      blocks->push_back(EfficientNetBlock(stage, channels, out, i == 0 ? stage.stride : 1, variant.norm, drop));
      channels = out;
    }
    features->push_back(blocks);
  }
  const int64_t last = variant.last != 0 ? variant.last : 4 * channels;
  features->push_back(conv_bn({channels, last, 1}, Activation::kSilu, variant.norm));
  Chain classifier(nn::Dropout(variant.dropout), nn::Linear(last, options.num_classes));
  auto net = std::make_shared<FeatureClassifier>(features, 1, classifier);
  for_each_layer<nn::Conv2d>(*net, [](nn::Conv2dImpl& conv) { init_kaiming_fan_out(conv); });
  for_each_layer<nn::Linear>(*net, [](nn::LinearImpl& linear) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(linear.options.out_features()));
    nn::init::uniform_(linear.weight, -bound, bound);
    init_zero_bias(linear.bias);
  });
  return net;
}

}  // namespace

void add_efficientnets(Registry<ModelFactory>& models) {
  for (const EfficientNetVariant& variant : efficientnet_variants()) {
    add_model(models, variant.name, variant.description,
              [&variant](const ImagenetOptions& options) { return efficientnet(variant, options); });
  }
}

}  // namespace qat::models
