// MobileNetV1 (Howard et al., arXiv:1704.04861), V2 (Sandler et al., CVPR 2018, arXiv:1801.04381) and V3 (Howard et
// al., ICCV 2019, arXiv:1905.02244). V1 is not in torchvision: its names and initialisation are those of
// mit-han-lab/amc, models/mobilenet.py, for which trained weights are published.
#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {

struct MobilenetV1Options {
  int64_t num_classes = 1000;
  int64_t in_channels = 3;
  double width = 1.0;
  bool small_images = false;
};

}  // namespace qat::models

template <>
struct qat::config::Schema<qat::models::MobilenetV1Options> {
  static void describe(Fields<qat::models::MobilenetV1Options>& f) {
    using Options = qat::models::MobilenetV1Options;
    qat::models::describe_classifier(f);
    f.field("width", &Options::width).doc("factor on the channels of all layers").above(0).maximum(16);
    f.field("small_images", &Options::small_images).doc("stride 1 in the first convolution, for images of 32x32");
  }
};

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

/// conv1, the features: a depthwise and a pointwise convolution each, and the classifier.
class MobilenetV1 : public nn::Module {
 public:
  explicit MobilenetV1(const MobilenetV1Options& options) {
    struct Block {
      int64_t out, stride;
    };
    constexpr Block kBlocks[] = {{64, 1},  {128, 2}, {128, 1}, {256, 2}, {256, 1},  {512, 2}, {512, 1},
                                 {512, 1}, {512, 1}, {512, 1}, {512, 1}, {1024, 2}, {1024, 1}};
    const auto scaled = [&](int64_t width) { return make_divisible(static_cast<double>(width) * options.width, 8); };
    int64_t channels = scaled(32);
    conv1_ = register_module(
        "conv1", conv_bn({options.in_channels, channels, 3, options.small_images ? 1 : 2}, Activation::kRelu));
    for (const Block& block : kBlocks) {
      Chain layers = conv_bn({channels, channels, 3, block.stride, channels}, Activation::kRelu);
      layers->extend(*conv_bn({channels, scaled(block.out), 1}, Activation::kRelu));
      features_->push_back(layers);
      channels = scaled(block.out);
    }
    register_module("features", features_);
    classifier_ = register_module("classifier", Chain(nn::Linear(channels, options.num_classes)));
    init_kaiming_fan_out_and_normal(*this, 0.01);
  }

  Tensor forward(const Tensor& x) {
    return classifier_->forward(global_average(features_->forward(conv1_->forward(x))));
  }

 private:
  Chain conv1_{nullptr}, features_, classifier_{nullptr};
};

/// A chain of layers with the given name, and the input added where stride and channels allow.
class Residual : public nn::Module {
 public:
  Residual(const char* name, Chain layers, bool residual)
      : layers_(register_module(name, std::move(layers))), residual_(residual) {}

  Tensor forward(const Tensor& x) {
    Tensor out = layers_->forward(x);
    if (residual_) out += x;
    return out;
  }

 private:
  Chain layers_;
  bool residual_;
};

Residual inverted_residual(int64_t in, int64_t out, int64_t expansion, int64_t stride) {
  const int64_t hidden = in * expansion;
  Chain layers;
  if (expansion != 1) layers->push_back(conv_bn({in, hidden, 1}, Activation::kRelu6));
  layers->push_back(conv_bn({hidden, hidden, 3, stride, hidden}, Activation::kRelu6));
  layers->push_back(same_conv({hidden, out, 1}));
  layers->push_back(batch_norm(out));
  return Residual("conv", layers, stride == 1 && in == out);
}

