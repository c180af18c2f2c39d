// VGG (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556) and AlexNet in its one-column form (Krizhevsky,
// arXiv:1404.5997): convolutions and pools, then three linear layers with dropout. VGG-small is the network of the
// low-bit literature for CIFAR-10 (Cai et al., CVPR 2017, arXiv:1702.00953; Zhang et al., ECCV 2018, arXiv:1807.10029):
// six convolutions with batch norm and one linear layer, with the names and the initialisation of htqin/IR-Net,
// models/vgg.py.
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

#include <array>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;

constexpr int64_t kPool = 0;

struct VggVariant {
  const char* name;
  const char* description;
  std::vector<int64_t> layers;  // output channels of a 3x3 convolution, or kPool
};

const std::vector<VggVariant>& vgg_variants() {
  static const std::vector<VggVariant> table = {
      {"vgg11", "VGG-11", {64, kPool, 128, kPool, 256, 256, kPool, 512, 512, kPool, 512, 512, kPool}},
      {"vgg13", "VGG-13", {64, 64, kPool, 128, 128, kPool, 256, 256, kPool, 512, 512, kPool, 512, 512, kPool}},
      {"vgg16",
       "VGG-16",
       {64, 64, kPool, 128, 128, kPool, 256, 256, 256, kPool, 512, 512, 512, kPool, 512, 512, 512, kPool}},
      {"vgg19", "VGG-19", {64,  64,  kPool, 128, 128,   kPool, 256, 256, 256, 256,  kPool,
                           512, 512, 512,   512, kPool, 512,   512, 512, 512, kPool}},
  };
  return table;
}

Chain vgg_features(const VggVariant& variant, int64_t channels, bool batch_normalized) {
  Chain features;
  for (const int64_t out : variant.layers) {
    if (out == kPool) {
      features->push_back(max_pool_layer(2, 2));
      continue;
    }
    features->push_back(nn::Conv2d(nn::Conv2dOptions(channels, out, 3).padding(1)));
    if (batch_normalized) features->push_back(batch_norm(out));
    features->push_back(activation_layer(Activation::kRelu));
    channels = out;
  }
  return features;
}

std::shared_ptr<FeatureClassifier> vgg(const VggVariant& variant, bool batch_normalized,
                                       const ImagenetOptions& options) {
  Chain classifier(nn::Linear(512 * 7 * 7, 4096), activation_layer(Activation::kRelu), nn::Dropout(0.5),
                   nn::Linear(4096, 4096), activation_layer(Activation::kRelu), nn::Dropout(0.5),
                   nn::Linear(4096, options.num_classes));
  auto net =
      std::make_shared<FeatureClassifier>(vgg_features(variant, options.in_channels, batch_normalized), 7, classifier);
  init_kaiming_fan_out_and_normal(*net, 0.01);
  return net;
}

std::shared_ptr<FeatureClassifier> alexnet(const ImagenetOptions& options) {
  const auto conv = [](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
    return nn::Conv2d(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(padding));
  };
  const auto relu = [] { return activation_layer(Activation::kRelu); };
  Chain features(conv(options.in_channels, 64, 11, 4, 2), relu(), max_pool_layer(3, 2),  //
                 conv(64, 192, 5, 1, 2), relu(), max_pool_layer(3, 2),                   //
                 conv(192, 384, 3, 1, 1), relu(), conv(384, 256, 3, 1, 1), relu(),       //
                 conv(256, 256, 3, 1, 1), relu(), max_pool_layer(3, 2));
  Chain classifier(nn::Dropout(0.5), nn::Linear(256 * 6 * 6, 4096), relu(), nn::Dropout(0.5), nn::Linear(4096, 4096),
                   relu(), nn::Linear(4096, options.num_classes));
  return std::make_shared<FeatureClassifier>(features, 6, classifier);
}

/// conv0 bn0 relu, conv1 bn1 relu pool, and so on. x [N, in_channels, image_size, image_size].
class VggSmall : public nn::Module {
 public:
  explicit VggSmall(const SizedOptions& options) {
    constexpr std::array<int64_t, 6> kChannels{128, 128, 256, 256, 512, 512};
    int64_t channels = options.in_channels;
    for (size_t i = 0; i < kChannels.size(); ++i) {
      convs_[i] = register_module("conv" + std::to_string(i), same_conv({channels, kChannels[i]}));
      norms_[i] = register_module("bn" + std::to_string(i), batch_norm(kChannels[i]));
      channels = kChannels[i];
    }
    const int64_t side = options.image_size / 8;
    fc_ = register_module("fc", nn::Linear(channels * side * side, options.num_classes));
    init_kaiming_fan_out_and_normal(*this, 0.01);
  }

  at::Tensor forward(at::Tensor x) {
    for (size_t i = 0; i < convs_.size(); ++i) {
      x = at::relu(norms_[i](convs_[i](x)));
      if (i % 2 == 1) x = at::max_pool2d(x, {2, 2});
    }
    return fc_(x.flatten(1));
  }

 private:
  std::array<nn::Conv2d, 6> convs_{nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  std::array<nn::BatchNorm2d, 6> norms_{nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  nn::Linear fc_{nullptr};
};

}  // namespace

void add_vggs(Registry<ModelFactory>& models) {
  add_model(models, "alexnet", "AlexNet, ImageNet", alexnet, 63);
  add_sized_model(models, "vgg_small", "VGG-small of the low-bit literature, images of image_size", 8,
                  [](const auto& options) { return std::make_shared<VggSmall>(options); });
  for (const VggVariant& variant : vgg_variants()) {
    for (const bool batch_normalized : {false, true}) {
      add_model(models, std::string(variant.name) + (batch_normalized ? "_bn" : ""),
                std::string(variant.description) + (batch_normalized ? " with batch norm, ImageNet" : ", ImageNet"),
                [&variant, batch_normalized](const ImagenetOptions& options) {
                  return vgg(variant, batch_normalized, options);
                });
    }
  }
}

}  // namespace qat::models
