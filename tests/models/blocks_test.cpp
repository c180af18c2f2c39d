#include "models/blocks.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/base/error.h"

namespace qat::models {
namespace {

using at::Tensor;

/// Small layers on several busy cores mostly wait for each other; the goldens were made with one thread, too.
class SingleThread : public testing::Environment {
  void SetUp() override { at::set_num_threads(1); }
};
[[maybe_unused]] testing::Environment* const kSingleThread = testing::AddGlobalTestEnvironment(new SingleThread);

Model make(const std::string& name, const std::string& options = "{}") {
  return registry().get(name)(config::load_text(options, "test", {}).root());
}

TEST(MakeDivisible, RoundsToTheNearestMultipleButLosesAtMostATenth) {
  EXPECT_EQ(make_divisible(16 * 0.75, 8), 16);  // 12 is half-way: up
  EXPECT_EQ(make_divisible(24 * 0.75, 8), 24);  // 18 -> 16 would lose a ninth
  EXPECT_EQ(make_divisible(33, 8), 32);
  EXPECT_EQ(make_divisible(1, 8), 8);
  EXPECT_EQ(make_divisible(72 / 4, 8), 24);  // MobileNetV3's first squeeze
}

TEST(StochasticDepth, DropsWholeSamplesAndKeepsTheMean) {
  at::manual_seed(3);
  StochasticDepth layer(0.25);
  const Tensor x = at::ones({4000, 2, 3});
  const Tensor y = layer.forward(x).flatten(1);
  // Every sample is 0 or 1 / 0.75, all of it.
  EXPECT_TRUE(at::equal(y.amin(1), y.amax(1)));
  const Tensor first = y.select(1, 0);
  EXPECT_TRUE(at::allclose(first * (first - 1.0 / 0.75), at::zeros({4000})));
  // Standard deviation of the mean: sqrt(0.25 / 0.75 / 4000) = 0.009.
  EXPECT_NEAR(first.mean().item<double>(), 1.0, 0.04);
  layer.eval();
  EXPECT_TRUE(at::equal(layer.forward(x), x));
  layer.train();
  layer.set_probability(1.0);
  EXPECT_TRUE(at::equal(layer.forward(x), at::zeros_like(x)));
}

TEST(SetDropout, ZeroMakesTrainingDeterministic) {
  const Model model = make("efficientnet_b0", "{num_classes: 4}");
  const Tensor x = at::randn({4, 3, 32, 32});
  EXPECT_FALSE(at::equal(model.forward(x), model.forward(x)));
  set_dropout(*model.module, 0.0);
  EXPECT_TRUE(at::equal(model.forward(x), model.forward(x)));
}

TEST(SqueezeExcite, ScalesChannelsByAFunctionOfTheirMeans) {
  SqueezeExcite layer(2, 1, Activation::kRelu, Activation::kSigmoid);
  const at::NoGradGuard guard;
  auto parameters = layer.named_parameters();
  parameters["fc1.weight"].copy_(at::tensor({1.0f, 2.0f}).view({1, 2, 1, 1}));
  parameters["fc1.bias"].fill_(-1.0f);
  parameters["fc2.weight"].copy_(at::tensor({1.0f, -1.0f}).view({2, 1, 1, 1}));
  parameters["fc2.bias"].copy_(at::tensor({0.0f, 0.5f}));
  const Tensor x = at::tensor({1.0f, 3.0f, 0.0f, 1.0f}).view({1, 2, 1, 2});
  // Means 2 and 0.5; fc1 gives 2 + 1 - 1 = 2; fc2 gives 2 and -1.5.
  const double a = 1 / (1 + std::exp(-2.0)), b = 1 / (1 + std::exp(1.5));
  const Tensor y = layer.forward(x).flatten();
  EXPECT_NEAR(y[0].item<double>(), a, 1e-6);
  EXPECT_NEAR(y[1].item<double>(), 3 * a, 1e-6);
  EXPECT_NEAR(y[3].item<double>(), b, 1e-6);
}

enum class Law { kNormal, kUniform, kZero };

struct Start {
  const char* parameter;
  Law law;
  double scale;  // standard deviation, or bound of the uniform distribution
};

/// The mean within 5 of its standard deviations; spread and shape (the share of values beyond one standard deviation)
/// within 5 % and 0.02, for tensors of thousands of values; wider for the few smaller ones.
void expect_start(const Model& model, const Start& start) {
  SCOPED_TRACE(start.parameter);
  const Tensor* found = nullptr;
  const auto parameters = model.module->named_parameters();
  found = parameters.find(start.parameter);
  ASSERT_NE(found, nullptr);
  const Tensor w = found->detach().to(at::kDouble);
  if (start.law == Law::kZero) {
    EXPECT_EQ(w.abs().max().item<double>(), 0.0);
    return;
  }
  ASSERT_GE(w.numel(), 400);
  const double count = static_cast<double>(w.numel());
  const double std = start.law == Law::kNormal ? start.scale : start.scale / std::sqrt(3.0);
  EXPECT_NEAR(w.mean().item<double>(), 0.0, 5 * std / std::sqrt(count));
  EXPECT_NEAR(w.std().item<double>(), std, std * std::max(0.02, 4 / std::sqrt(2 * count)));
  const double beyond = w.abs().gt(std).to(at::kDouble).mean().item<double>();
  // Normal: 2 * (1 - Phi(1)); uniform: 1 - 1/sqrt(3).
  EXPECT_NEAR(beyond, start.law == Law::kNormal ? 0.3173 : 0.4226, std::max(0.01, 2.5 / std::sqrt(count)));
  if (start.law == Law::kUniform) {
    EXPECT_LE(w.abs().max().item<double>(), start.scale * (1 + 1e-6));
  }
}

TEST(Initialisation, FollowsTorchvision) {
  at::manual_seed(11);
  const double k6 = std::sqrt(6.0);
  const std::vector<std::pair<const char*, std::vector<Start>>> cases = {
      // Kaiming normal, fan out = out * kernel area; linear: U(+-1/sqrt(fan_in)), bias too.
      {"resnet18",
       {{"layer2.0.conv1.weight", Law::kNormal, std::sqrt(2.0 / (128 * 9))},
        {"layer2.0.downsample.0.weight", Law::kNormal, std::sqrt(2.0 / 128)},
        {"fc.weight", Law::kUniform, 1 / std::sqrt(512.0)},
        {"fc.bias", Law::kUniform, 1 / std::sqrt(512.0)},
        {"bn1.bias", Law::kZero, 0}}},
      // Groups do not change the fan out.
      {"mobilenet_v2",
       {{"features.16.conv.1.0.weight", Law::kNormal, std::sqrt(2.0 / (960 * 9))},
        {"classifier.1.weight", Law::kNormal, 0.01},
        {"classifier.1.bias", Law::kZero, 0}}},
      {"mobilenet_v3_small",
       {{"features.9.block.2.fc1.weight", Law::kNormal, std::sqrt(2.0 / 72)},
        {"features.9.block.2.fc1.bias", Law::kZero, 0},
        {"classifier.0.weight", Law::kNormal, 0.01}}},
      {"vgg11",
       {{"features.3.weight", Law::kNormal, std::sqrt(2.0 / (128 * 9))},
        {"features.3.bias", Law::kZero, 0},
        {"classifier.6.weight", Law::kNormal, 0.01},
        {"classifier.6.bias", Law::kZero, 0}}},
      // PyTorch's own start of convolutions: U(+-1/sqrt(fan_in)).
      {"alexnet",
       {{"features.3.weight", Law::kUniform, 1 / std::sqrt(64.0 * 25)},
        {"classifier.6.weight", Law::kUniform, 1 / std::sqrt(4096.0)}}},
      {"shufflenet_v2_x1_0", {{"conv5.0.weight", Law::kUniform, 1 / std::sqrt(464.0)}}},
      // Kaiming uniform, fan in, gain sqrt(2).
      {"squeezenet1_1",
       {{"features.12.expand3x3.weight", Law::kUniform, k6 / std::sqrt(64.0 * 9)},
        {"features.12.expand3x3.bias", Law::kZero, 0},
        {"classifier.1.weight", Law::kNormal, 0.01}}},
      // Xavier uniform.
      {"nin",
       {{"model.4.conv.weight", Law::kUniform, k6 / std::sqrt(25.0 * (96 + 192))},
        {"model.4.conv.bias", Law::kZero, 0}}},
      {"mobilenet_v1",
       {{"features.5.0.weight", Law::kNormal, std::sqrt(2.0 / (256 * 9))},
        {"features.5.3.weight", Law::kNormal, std::sqrt(2.0 / 512)},
        {"classifier.0.weight", Law::kNormal, 0.01},
        {"classifier.0.bias", Law::kZero, 0}}},
      {"vgg_small",
       {{"conv3.weight", Law::kNormal, std::sqrt(2.0 / (256 * 9))},
        {"fc.weight", Law::kNormal, 0.01},
        {"fc.bias", Law::kZero, 0}}},
      {"nni_resnet18", {{"conv1.weight", Law::kNormal, std::sqrt(2.0 / (64 * 9))}}},
      {"nni_mnist",
       {{"conv2.weight", Law::kUniform, 1 / std::sqrt(20.0 * 25)}, {"fc1.bias", Law::kUniform, 1 / std::sqrt(800.0)}}},
      {"nni_vgg",
       {{"features.3.weight", Law::kUniform, 1 / std::sqrt(128.0 * 9)},
        {"classifier.3.weight", Law::kUniform, 1 / std::sqrt(1024.0)}}},
      {"lenet5",
       {{"conv2.weight", Law::kUniform, 1 / std::sqrt(32.0 * 25)}, {"fc1.bias", Law::kUniform, 1 / std::sqrt(1024.0)}}},
      {"lenet_pytorch", {{"conv2.weight", Law::kUniform, 1 / std::sqrt(6.0 * 25)}}},
      {"resnext50_32x4d", {{"layer2.1.conv2.weight", Law::kNormal, std::sqrt(2.0 / (256 * 9))}}},
      {"resnet20",
       {{"layer3.2.conv2.weight", Law::kNormal, std::sqrt(2.0 / (64 * 9))},
        {"fc.weight", Law::kUniform, 1 / std::sqrt(64.0)}}},
      // Kaiming uniform, fan out, gain 1.
      {"mnasnet1_0",
       {{"layers.14.weight", Law::kNormal, std::sqrt(2.0 / 1280)},
        {"classifier.1.weight", Law::kUniform, std::sqrt(3.0 / 1000)},
        {"classifier.1.bias", Law::kZero, 0}}},
      // Kaiming normal, fan in.
      {"densenet121",
       {{"features.denseblock2.denselayer3.conv2.weight", Law::kNormal, std::sqrt(2.0 / (128 * 9))},
        {"features.transition1.conv.weight", Law::kNormal, std::sqrt(2.0 / 256)},
        {"classifier.weight", Law::kUniform, 1 / std::sqrt(1024.0)},
        {"classifier.bias", Law::kZero, 0}}},
      {"googlenet", {{"conv3.conv.weight", Law::kNormal, 0.01}, {"aux1.fc1.weight", Law::kNormal, 0.01}}},
      {"inception_v3",
       {{"AuxLogits.conv1.conv.weight", Law::kNormal, 0.1},
        {"AuxLogits.fc.weight", Law::kNormal, 0.001},
        {"fc.weight", Law::kNormal, 0.1}}},
      {"efficientnet_b0",
       {{"features.7.0.block.1.0.weight", Law::kNormal, std::sqrt(2.0 / (1152 * 9))},
        {"features.7.0.block.2.fc1.bias", Law::kZero, 0},
        {"classifier.1.weight", Law::kUniform, 1 / std::sqrt(1000.0)},
        {"classifier.1.bias", Law::kZero, 0}}},
      {"regnet_y_400mf",
       {{"trunk_output.block4.block4-1.f.b.0.weight", Law::kNormal, std::sqrt(2.0 / (440 * 9))},
        {"trunk_output.block4.block4-1.f.se.fc2.bias", Law::kUniform, 1 / std::sqrt(110.0)},
        {"fc.weight", Law::kNormal, 0.01},
        {"fc.bias", Law::kZero, 0}}},
      {"convnext_tiny",
       {{"features.7.2.block.0.weight", Law::kNormal, 0.02},
        {"features.7.2.block.3.weight", Law::kNormal, 0.02},
        {"features.7.2.block.3.bias", Law::kZero, 0}}},
      {"vit_b_32",
       {{"conv_proj.weight", Law::kNormal, std::sqrt(1.0 / (3 * 32 * 32))},
        {"encoder.pos_embedding", Law::kNormal, 0.02},
        {"encoder.layers.encoder_layer_3.self_attention.in_proj_weight", Law::kUniform, k6 / std::sqrt(4 * 768.0)},
        {"encoder.layers.encoder_layer_3.self_attention.out_proj.weight", Law::kUniform, 1 / std::sqrt(768.0)},
        {"encoder.layers.encoder_layer_3.mlp.0.weight", Law::kUniform, k6 / std::sqrt(768.0 + 3072)},
        {"encoder.layers.encoder_layer_3.mlp.0.bias", Law::kNormal, 1e-6},
        {"class_token", Law::kZero, 0},
        {"heads.head.weight", Law::kZero, 0}}},
  };
  for (const auto& [name, starts] : cases) {
    SCOPED_TRACE(name);
    const Model model = make(name);
    for (const Start& start : starts) expect_start(model, start);
  }
}

TEST(Variants, HaveTorchvisionsParameterCounts) {
  // The documented num_params of torchvision's weights, of rows that no golden covers. resnet32 and deeper: 97216 more
  // for every block a stage (2 * 9 * (16^2 + 32^2 + 64^2) weights, 4 * (16 + 32 + 64) of batch norms) than resnet20.
  const std::vector<std::pair<const char*, int64_t>> counts = {{"resnet101", 44549160},
                                                               {"resnet32", 272474 + 2 * 97216},
                                                               {"resnet44", 272474 + 4 * 97216},
                                                               {"resnet56", 272474 + 6 * 97216},
                                                               {"resnet110", 272474 + 15 * 97216},
                                                               {"resnet152", 60192808},
                                                               {"resnext101_32x8d", 88791336},
                                                               {"wide_resnet50_2", 68883240},
                                                               {"vgg11", 132863336},
                                                               {"vgg11_bn", 132868840},
                                                               {"vgg13", 133047848},
                                                               {"vgg13_bn", 133053736},
                                                               {"vgg16", 138357544},
                                                               {"vgg19", 143667240},
                                                               {"vgg19_bn", 143678248},
                                                               {"efficientnet_b6", 43040704},
                                                               {"efficientnet_b7", 66347960},
                                                               {"efficientnet_v2_l", 118515272},
                                                               {"regnet_x_16gf", 54278536},
                                                               {"regnet_x_32gf", 107811560},
                                                               {"regnet_y_16gf", 83590140},
                                                               {"regnet_y_32gf", 145046770},
                                                               {"convnext_base", 88591464},
                                                               {"convnext_large", 197767336},
                                                               {"vit_b_32", 88224232},
                                                               {"vit_l_16", 304326632},
                                                               {"squeezenet1_0", 1248424},
                                                               {"densenet161", 28681000},
                                                               {"densenet169", 14149480},
                                                               {"densenet201", 20013928},
                                                               {"mobilenet_v3_large", 5483032},
                                                               {"shufflenet_v2_x0_5", 1366792},
                                                               {"shufflenet_v2_x1_5", 3503624},
                                                               {"shufflenet_v2_x2_0", 7393996},
                                                               {"mnasnet0_5", 2218512},
                                                               {"mnasnet0_75", 3170208},
                                                               {"mnasnet1_3", 6282256},
                                                               {"efficientnet_b1", 7794184},
                                                               {"efficientnet_b2", 9109994},
                                                               {"efficientnet_b3", 12233232},
                                                               {"efficientnet_b4", 19341616},
                                                               {"efficientnet_b5", 30389784},
                                                               {"efficientnet_v2_s", 21458488},
                                                               {"efficientnet_v2_m", 54139356},
                                                               {"regnet_x_400mf", 5495976},
                                                               {"regnet_x_800mf", 7259656},
                                                               {"regnet_x_1_6gf", 9190136},
                                                               {"regnet_x_3_2gf", 15296552},
                                                               {"regnet_x_8gf", 39572648},
                                                               {"regnet_y_800mf", 6432512},
                                                               {"regnet_y_1_6gf", 11202430},
                                                               {"regnet_y_3_2gf", 19436338},
                                                               {"regnet_y_8gf", 39381472},
                                                               {"convnext_small", 50223688}};
  for (const auto& [name, count] : counts) {
    const auto parameters = make(name).module->parameters();
    EXPECT_EQ(std::accumulate(parameters.begin(), parameters.end(), int64_t{0},
                              [](int64_t sum, const Tensor& p) { return sum + p.numel(); }),
              count)
        << name;
  }
}

TEST(Variants, RunAtTheirSmallestImageWithOtherChannelsAndClasses) {
  const std::vector<std::string> names = {"alexnet",
                                          "vgg11_bn",
                                          "resnet18",
                                          "resnext50_32x4d",
                                          "squeezenet1_0",
                                          "densenet121",
                                          "googlenet",
                                          "inception_v3",
                                          "mobilenet_v2",
                                          "mobilenet_v3_large",
                                          "shufflenet_v2_x0_5",
                                          "mnasnet0_5",
                                          "efficientnet_b0",
                                          "efficientnet_v2_s",
                                          "regnet_x_400mf",
                                          "convnext_tiny",
                                          "lenet5",
                                          "resnet20",
                                          "mobilenet_v1",
                                          "vgg_small",
                                          "nin",
                                          "nin_gc",
                                          "nni_mnist",
                                          "nni_vgg",
                                          "nni_resnet18",
                                          "lenet_pytorch"};
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const Model model = make(name, "{num_classes: 7, in_channels: 1}");
    const Tensor x = at::randn({2, 1, model.smallest_image, model.smallest_image});
    for (const bool training : {true, false}) {
      model.module->train(training);
      EXPECT_EQ(model.forward(x).sizes(), (std::vector<int64_t>{2, 7}));
    }
  }
}

TEST(Vit, TheImageSizeIsAnOption) {
  const Model model = make("vit_b_32", "{num_classes: 3, image_size: 64}");
  EXPECT_EQ(model.module->named_parameters()["encoder.pos_embedding"].size(1), 5);
  EXPECT_EQ(model.smallest_image, 64);
  EXPECT_EQ(model.forward(at::zeros({1, 3, 64, 64})).size(1), 3);
  EXPECT_THROW(model.forward(at::zeros({1, 3, 96, 96})), Error);
  EXPECT_THROW(make("vit_b_32", "{image_size: 65}"), ConfigError);
}

TEST(Inception, AuxiliaryHeadsSpeakInTrainingOnly) {
  const Model model = make("googlenet", "{num_classes: 5}");
  const Tensor x = at::randn({2, 3, 64, 64});
  const auto heads = model.forward_heads(x);
  ASSERT_EQ(heads.size(), 3u);
  EXPECT_EQ(heads[0].name, "logits");
  EXPECT_EQ(heads[1].name, "aux_logits1");
  EXPECT_EQ(heads[2].logits.sizes(), (std::vector<int64_t>{2, 5}));
  model.module->eval();
  EXPECT_EQ(model.forward_heads(x).size(), 1u);
  EXPECT_TRUE(at::equal(model.forward_heads(x)[0].logits, model.forward(x)));
  EXPECT_FALSE(make("googlenet", "{aux_logits: false}").forward_heads);
  EXPECT_THROW(make("resnet18", "{aux_logits: false}"), ConfigError);
}

}  // namespace
}  // namespace qat::models
