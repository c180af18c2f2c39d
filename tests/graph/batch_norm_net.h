// The network and the cases of batch_norm_test.cpp.
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/modules/linear.h>

#include <memory>
#include <string>
#include <vector>

#include "core/autograd/functions.h"

namespace qat::test {

using at::Tensor;

struct Case {
  std::string mode, type, granularity;  // of batch norm, of the layers, of their weights
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.mode << " " << c.type << " " << c.granularity; }

inline std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* type : {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
                           "depthwise", "linear"}) {
    for (const char* mode : {"live", "batch_corrected", "ema", "folded", "none"}) {
      all.push_back({mode, type, "channel"});
    }
    all.push_back({"live", type, "tensor"});
    all.push_back({"ema", type, "tensor"});
  }
  return all;
}

constexpr int64_t kIn = 4, kChannels = 8, kBatch = 6;

/// layer-bn-relu, grouped layer-bn, in-place residual add, relu, layer-bn, mean over space, linear.
class Net : public torch::nn::Module {
 public:
  explicit Net(std::string type) : type_(std::move(type)) {
    for (int i = 0; i < 3; ++i) {
      const std::string name = std::to_string(i);
      auto layer = register_module("layer" + name, std::make_shared<torch::nn::Module>());
      auto norm = register_module("bn" + name, std::make_shared<torch::nn::Module>());
      const int64_t in = i == 0 ? kIn : kChannels;
      std::vector<int64_t> sizes{kChannels, in / groups(i)};
      if (transposed()) sizes = {in, kChannels / groups(i)};
      sizes.insert(sizes.end(), static_cast<size_t>(spatial()), 3);
      layers_[i] = {layer->register_parameter("weight", at::randn(sizes) * 0.3),
                    i == 1 ? Tensor() : at::randn({kChannels})};
      if (layers_[i].bias.defined()) layer->register_parameter("bias", layers_[i].bias);
      Tensor gamma = at::randn({kChannels});
      const std::vector<float> odd{-0.8f, 0.0f, 1e-20f, -1e-12f, 1e-6f};
      for (size_t c = 0; c < odd.size() && i < 2; ++c) gamma[static_cast<int64_t>(c)] = odd[c];
      norms_[i] = {.gamma = norm->register_parameter("weight", gamma),
                   .beta = norm->register_parameter("bias", at::randn({kChannels}) * 0.5 + 0.3),
                   .running_mean = norm->register_buffer("running_mean", at::randn({kChannels}) * 0.2),
                   .running_var = norm->register_buffer("running_var", at::rand({kChannels}) + 0.5)};
    }
    head_ = register_module("head", torch::nn::Linear(kChannels, 5));
  }

  Tensor forward(const Tensor& x) {
    const Tensor y = at::relu(norm(layer(x, 0), 0));
    Tensor z = norm(layer(y, 1), 1);
    z += y;
    z = norm(layer(z.relu_(), 2), 2);
    if (spatial() == 2) z = z.mean({2, 3});
    if (spatial() == 1 || spatial() == 3) z = z.flatten(2).mean(2);
    return head_(z);
  }

  int64_t spatial() const {
    if (type_ == "linear") return 0;
    return type_.find("1d") != std::string::npos ? 1 : type_.find("3d") != std::string::npos ? 3 : 2;
  }
  std::vector<int64_t> input() const {
    const std::vector<std::vector<int64_t>> sizes{{kIn}, {kIn, 9}, {kIn, 6, 5}, {kIn, 4, 3, 3}};
    return sizes[static_cast<size_t>(spatial())];
  }

 private:
  bool transposed() const { return type_.find("transpose") != std::string::npos; }
  int64_t groups(int i) const { return i != 1 || type_ == "linear" ? 1 : type_ == "depthwise" ? kChannels : 2; }

  Tensor norm(const Tensor& x, int i) {
    const autograd::BatchNorm& n = norms_[i];
    return at::batch_norm(x, n.gamma, n.beta, n.running_mean, n.running_var, is_training(), 0.1, 1e-5, false);
  }

  Tensor layer(const Tensor& x, int i) {
    const auto& [w, b] = layers_[i];
    const int64_t g = groups(i);
    if (type_ == "linear") return at::linear(x, w, b);
    if (type_ == "conv1d") return at::conv1d(x, w, b, {1}, at::IntArrayRef{1}, {1}, g);
    if (type_ == "conv3d") return at::conv3d(x, w, b, {1, 1, 1}, at::IntArrayRef{1, 1, 1}, {1, 1, 1}, g);
    if (type_ == "conv_transpose1d") return at::conv_transpose1d(x, w, b, {1}, {1}, {0}, g);
    if (type_ == "conv_transpose2d") return at::conv_transpose2d(x, w, b, {1, 1}, {1, 1}, {0, 0}, g);
    if (type_ == "conv_transpose3d") return at::conv_transpose3d(x, w, b, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, g);
    return at::conv2d(x, w, b, {1, 1}, at::IntArrayRef{1, 1}, {1, 1}, g);
  }

  struct Layer {
    Tensor weight, bias;
  };
  std::string type_;
  Layer layers_[3];
  autograd::BatchNorm norms_[3];
  torch::nn::Linear head_{nullptr};
};

}  // namespace qat::test
