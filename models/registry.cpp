#include "models/lenet5.h"
#include "models/model.h"
#include "models/resnet_cifar.h"

namespace qat::models {
namespace {

template <class Net, class Options>
ModelFactory factory() {
  return [](const config::Node& options) { return wrap(std::make_shared<Net>(config::parse<Options>(options))); };
}

ModelFactory resnet_cifar(int64_t blocks) {
  return [blocks](const config::Node& options) {
    return wrap(std::make_shared<ResnetCifar>(blocks, config::parse<ResnetCifarOptions>(options)));
  };
}

Registry<ModelFactory> builtin() {
  Registry<ModelFactory> models("model");
  models.add("lenet5", "LeNet-5 with batch norm, 28x28 images", factory<Lenet5, ClassifierOptions>());
  models.add("resnet20", "ResNet-20 for small images (He et al. 2016, section 4.2)", resnet_cifar(3));
  return models;
}

}  // namespace

Registry<ModelFactory>& registry() {
  static Registry<ModelFactory> models = builtin();
  return models;
}

}  // namespace qat::models
