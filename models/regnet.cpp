// RegNetX and RegNetY (Radosavovic et al., CVPR 2020, arXiv:2003.13678): widths from a quantised linear function.
#include <ATen/ops/relu.h>
#include <torch/nn/init.h>

#include <cmath>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

/// The paper's d, w_0, w_a, w_m and g. RegNetY has squeeze-excite with a quarter of the block's input channels.
struct RegNetVariant {
  const char* name;
  const char* description;
  int64_t depth, first_width;
  double slope, factor;
  int64_t group_width;
  bool squeeze_excite;
};

constexpr RegNetVariant kRegNetVariants[] = {
    {"regnet_x_400mf", "RegNetX, 0.4 GFLOP, ImageNet", 22, 24, 24.48, 2.54, 16, false},
    {"regnet_x_800mf", "RegNetX, 0.8 GFLOP, ImageNet", 16, 56, 35.73, 2.28, 16, false},
    {"regnet_x_1_6gf", "RegNetX, 1.6 GFLOP, ImageNet", 18, 80, 34.01, 2.25, 24, false},
    {"regnet_x_3_2gf", "RegNetX, 3.2 GFLOP, ImageNet", 25, 88, 26.31, 2.25, 48, false},
    {"regnet_x_8gf", "RegNetX, 8 GFLOP, ImageNet", 23, 80, 49.56, 2.88, 120, false},
    {"regnet_x_16gf", "RegNetX, 16 GFLOP, ImageNet", 22, 216, 55.59, 2.1, 128, false},
    {"regnet_x_32gf", "RegNetX, 32 GFLOP, ImageNet", 23, 320, 69.86, 2.0, 168, false},
    {"regnet_y_400mf", "RegNetY, 0.4 GFLOP, ImageNet", 16, 48, 27.89, 2.09, 8, true},
    {"regnet_y_800mf", "RegNetY, 0.8 GFLOP, ImageNet", 14, 56, 38.84, 2.4, 16, true},
    {"regnet_y_1_6gf", "RegNetY, 1.6 GFLOP, ImageNet", 27, 48, 20.71, 2.65, 24, true},
    {"regnet_y_3_2gf", "RegNetY, 3.2 GFLOP, ImageNet", 21, 80, 42.63, 2.66, 24, true},
    {"regnet_y_8gf", "RegNetY, 8 GFLOP, ImageNet", 17, 192, 76.82, 2.19, 56, true},
    {"regnet_y_16gf", "RegNetY, 16 GFLOP, ImageNet", 18, 200, 106.23, 2.48, 112, true},
    {"regnet_y_32gf", "RegNetY, 32 GFLOP, ImageNet", 20, 232, 115.89, 2.53, 232, true}};

struct RegNetStage {
  int64_t width, blocks, group_width;
};

/// Equations 2 to 4 of the paper: u_j = w_0 + w_a j, rounded to a power of w_m times w_0 and then to a multiple of 8;
/// blocks of equal width are a stage, whose width becomes a multiple of the group width. Halves round to even.
std::vector<RegNetStage> stages_of(const RegNetVariant& variant) {
  const double first = static_cast<double>(variant.first_width);
  std::vector<RegNetStage> stages;
  for (int64_t j = 0; j < variant.depth; ++j) {
    const double width = first + variant.slope * static_cast<double>(j);
    const double power = std::nearbyint(std::log(width / first) / std::log(variant.factor));
    const auto rounded = static_cast<int64_t>(std::nearbyint(first * std::pow(variant.factor, power) / 8.0)) * 8;
    if (stages.empty() || stages.back().width != rounded) stages.push_back({rounded, 0, 0});
    ++stages.back().blocks;
  }
  for (RegNetStage& stage : stages) {
    stage.group_width = std::min(variant.group_width, stage.width);
    stage.width = make_divisible(static_cast<double>(stage.width), stage.group_width);
  }
  return stages;
}

/// relu(shortcut(x) + c(se(b(a(x))))): 1x1, grouped 3x3, squeeze-excite, 1x1.
class RegNetBlock : public nn::Module {
 public:
  RegNetBlock(int64_t in, int64_t out, int64_t stride, int64_t group_width, bool squeeze_excite) {
    if (in != out || stride != 1) {
      shortcut_ = register_module("proj", conv_bn({in, out, 1, stride}, Activation::kNone));
    }
    Chain layers;
    layers->push_back("a", conv_bn({in, out, 1}, Activation::kRelu));
    layers->push_back("b", conv_bn({out, out, 3, stride, out / group_width}, Activation::kRelu));
    if (squeeze_excite) {
      const auto squeezed = static_cast<int64_t>(std::nearbyint(0.25 * static_cast<double>(in)));
      layers->push_back("se", SqueezeExcite(out, squeezed, Activation::kRelu, Activation::kSigmoid));
    }
    layers->push_back("c", conv_bn({out, out, 1}, Activation::kNone));
    layers_ = register_module("f", layers);
  }

  Tensor forward(const Tensor& x) {
    const Tensor shortcut = shortcut_.is_empty() ? x : shortcut_->forward(x);
    return at::relu(shortcut + layers_->forward(x));
  }

 private:
  Chain shortcut_{nullptr}, layers_{nullptr};
};

class Regnet : public nn::Module {
 public:
  Regnet(const RegNetVariant& variant, const ImagenetOptions& options) {
    int64_t channels = 32;
    stem_ = register_module("stem", conv_bn({options.in_channels, channels, 3, 2}, Activation::kRelu));
    const std::vector<RegNetStage> stages = stages_of(variant);
    for (size_t i = 0; i < stages.size(); ++i) {
      const std::string name = "block" + std::to_string(i + 1);
      Chain blocks;
      for (int64_t j = 0; j < stages[i].blocks; ++j) {
        blocks->push_back(name + "-" + std::to_string(j), RegNetBlock(channels, stages[i].width, j == 0 ? 2 : 1,
                                                                      stages[i].group_width, variant.squeeze_excite));
        channels = stages[i].width;
      }
      trunk_->push_back(std::string(name), blocks);
    }
    register_module("trunk_output", trunk_);
    fc_ = register_module("fc", nn::Linear(channels, options.num_classes));
    for_each_layer<nn::Conv2d>(*this, [](nn::Conv2dImpl& conv) {
      // Biases (of the squeeze-excites) keep LibTorch's start.
      const double fan_out = static_cast<double>(conv.weight.size(0) * conv.weight.size(2) * conv.weight.size(3));
      nn::init::normal_(conv.weight, 0.0, std::sqrt(2.0 / fan_out));
    });
    init_normal(*fc_, 0.01);
  }

  Tensor forward(const Tensor& x) { return fc_(global_average(trunk_->forward(stem_->forward(x)))); }

 private:
  Chain stem_{nullptr}, trunk_;
  nn::Linear fc_{nullptr};
};

}  // namespace

void add_regnets(Registry<ModelFactory>& models) {
  for (const RegNetVariant& variant : kRegNetVariants) {
    add_model(models, variant.name, variant.description,
              [variant](const ImagenetOptions& options) { return std::make_shared<Regnet>(variant, options); });
  }
}

}  // namespace qat::models
