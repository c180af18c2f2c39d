// Vision Transformer (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929), norms before attention and MLP.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/normalization.h>

#include <cmath>

#include "core/base/error.h"
#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {

struct VitOptions {
  int64_t num_classes = 1000;
  int64_t in_channels = 3;
  int64_t image_size = 224;  // H = W; fixed, for there is an embedding for every patch
};

}  // namespace qat::models

template <>
struct qat::config::Schema<qat::models::VitOptions> {
  static void describe(Fields<qat::models::VitOptions>& f) { qat::models::describe_sized_classifier(f); }
};

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct VitVariant {
  const char* name;
  const char* description;
  int64_t patch, layers, heads, width, hidden;
};

constexpr VitVariant kVitVariants[] = {
    {"vit_b_16", "ViT-B/16, ImageNet, images of image_size", 16, 12, 12, 768, 3072},
    {"vit_b_32", "ViT-B/32, ImageNet, images of image_size", 32, 12, 12, 768, 3072},
    {"vit_l_16", "ViT-L/16, ImageNet, images of image_size", 16, 24, 16, 1024, 4096}};

nn::LayerNorm layer_norm(int64_t width) { return nn::LayerNorm(nn::LayerNormOptions({width}).eps(1e-6)); }

/// softmax(q k^T / sqrt(d)) v for every head, one projection for q, k and v. x [N, L, width].
class SelfAttention : public nn::Module {
 public:
  SelfAttention(int64_t width, int64_t heads) : heads_(heads), head_width_(width / heads) {
    weight_ = register_parameter("in_proj_weight", at::empty({3 * width, width}));
    bias_ = register_parameter("in_proj_bias", at::zeros({3 * width}));
    out_proj_ = register_module("out_proj", nn::Linear(width, width));
    nn::init::xavier_uniform_(weight_);
    init_zero_bias(out_proj_->bias);
  }

  Tensor forward(const Tensor& x) {
    const int64_t n = x.size(0), length = x.size(1);
    const Tensor qkv = at::linear(x, weight_, bias_).view({n, length, 3, heads_, head_width_}).permute({2, 0, 3, 1, 4});
    const Tensor query = qkv.select(0, 0) * (1.0 / std::sqrt(static_cast<double>(head_width_)));
    const Tensor weights = at::softmax(at::matmul(query, qkv.select(0, 1).transpose(-2, -1)), -1);
    const Tensor mixed = at::matmul(weights, qkv.select(0, 2));  // [N, heads, L, head_width]
    return out_proj_(mixed.transpose(1, 2).reshape({n, length, heads_ * head_width_}));
  }

 private:
  int64_t heads_, head_width_;
  Tensor weight_, bias_;
  nn::Linear out_proj_{nullptr};
};

class EncoderLayer : public nn::Module {
 public:
  explicit EncoderLayer(const VitVariant& variant) {
    ln_1_ = register_module("ln_1", layer_norm(variant.width));
    self_attention_ = register_module("self_attention", std::make_shared<SelfAttention>(variant.width, variant.heads));
    dropout_ = register_module("dropout", nn::Dropout(0.0));
    ln_2_ = register_module("ln_2", layer_norm(variant.width));
    nn::Linear first(variant.width, variant.hidden), second(variant.hidden, variant.width);
    for (nn::Linear* linear : {&first, &second}) {
      nn::init::xavier_uniform_((*linear)->weight);
      nn::init::normal_((*linear)->bias, 0.0, 1e-6);
    }
    mlp_ = register_module(
        "mlp", Chain(first, activation_layer(Activation::kGelu), nn::Dropout(0.0), second, nn::Dropout(0.0)));
  }

  Tensor forward(const Tensor& x) {
    const Tensor y = dropout_(self_attention_->forward(ln_1_(x))) + x;
    return y + mlp_->forward(ln_2_(y));
  }

 private:
  nn::LayerNorm ln_1_{nullptr}, ln_2_{nullptr};
  std::shared_ptr<SelfAttention> self_attention_;
  nn::Dropout dropout_{nullptr};
  Chain mlp_{nullptr};
};

class Encoder : public nn::Module {
 public:
  Encoder(const VitVariant& variant, int64_t length) {
    pos_embedding_ = register_parameter("pos_embedding", at::empty({1, length, variant.width}));
    nn::init::normal_(pos_embedding_, 0.0, 0.02);
    for (int64_t i = 0; i < variant.layers; ++i) {
      layers_->push_back("encoder_layer_" + std::to_string(i), EncoderLayer(variant));
    }
    register_module("layers", layers_);
    ln_ = register_module("ln", layer_norm(variant.width));
  }

  Tensor forward(const Tensor& x) { return ln_(layers_->forward(x + pos_embedding_)); }

 private:
  Tensor pos_embedding_;
  Chain layers_;
  nn::LayerNorm ln_{nullptr};
};

class Vit : public nn::Module {
 public:
  Vit(const VitVariant& variant, const VitOptions& options) : image_size_(options.image_size) {
    const int64_t side = options.image_size / variant.patch;
    class_token_ = register_parameter("class_token", at::zeros({1, 1, variant.width}));
    conv_proj_ = register_module(
        "conv_proj",
        nn::Conv2d(nn::Conv2dOptions(options.in_channels, variant.width, variant.patch).stride(variant.patch)));
    encoder_ = register_module("encoder", std::make_shared<Encoder>(variant, side * side + 1));
    heads_->push_back("head", nn::Linear(variant.width, options.num_classes));
    register_module("heads", heads_);
    const double fan_in = static_cast<double>(options.in_channels * variant.patch * variant.patch);
    init_truncated_normal(conv_proj_->weight, std::sqrt(1.0 / fan_in));
    init_zero_bias(conv_proj_->bias);
    for_each_layer<nn::Linear>(*heads_, [](nn::LinearImpl& head) {
      nn::init::zeros_(head.weight);
      init_zero_bias(head.bias);
    });
  }

  Tensor forward(const Tensor& x) {
    QAT_CHECK(x.dim() == 4 && x.size(2) == image_size_ && x.size(3) == image_size_,
              "this vision transformer takes images of {0}x{0} (model.image_size), not a tensor of sizes {1}",
              image_size_, fmt::join(x.sizes(), "x"));
    const Tensor patches = conv_proj_(x).flatten(2).permute({0, 2, 1});  // [N, L - 1, width]
    const Tensor tokens = at::cat({class_token_.expand({x.size(0), -1, -1}), patches}, 1);
    return heads_->forward(encoder_->forward(tokens).select(1, 0));
  }

 private:
  int64_t image_size_;
  Tensor class_token_;
  nn::Conv2d conv_proj_{nullptr};
  std::shared_ptr<Encoder> encoder_;
  Chain heads_;
};

}  // namespace

void add_vits(Registry<ModelFactory>& models) {
  for (const VitVariant& variant : kVitVariants) {
    models.add(variant.name, variant.description, [variant](const config::Node& node) {
      const auto options = config::parse<VitOptions>(node);
      if (options.image_size % variant.patch != 0) {
        throw node.error(fmt::format("image_size {} is not a multiple of {}'s patches of {}", options.image_size,
                                     variant.name, variant.patch));
      }
      return wrap(std::make_shared<Vit>(variant, options), options.image_size);
    });
  }
}

}  // namespace qat::models
