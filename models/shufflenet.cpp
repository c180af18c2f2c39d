// ShuffleNetV2 (Ma et al., ECCV 2018, arXiv:1807.11164) at four widths.
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>

#include <array>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct ShuffleNetVariant {
  const char* name;
  const char* description;
  std::array<int64_t, 3> channels;  // of stage2..4
  int64_t last;
};

constexpr ShuffleNetVariant kShuffleNetVariants[] = {
    {"shufflenet_v2_x0_5", "ShuffleNetV2, width 0.5, ImageNet", {48, 96, 192}, 1024},
    {"shufflenet_v2_x1_0", "ShuffleNetV2, width 1.0, ImageNet", {116, 232, 464}, 1024},
    {"shufflenet_v2_x1_5", "ShuffleNetV2, width 1.5, ImageNet", {176, 352, 704}, 1024},
    {"shufflenet_v2_x2_0", "ShuffleNetV2, width 2.0, ImageNet", {244, 488, 976}, 2048}};

/// Stride 1: the second half of the channels goes through branch2. Stride 2: all go through both branches.
class Unit : public nn::Module {
 public:
  Unit(int64_t in, int64_t out, int64_t stride) : half_(out / 2), split_(stride == 1) {
    Chain branch1, branch2;
    const auto add = [](Chain& branch, const ConvSpec& spec, bool relu) {
      branch->push_back(same_conv(spec));
      branch->push_back(batch_norm(spec.out));
      if (relu) branch->push_back(activation_layer(Activation::kRelu));
    };
    if (!split_) {
      add(branch1, {in, in, 3, stride, in}, false);
      add(branch1, {in, half_, 1}, true);
    }
    add(branch2, {split_ ? half_ : in, half_, 1}, true);
    add(branch2, {half_, half_, 3, stride, half_}, false);
    add(branch2, {half_, half_, 1}, true);
    branch1_ = register_module("branch1", branch1);
    branch2_ = register_module("branch2", branch2);
  }

  Tensor forward(const Tensor& x) {
    if (split_) {
      return shuffle_channels(at::cat({x.narrow(1, 0, half_), branch2_->forward(x.narrow(1, half_, half_))}, 1), 2);
    }
    return shuffle_channels(at::cat({branch1_->forward(x), branch2_->forward(x)}, 1), 2);
  }

 private:
  int64_t half_;
  bool split_;
  Chain branch1_{nullptr}, branch2_{nullptr};
};

class ShufflenetV2 : public nn::Module {
 public:
  ShufflenetV2(const ShuffleNetVariant& variant, const ImagenetOptions& options) {
    constexpr std::array<int64_t, 3> kUnits{4, 8, 4};
    int64_t channels = 24;
    conv1_ = register_module("conv1", conv_bn({options.in_channels, channels, 3, 2}, Activation::kRelu));
    for (size_t i = 0; i < stages_.size(); ++i) {
      Chain stage;
      for (int64_t j = 0; j < kUnits[i]; ++j) {
        stage->push_back(Unit(channels, variant.channels[i], j == 0 ? 2 : 1));
        channels = variant.channels[i];
      }
      stages_[i] = register_module("stage" + std::to_string(i + 2), stage);
    }
    conv5_ = register_module("conv5", conv_bn({channels, variant.last, 1}, Activation::kRelu));
    fc_ = register_module("fc", nn::Linear(variant.last, options.num_classes));
  }

  Tensor forward(const Tensor& input) {
    Tensor x = at::max_pool2d(conv1_->forward(input), {3, 3}, {2, 2}, {1, 1});
    for (Chain& stage : stages_) x = stage->forward(x);
    return fc_(conv5_->forward(x).mean({2, 3}));
  }

 private:
  Chain conv1_{nullptr}, conv5_{nullptr};
  std::array<Chain, 3> stages_{nullptr, nullptr, nullptr};
  nn::Linear fc_{nullptr};
};

}  // namespace

void add_shufflenets(Registry<ModelFactory>& models) {
  for (const ShuffleNetVariant& variant : kShuffleNetVariants) {
    add_model(models, variant.name, variant.description,
              [variant](const ImagenetOptions& options) { return std::make_shared<ShufflenetV2>(variant, options); });
  }
}

}  // namespace qat::models