std::shared_ptr<FeatureClassifier> mobilenet_v2(const ImagenetOptions& options) {
  struct Stage {
    int64_t expansion, channels, blocks, stride;
  };
  constexpr Stage kStages[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                               {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
  int64_t channels = 32;
  Chain features;
  features->push_back(conv_bn({options.in_channels, channels, 3, 2}, Activation::kRelu6));
  for (const Stage& stage : kStages) {
    for (int64_t i = 0; i < stage.blocks; ++i) {
      features->push_back(inverted_residual(channels, stage.channels, stage.expansion, i == 0 ? stage.stride : 1));
      channels = stage.channels;
    }
  }
  features->push_back(conv_bn({channels, 1280, 1}, Activation::kRelu6));
  Chain classifier(nn::Dropout(0.2), nn::Linear(1280, options.num_classes));
  auto net = std::make_shared<FeatureClassifier>(features, 1, classifier);
  init_kaiming_fan_out_and_normal(*net, 0.01);
  return net;
}

/// One row of the paper's tables 1 and 2.
struct Bottleneck {
  int64_t kernel, expanded, out;
  bool squeeze_excite;
  Activation activation;
  int64_t stride;
};

constexpr BatchNormOptions kNormV3{1e-3, 1e-2};

Residual bottleneck(int64_t in, const Bottleneck& row) {
  Chain layers;
  if (row.expanded != in) layers->push_back(conv_bn({in, row.expanded, 1}, row.activation, kNormV3));
  layers->push_back(
      conv_bn({row.expanded, row.expanded, row.kernel, row.stride, row.expanded}, row.activation, kNormV3));
  if (row.squeeze_excite) {
    layers->push_back(SqueezeExcite(row.expanded, make_divisible(static_cast<double>(row.expanded / 4), 8),
                                    Activation::kRelu, Activation::kHardsigmoid));
  }
  layers->push_back(conv_bn({row.expanded, row.out, 1}, Activation::kNone, kNormV3));
  return Residual("block", layers, row.stride == 1 && in == row.out);
}

struct VariantV3 {
  const char* name;
  const char* description;
  std::vector<Bottleneck> rows;
  int64_t last;  // width of the hidden linear layer
};

const std::vector<VariantV3>& variants_v3() {
  constexpr Activation kRe = Activation::kRelu, kHs = Activation::kHardswish;
  static const std::vector<VariantV3> table = {
      {"mobilenet_v3_small",
       "MobileNetV3 small, ImageNet",
       {{3, 16, 16, true, kRe, 2},
        {3, 72, 24, false, kRe, 2},
        {3, 88, 24, false, kRe, 1},
        {5, 96, 40, true, kHs, 2},
        {5, 240, 40, true, kHs, 1},
        {5, 240, 40, true, kHs, 1},
        {5, 120, 48, true, kHs, 1},
        {5, 144, 48, true, kHs, 1},
        {5, 288, 96, true, kHs, 2},
        {5, 576, 96, true, kHs, 1},
        {5, 576, 96, true, kHs, 1}},
       1024},
      {"mobilenet_v3_large",
       "MobileNetV3 large, ImageNet",
       {{3, 16, 16, false, kRe, 1},
        {3, 64, 24, false, kRe, 2},
        {3, 72, 24, false, kRe, 1},
        {5, 72, 40, true, kRe, 2},
        {5, 120, 40, true, kRe, 1},
        {5, 120, 40, true, kRe, 1},
        {3, 240, 80, false, kHs, 2},
        {3, 200, 80, false, kHs, 1},
        {3, 184, 80, false, kHs, 1},
        {3, 184, 80, false, kHs, 1},
        {3, 480, 112, true, kHs, 1},
        {3, 672, 112, true, kHs, 1},
        {5, 672, 160, true, kHs, 2},
        {5, 960, 160, true, kHs, 1},
        {5, 960, 160, true, kHs, 1}},
       1280},
  };
  return table;
}

std::shared_ptr<FeatureClassifier> mobilenet_v3(const VariantV3& variant, const ImagenetOptions& options) {
  int64_t channels = 16;
  Chain features;
  features->push_back(conv_bn({options.in_channels, channels, 3, 2}, Activation::kHardswish, kNormV3));
  for (const Bottleneck& row : variant.rows) {
    features->push_back(bottleneck(channels, row));
    channels = row.out;
  }
  features->push_back(conv_bn({channels, 6 * channels, 1}, Activation::kHardswish, kNormV3));
  Chain classifier(nn::Linear(6 * channels, variant.last), activation_layer(Activation::kHardswish), nn::Dropout(0.2),
                   nn::Linear(variant.last, options.num_classes));
  auto net = std::make_shared<FeatureClassifier>(features, 1, classifier);
  init_kaiming_fan_out_and_normal(*net, 0.01);
  return net;
}

}  // namespace

void add_mobilenets(Registry<ModelFactory>& models) {
  add_model<MobilenetV1Options>(models, "mobilenet_v1", "MobileNetV1, ImageNet or small images",
                                [](const auto& options) { return std::make_shared<MobilenetV1>(options); });
  add_model(models, "mobilenet_v2", "MobileNetV2, ImageNet", mobilenet_v2);
  for (const VariantV3& variant : variants_v3()) {
    add_model(models, variant.name, variant.description,
              [&variant](const ImagenetOptions& options) { return mobilenet_v3(variant, options); });
  }
}

}  // namespace qat::models
