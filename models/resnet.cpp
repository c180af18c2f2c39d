// ResNet (He et al., CVPR 2016, arXiv:1512.03385), ResNeXt (Xie et al., CVPR 2017, arXiv:1611.05431) and wide ResNet
// (Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146), with the stride in the 3x3 convolution of a bottleneck.
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

#include <array>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct ResNetVariant {
  const char* name;
  const char* description;
  bool bottleneck;
  std::array<int64_t, 4> blocks;  // in layer1..4
  int64_t groups = 1;
  int64_t group_width = 64;  // channels of a group in layer1's bottlenecks; layer2..4 have 2, 4, 8 times as many
  int64_t stem_kernel = 7;   // of the first convolution; a max pool follows it
  int64_t stem_stride = 2;
};

constexpr ResNetVariant kResNetVariants[] = {
    {"resnet18", "ResNet-18, ImageNet", false, {2, 2, 2, 2}},
    {"resnet34", "ResNet-34, ImageNet", false, {3, 4, 6, 3}},
    {"resnet50", "ResNet-50, ImageNet", true, {3, 4, 6, 3}},
    {"resnet101", "ResNet-101, ImageNet", true, {3, 4, 23, 3}},
    {"resnet152", "ResNet-152, ImageNet", true, {3, 8, 36, 3}},
    {"resnext50_32x4d", "ResNeXt-50, 32 groups of 4, ImageNet", true, {3, 4, 6, 3}, 32, 4},
    {"resnext101_32x8d", "ResNeXt-101, 32 groups of 8, ImageNet", true, {3, 4, 23, 3}, 32, 8},
    {"wide_resnet50_2", "ResNet-50 with bottlenecks twice as wide, ImageNet", true, {3, 4, 6, 3}, 1, 128},
    // microsoft/nni, examples/model_compress/quantization/mixed_precision_speedup_cifar10.py
    {"nni_resnet18", "ResNet-18 of NNI's CIFAR-10 example: a 3x3 stem of stride 1", false, {2, 2, 2, 2}, 1, 64, 3, 1},
};

/// Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the width at the end; the shortcut has a 1x1 convolution
/// where the shape changes.
class ResNetBlock : public nn::Module {
 public:
  ResNetBlock(const ResNetVariant& variant, int64_t in, int64_t planes, int64_t stride) {
    int64_t out = planes;
    if (variant.bottleneck) {
      out = 4 * planes;
      const int64_t width = planes * variant.group_width / 64 * variant.groups;
      add({in, width, 1});
      add({width, width, 3, stride, variant.groups});
      add({width, out, 1});
    } else {
      add({in, planes, 3, stride});
      add({planes, planes, 3});
    }
    if (stride != 1 || in != out) {
      downsample_ = register_module("downsample", conv_bn({in, out, 1, stride}, Activation::kNone));
    }
  }

  Tensor forward(const Tensor& x) {
    Tensor out = x;
    for (size_t i = 0; i < convs_.size(); ++i) {
      if (i > 0) out = at::relu(out);
      out = norms_[i](convs_[i](out));
    }
    out += downsample_.is_empty() ? x : downsample_->forward(x);
    return at::relu(out);
  }

 private:
  void add(const ConvSpec& spec) {
    const std::string number = std::to_string(convs_.size() + 1);
    convs_.push_back(register_module("conv" + number, same_conv(spec)));
    norms_.push_back(register_module("bn" + number, batch_norm(spec.out)));
  }

  std::vector<nn::Conv2d> convs_;
  std::vector<nn::BatchNorm2d> norms_;
  Chain downsample_{nullptr};
};

class Resnet : public nn::Module {
 public:
  Resnet(const ResNetVariant& variant, const ImagenetOptions& options) {
    conv1_ = register_module("conv1", same_conv({options.in_channels, 64, variant.stem_kernel, variant.stem_stride}));
    bn1_ = register_module("bn1", batch_norm(64));
    int64_t channels = 64;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const int64_t planes = 64 << i;
      Chain layer;
      for (int64_t j = 0; j < variant.blocks[i]; ++j) {
        layer->push_back(ResNetBlock(variant, channels, planes, i > 0 && j == 0 ? 2 : 1));
        channels = variant.bottleneck ? 4 * planes : planes;
      }
      layers_[i] = register_module("layer" + std::to_string(i + 1), layer);
    }
    fc_ = register_module("fc", nn::Linear(channels, options.num_classes));
    for_each_layer<nn::Conv2d>(*this, [](nn::Conv2dImpl& conv) { init_kaiming_fan_out(conv); });
  }

  Tensor forward(const Tensor& input) {
    Tensor x = at::max_pool2d(at::relu(bn1_(conv1_(input))), {3, 3}, {2, 2}, {1, 1});
    for (Chain& layer : layers_) x = layer->forward(x);
    return fc_(global_average(x));
  }

 private:
  nn::Conv2d conv1_{nullptr};
  nn::BatchNorm2d bn1_{nullptr};
  std::array<Chain, 4> layers_{nullptr, nullptr, nullptr, nullptr};
  nn::Linear fc_{nullptr};
};

}  // namespace

void add_resnets(Registry<ModelFactory>& models) {
  for (const ResNetVariant& variant : kResNetVariants) {
    add_model(models, variant.name, variant.description,
              [variant](const ImagenetOptions& options) { return std::make_shared<Resnet>(variant, options); });
  }
}

}  // namespace qat::models
