// Network in network (Lin et al., ICLR 2014, arXiv:1312.4400) for CIFAR-10 as the micronet project has it: batch norm
// behind every convolution, and a variant with grouped convolutions and shuffled channels. Names, layers and
// initialisation: 666DZY666/micronet, micronet/models/nin.py, nin_gc.py, compression/quantization/wqaq/iao/main.py.
#include <torch/nn/init.h>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

struct Layer {
  int64_t out, kernel;
  int64_t groups = 1;
  int64_t shuffled = 1;  // the input's channels are shuffled between this many groups
};

struct NinVariant {
  const char* name;
  const char* description;
  int64_t pool_kernel;        // of max pools of stride 2, after the third and the sixth layer
  std::vector<Layer> layers;  // without the last one, a 1x1 convolution to the classes
};

const std::vector<NinVariant>& nin_variants() {
  static const std::vector<NinVariant> table = {
      {"nin",
       "micronet's network in network, CIFAR-10",
       3,
       {{192, 5}, {160, 1}, {96, 1}, {192, 5}, {192, 1}, {192, 1}, {192, 3}, {192, 1}}},
      {"nin_gc",
       "micronet's network in network with grouped convolutions, CIFAR-10",
       2,
       {{256, 5},
        {256, 1, 2},
        {256, 1, 2, 2},
        {512, 3, 16, 2},
        {512, 1, 4, 16},
        {512, 1, 4, 4},
        {1024, 3, 32, 4},
        {1024, 1, 8, 32}}},
  };
  return table;
}

/// Every layer ends in a ReLU, the logits too; then the mean over the image.
class Nin : public nn::Module {
 public:
  Nin(const NinVariant& variant, const ClassifierOptions& options) {
    int64_t channels = options.in_channels;
    for (size_t i = 0; i < variant.layers.size(); ++i) {
      if (i == 3 || i == 6) model_->push_back(max_pool_layer(variant.pool_kernel, 2, (variant.pool_kernel - 1) / 2));
      model_->push_back(ShuffledConv(channels, variant.layers[i]));
      channels = variant.layers[i].out;
    }
    model_->push_back(ShuffledConv(channels, {options.num_classes, 1}));
    register_module("model", model_);
    for_each_layer<nn::Conv2d>(*this, [](nn::Conv2dImpl& conv) {
      nn::init::xavier_uniform_(conv.weight);
      init_zero_bias(conv.bias);
    });
  }

  Tensor forward(const Tensor& x) { return global_average(model_->forward(x)); }

 private:
  class ShuffledConv : public ConvBnRelu {
   public:
    ShuffledConv(int64_t in, const Layer& layer)
        : ConvBnRelu(
              nn::Conv2dOptions(in, layer.out, layer.kernel).padding((layer.kernel - 1) / 2).groups(layer.groups)),
          shuffled_(layer.shuffled) {}
    Tensor forward(const Tensor& x) { return ConvBnRelu::forward(shuffled_ == 1 ? x : shuffle_channels(x, shuffled_)); }

   private:
    int64_t shuffled_;
  };

  Chain model_;
};

}  // namespace

void add_nins(Registry<ModelFactory>& models) {
  for (const NinVariant& variant : nin_variants()) {
    add_model<ClassifierOptions>(
        models, variant.name, variant.description,
        [&variant](const auto& options) { return std::make_shared<Nin>(variant, options); }, 4);
  }
}

}  // namespace qat::models
