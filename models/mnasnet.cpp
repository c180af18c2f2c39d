// MnasNet-B1 (Tan et al., CVPR 2019, arXiv:1807.11626) at four widths.
#include <torch/nn/init.h>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct MnasnetVariant {
  const char* name;
  const char* description;
  double width;
};

constexpr MnasnetVariant kMnasnetVariants[] = {{"mnasnet0_5", "MnasNet, width 0.5, ImageNet", 0.5},
                                               {"mnasnet0_75", "MnasNet, width 0.75, ImageNet", 0.75},
                                               {"mnasnet1_0", "MnasNet, width 1.0, ImageNet", 1.0},
                                               {"mnasnet1_3", "MnasNet, width 1.3, ImageNet", 1.3}};

constexpr BatchNormOptions kNorm{1e-5, 1.0 - 0.9997};

/// Appends the layers of conv_bn without a Chain of their own.
void append(Chain& layers, const ConvSpec& spec, bool relu) {
  layers->push_back(same_conv(spec));
  layers->push_back(batch_norm(spec.out, kNorm));
  if (relu) layers->push_back(activation_layer(Activation::kRelu));
}

class InvertedResidual : public nn::Module {
 public:
  InvertedResidual(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t expansion)
      : residual_(in == out && stride == 1) {
    const int64_t hidden = in * expansion;
    append(layers_, {in, hidden, 1}, true);
    append(layers_, {hidden, hidden, kernel, stride, hidden}, true);
    append(layers_, {hidden, out, 1}, false);
    register_module("layers", layers_);
  }

  Tensor forward(const Tensor& x) {
    Tensor out = layers_->forward(x);
    if (residual_) out += x;
    return out;
  }

 private:
  Chain layers_;
  bool residual_;
};

class Mnasnet : public nn::Module {
 public:
  Mnasnet(const MnasnetVariant& variant, const ImagenetOptions& options) {
    struct Stack {
      int64_t channels, kernel, stride, expansion, blocks;
    };
    constexpr Stack kStacks[] = {{24, 3, 2, 3, 3}, {40, 5, 2, 3, 3},  {80, 5, 2, 6, 3},
                                 {96, 3, 1, 6, 2}, {192, 5, 2, 6, 4}, {320, 3, 1, 6, 1}};
    const auto scaled = [&](int64_t channels) {
      return make_divisible(static_cast<double>(channels) * variant.width, 8);
    };
    const int64_t first = scaled(32);
    int64_t channels = scaled(16);
    append(layers_, {options.in_channels, first, 3, 2}, true);
    append(layers_, {first, first, 3, 1, first}, true);
    append(layers_, {first, channels, 1}, false);
    for (const Stack& stack : kStacks) {
      const int64_t out = scaled(stack.channels);
      Chain blocks;
      for (int64_t i = 0; i < stack.blocks; ++i) {
        blocks->push_back(InvertedResidual(channels, out, stack.kernel, i == 0 ? stack.stride : 1, stack.expansion));
        channels = out;
      }
      layers_->push_back(blocks);
    }
    append(layers_, {channels, 1280, 1}, true);
    register_module("layers", layers_);
    classifier_ = register_module("classifier", Chain(nn::Dropout(0.2), nn::Linear(1280, options.num_classes)));
    for_each_layer<nn::Conv2d>(*this, [](nn::Conv2dImpl& conv) { init_kaiming_fan_out(conv); });
    for_each_layer<nn::Linear>(*this, [](nn::LinearImpl& linear) {
      nn::init::kaiming_uniform_(linear.weight, 0.0, torch::kFanOut, torch::kSigmoid);
      init_zero_bias(linear.bias);
    });
  }

  Tensor forward(const Tensor& x) { return classifier_->forward(layers_->forward(x).mean({2, 3})); }

 private:
  Chain layers_, classifier_{nullptr};
};

}  // namespace

void add_mnasnets(Registry<ModelFactory>& models) {
  for (const MnasnetVariant& variant : kMnasnetVariants) {
    add_model(models, variant.name, variant.description,
              [variant](const ImagenetOptions& options) { return std::make_shared<Mnasnet>(variant, options); });
  }
}

}  // namespace qat::models
