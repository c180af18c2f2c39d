#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "models/model.h"

namespace qat::models {
namespace {

Model make(const std::string& name, const std::string& options) {
  return registry().get(name)(config::load_text(options, "test", {}).root());
}

int64_t parameter_count(const Model& model) {
  int64_t count = 0;
  for (const at::Tensor& p : model.module->parameters()) count += p.numel();
  return count;
}

TEST(Lenet5, NamesShapesAndCount) {
  const Model model = make("lenet5", "{in_channels: 1}");
  std::vector<std::string> names;
  for (const auto& item : model.module->named_parameters()) names.push_back(item.key());
  EXPECT_EQ(names, (std::vector<std::string>{"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "conv2.weight",
                                             "conv2.bias", "bn2.weight", "bn2.bias", "fc1.weight", "fc1.bias",
                                             "fc2.weight", "fc2.bias"}));
  // 25*32+32 + 64 + 800*64+64 + 128 + 1024*512+512 + 512*10+10
  EXPECT_EQ(parameter_count(model), 832 + 64 + 51264 + 128 + 524800 + 5130);
  EXPECT_EQ(model.forward(at::zeros({2, 1, 28, 28})).sizes(), (std::vector<int64_t>{2, 10}));
}

TEST(Resnet20, NamesShapesAndCount) {
  const Model model = make("resnet20", "{in_channels: 3, num_classes: 10}");
  // The paper's option-A network has 0.27 M; two 1x1 shortcuts with batch norm add 512 + 64 + 2048 + 128.
  EXPECT_EQ(parameter_count(model), 272474);
  const auto parameters = model.module->named_parameters();
  EXPECT_EQ(parameters["layer2.0.downsample.0.weight"].sizes(), (std::vector<int64_t>{32, 16, 1, 1}));
  EXPECT_EQ(parameters["layer3.2.conv2.weight"].sizes(), (std::vector<int64_t>{64, 64, 3, 3}));
  EXPECT_EQ(parameters.find("layer1.0.downsample.0.weight"), nullptr);
  EXPECT_EQ(model.forward(at::zeros({2, 3, 32, 32})).sizes(), (std::vector<int64_t>{2, 10}));
  EXPECT_EQ(make("resnet20", "{width: 8, in_channels: 1}").forward(at::zeros({2, 1, 28, 28})).size(1), 10);
}

TEST(Resnet20, ConvolutionsStartKaimingNormalByFanOut) {
  at::manual_seed(0);
  const Model model = make("resnet20", "{}");
  const at::Tensor w = model.module->named_parameters()["layer3.2.conv2.weight"];
  EXPECT_NEAR(w.std().item<double>(), std::sqrt(2.0 / (64 * 9)), 1e-3);
  EXPECT_NEAR(w.mean().item<double>(), 0.0, 1e-3);
}

TEST(Registry, ParametersAreCountedWithoutMakingThem) {
  EXPECT_EQ(models::parameter_count("resnet20"), 272474);
  EXPECT_EQ(models::parameter_count("resnet18"), 11689512);  // torchvision's
  // What comes after is initialised again.
  EXPECT_GT(make("lenet5", "{}").module->named_parameters()["conv1.weight"].abs().sum().item<double>(), 0.0);
}

TEST(Registry, BadNamesAndOptions) {
  EXPECT_THROW(make("lenet", "{}"), Error);
  EXPECT_THROW(make("lenet5", "{num_clases: 10}"), ConfigError);
  EXPECT_THROW(make("resnet20", "{width: 0}"), ConfigError);
}

}  // namespace
}  // namespace qat::models
