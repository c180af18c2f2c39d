#include "models/lenet5.h"

#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

namespace qat::models {

namespace nn = torch::nn;

Lenet5::Lenet5(const ClassifierOptions& options) {
  conv1_ = register_module("conv1", nn::Conv2d(nn::Conv2dOptions(options.in_channels, 32, 5)));
  bn1_ = register_module("bn1", nn::BatchNorm2d(32));
  conv2_ = register_module("conv2", nn::Conv2d(nn::Conv2dOptions(32, 64, 5)));
  bn2_ = register_module("bn2", nn::BatchNorm2d(64));
  fc1_ = register_module("fc1", nn::Linear(1024, 512));
  fc2_ = register_module("fc2", nn::Linear(512, options.num_classes));
}

at::Tensor Lenet5::forward(at::Tensor x) {
  x = at::max_pool2d(at::relu(bn1_(conv1_(x))), {2, 2});
  x = at::max_pool2d(at::relu(bn2_(conv2_(x))), {2, 2});
  x = at::relu(fc1_(x.flatten(1)));
  return fc2_(x);
}

}  // namespace qat::models
