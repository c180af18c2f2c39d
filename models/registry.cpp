#include "models/blocks.h"
#include "models/families.h"
#include "models/lenet5.h"
#include "models/model.h"
#include "models/resnet_cifar.h"

namespace qat::models {
namespace {

Registry<ModelFactory> builtin() {
  Registry<ModelFactory> models("model");
  add_model<ClassifierOptions>(
      models, "lenet5", "LeNet-5 with batch norm, 28x28 images",
      [](const auto& options) { return std::make_shared<Lenet5>(options); }, 28);
  for (const int64_t depth : {20, 32, 44, 56, 110}) {
    const std::string number = std::to_string(depth);
    add_model<ResnetCifarOptions>(
        models, "resnet" + number, "ResNet-" + number + " for small images (He et al. 2016, section 4.2)",
        [depth](const auto& options) { return std::make_shared<ResnetCifar>((depth - 2) / 6, options); }, 4);
  }
  add_convnexts(models);
  add_densenets(models);
  add_efficientnets(models);
  add_examples(models);
  add_inceptions(models);
  add_mnasnets(models);
  add_mobilenets(models);
  add_nins(models);
  add_regnets(models);
  add_resnets(models);
  add_shufflenets(models);
  add_squeezenets(models);
  add_vggs(models);
  add_vits(models);
  return models;
}

}  // namespace

Registry<ModelFactory>& registry() {
  static Registry<ModelFactory> models = builtin();
  return models;
}

}  // namespace qat::models
