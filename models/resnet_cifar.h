// ResNet for small images (He et al., CVPR 2016, arXiv:1512.03385, section 4.2): 6n + 2 layers.
//
// Names follow torchvision's resnets: conv1, bn1, layer1..3.<i>.{conv1,bn1,conv2,bn2,downsample.0,downsample.1}, fc.
// Where the shape changes the shortcut is a 1x1 convolution with batch norm (the paper's option B).
#pragma once

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include "models/model.h"

namespace qat::models {

struct ResnetCifarOptions {
  int64_t num_classes = 10;
  int64_t in_channels = 3;
  int64_t width = 16;  // channels of the first stage; the others have twice and four times as many
};

/// x [N, in_channels, H, W] with H, W >= 4, 32x32 in the paper.
class ResnetCifar : public torch::nn::Module {
 public:
  /// blocks: residual blocks a stage, n in depth = 6n + 2.
  ResnetCifar(int64_t blocks, const ResnetCifarOptions& options);
  at::Tensor forward(at::Tensor x);

 private:
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  torch::nn::Sequential layer1_{nullptr}, layer2_{nullptr}, layer3_{nullptr};
  torch::nn::Linear fc_{nullptr};
};

}  // namespace qat::models

template <>
struct qat::config::Schema<qat::models::ResnetCifarOptions> {
  static void describe(Fields<qat::models::ResnetCifarOptions>& f) {
    using Options = qat::models::ResnetCifarOptions;
    qat::models::describe_classifier(f);
    f.field("width", &Options::width).doc("channels of the first stage").minimum(1).maximum(4096);
  }
};
