// The small networks of other quantization tools' examples, with their names and PyTorch's own initialisation. Those
// that end in a log softmax give logits here.
//
//   nni_mnist      microsoft/nni, examples/model_compress/models/mnist/naive.py (QAT, LSQ, DoReFa, observer examples)
//   nni_vgg        microsoft/nni, examples/model_compress/quantization/BNN_quantizer_cifar10.py, after Courbariaux et
//   al.,
//                  arXiv:1602.02830
//   lenet_pytorch  PyTorch's tutorial network: NNI's quick start (28x28, one channel), nnieqat's CIFAR-10 example
//   (32x32)
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/relu6.h>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

/// conv1 relu6 pool conv2 relu6 pool fc1 relu6 fc2. x [N, in_channels, 28, 28].
class NniMnist : public nn::Module {
 public:
  explicit NniMnist(const ClassifierOptions& options) {
    conv1_ = register_module("conv1", nn::Conv2d(nn::Conv2dOptions(options.in_channels, 20, 5)));
    conv2_ = register_module("conv2", nn::Conv2d(nn::Conv2dOptions(20, 50, 5)));
    fc1_ = register_module("fc1", nn::Linear(4 * 4 * 50, 500));
    fc2_ = register_module("fc2", nn::Linear(500, options.num_classes));
  }

  Tensor forward(Tensor x) {
    x = at::max_pool2d(at::relu6(conv1_(x)), {2, 2});
    x = at::max_pool2d(at::relu6(conv2_(x)), {2, 2});
    return fc2_(at::relu6(fc1_(x.flatten(1))));
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  nn::Linear fc1_{nullptr}, fc2_{nullptr};
};

/// conv1 relu pool conv2 relu pool fc1 relu fc2 relu fc3. x [N, in_channels, image_size, image_size].
class LenetPytorch : public nn::Module {
 public:
  explicit LenetPytorch(const SizedOptions& options) {
    const int64_t side = ((options.image_size - 4) / 2 - 4) / 2;
    conv1_ = register_module("conv1", nn::Conv2d(nn::Conv2dOptions(options.in_channels, 6, 5)));
    conv2_ = register_module("conv2", nn::Conv2d(nn::Conv2dOptions(6, 16, 5)));
    fc1_ = register_module("fc1", nn::Linear(16 * side * side, 120));
    fc2_ = register_module("fc2", nn::Linear(120, 84));
    fc3_ = register_module("fc3", nn::Linear(84, options.num_classes));
  }

  Tensor forward(Tensor x) {
    x = at::max_pool2d(at::relu(conv1_(x)), {2, 2});
    x = at::max_pool2d(at::relu(conv2_(x)), {2, 2});
    return fc3_(at::relu(fc2_(at::relu(fc1_(x.flatten(1))))));
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  nn::Linear fc1_{nullptr}, fc2_{nullptr}, fc3_{nullptr};
};

/// Six convolutions and three linear layers without bias but the last, with batch norm and hard tanh; every second
/// convolution has a max pool before its batch norm. x [N, in_channels, image_size, image_size].
std::shared_ptr<FeatureClassifier> nni_vgg(const SizedOptions& options) {
  constexpr int64_t kChannels[] = {128, 128, 256, 256, 512, 512};
  Chain features;
  int64_t channels = options.in_channels;
  bool pool = false;
  for (const int64_t out : kChannels) {
    features->push_back(same_conv({channels, out}));
    if (pool) features->push_back(max_pool_layer(2, 2));
    features->push_back(batch_norm(out, {1e-4, 0.1}));
    features->push_back(activation_layer(Activation::kHardtanh));
    channels = out;
    pool = !pool;
  }
  features->push_back(flatten_layer());
  const int64_t side = options.image_size / 8;
  Chain classifier;
  for (const int64_t in : {channels * side * side, int64_t{1024}}) {
    classifier->push_back(nn::Linear(nn::LinearOptions(in, 1024).bias(false)));
    classifier->push_back(nn::BatchNorm1d(1024));
    classifier->push_back(activation_layer(Activation::kHardtanh));
  }
  classifier->push_back(nn::Linear(1024, options.num_classes));
  classifier->push_back(nn::BatchNorm1d(nn::BatchNorm1dOptions(options.num_classes).affine(false)));
  return std::make_shared<FeatureClassifier>(features, 0, classifier);
}

}  // namespace

void add_examples(Registry<ModelFactory>& models) {
  add_sized_model(models, "lenet_pytorch", "LeNet of PyTorch's tutorial, images of image_size", 16,
                  [](const auto& options) { return std::make_shared<LenetPytorch>(options); });
  add_model<ClassifierOptions>(
      models, "nni_mnist", "NNI's MNIST examples, 28x28 images",
      [](const auto& options) { return std::make_shared<NniMnist>(options); }, 28);
  add_sized_model(models, "nni_vgg", "NNI's VGG for binary CIFAR-10, images of image_size", 8, nni_vgg);
}

}  // namespace qat::models
