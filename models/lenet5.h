// LeNet-5 in its modern form (conv 5x5 32, conv 5x5 64, fc 512, batch norm, no padding) for 28x28 images.
#pragma once

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include "models/model.h"

namespace qat::models {

/// conv1 bn1 relu pool conv2 bn2 relu pool fc1 relu fc2. x [N, in_channels, 28, 28].
class Lenet5 : public torch::nn::Module {
 public:
  explicit Lenet5(const ClassifierOptions& options);
  at::Tensor forward(at::Tensor x);

 private:
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr};
  torch::nn::Linear fc1_{nullptr}, fc2_{nullptr};
};

}  // namespace qat::models
