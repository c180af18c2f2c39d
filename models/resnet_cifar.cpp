#include "models/resnet_cifar.h"

#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/relu.h>
#include <torch/nn/init.h>

namespace qat::models {
namespace {

namespace nn = torch::nn;

nn::Conv2d conv(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  return nn::Conv2d(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

class BasicBlock : public nn::Module {
 public:
  BasicBlock(int64_t in, int64_t out, int64_t stride) {
    conv1_ = register_module("conv1", conv(in, out, 3, stride));
    bn1_ = register_module("bn1", nn::BatchNorm2d(out));
    conv2_ = register_module("conv2", conv(out, out, 3, 1));
    bn2_ = register_module("bn2", nn::BatchNorm2d(out));
    if (stride != 1 || in != out) {
      downsample_ = register_module("downsample", nn::Sequential(conv(in, out, 1, stride), nn::BatchNorm2d(out)));
    }
  }

  at::Tensor forward(const at::Tensor& x) {
    at::Tensor out = at::relu(bn1_(conv1_(x)));
    out = bn2_(conv2_(out));
    out += downsample_.is_empty() ? x : downsample_->forward(x);
    return at::relu(out);
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr};
  nn::Sequential downsample_{nullptr};
};

nn::Sequential stage(int64_t blocks, int64_t in, int64_t out, int64_t stride) {
  nn::Sequential layers;
  for (int64_t i = 0; i < blocks; ++i) layers->push_back(BasicBlock(i == 0 ? in : out, out, i == 0 ? stride : 1));
  return layers;
}

}  // namespace

ResnetCifar::ResnetCifar(int64_t blocks, const ResnetCifarOptions& options) {
  const int64_t w = options.width;
  conv1_ = register_module("conv1", conv(options.in_channels, w, 3, 1));
  bn1_ = register_module("bn1", nn::BatchNorm2d(w));
  layer1_ = register_module("layer1", stage(blocks, w, w, 1));
  layer2_ = register_module("layer2", stage(blocks, w, 2 * w, 2));
  layer3_ = register_module("layer3", stage(blocks, 2 * w, 4 * w, 2));
  fc_ = register_module("fc", nn::Linear(4 * w, options.num_classes));
  for (auto& item : modules(false)) {
    if (auto* layer = item->as<nn::Conv2d>()) {
      nn::init::kaiming_normal_(layer->weight, 0.0, torch::kFanOut, torch::kReLU);
    }
  }
}

at::Tensor ResnetCifar::forward(at::Tensor x) {
  x = at::relu(bn1_(conv1_(x)));
  x = layer3_->forward(layer2_->forward(layer1_->forward(x)));
  return fc_(at::adaptive_avg_pool2d(x, {1, 1}).flatten(1));
}

}  // namespace qat::models
