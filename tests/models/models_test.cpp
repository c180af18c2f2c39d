#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <iterator>

#include "core/base/error.h"
#include "models/lenet5.h"
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

/// Weights, and two values of batch norm a channel.
int64_t conv_bn_count(int64_t in, int64_t out, int64_t kernel, int64_t groups = 1) {
  return in / groups * out * kernel * kernel + 2 * out;
}

TEST(MobilenetV1, CountsOfWidthsAndNames) {
  for (const int64_t eighths : {8, 4, 2}) {
    const int64_t channels[] = {32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024};
    int64_t count = conv_bn_count(3, 4 * eighths, 3);
    for (size_t i = 0; i + 1 < std::size(channels); ++i) {
      const int64_t in = channels[i] * eighths / 8, out = channels[i + 1] * eighths / 8;
      count += conv_bn_count(in, in, 3, in) + conv_bn_count(in, out, 1);
    }
    count += 128 * eighths * 10 + 10;
    const Model model = make("mobilenet_v1", fmt::format("{{num_classes: 10, width: {}}}", eighths / 8.0));
    EXPECT_EQ(parameter_count(model), count) << eighths;
  }
  EXPECT_EQ(models::parameter_count("mobilenet_v1"), 4231976);  // the 4.2 M of the paper's table 8
  const auto parameters = make("mobilenet_v1", "{}").module->named_parameters();
  EXPECT_EQ(parameters["conv1.0.weight"].sizes(), (std::vector<int64_t>{32, 3, 3, 3}));
  EXPECT_EQ(parameters["features.0.0.weight"].sizes(), (std::vector<int64_t>{32, 1, 3, 3}));
  EXPECT_EQ(parameters["features.12.3.weight"].sizes(), (std::vector<int64_t>{1024, 1024, 1, 1}));
  EXPECT_EQ(parameters["features.12.4.bias"].sizes(), (std::vector<int64_t>{1024}));
  EXPECT_EQ(parameters["classifier.0.weight"].sizes(), (std::vector<int64_t>{1000, 1024}));
}

TEST(MobilenetV1, SmallImagesKeepTheirSizeInTheFirstLayer) {
  const at::Tensor x = at::randn({1, 3, 32, 32});
  for (const bool small : {false, true}) {
    const Model model = make("mobilenet_v1", fmt::format("{{width: 0.25, small_images: {}}}", small));
    model.module->eval();
    const auto parameters = model.module->named_parameters();
    const at::Tensor first = at::conv2d(x, parameters["conv1.0.weight"], {}, small ? 1 : 2, 1);
    EXPECT_EQ(first.size(2), small ? 32 : 16);
    // A fresh batch norm divides by sqrt(1 + eps).
    at::Tensor y = at::relu(first / std::sqrt(1 + 1e-5));
    for (int i = 0; i < 13; ++i) {
      const auto layer = [&](int number, int64_t stride, bool depthwise) {
        const at::Tensor w = parameters[fmt::format("features.{}.{}.weight", i, number)];
        const int64_t groups = depthwise ? w.size(0) : 1, padding = depthwise ? 1 : 0;
        y = at::relu(at::conv2d(y, w, {}, stride, padding, 1, groups) / std::sqrt(1 + 1e-5));
      };
      layer(0, i == 1 || i == 3 || i == 5 || i == 11 ? 2 : 1, true);
      layer(3, 1, false);
    }
    EXPECT_EQ(y.size(2), small ? 2 : 1);
    y = at::linear(y.mean({2, 3}), parameters["classifier.0.weight"], parameters["classifier.0.bias"]);
    EXPECT_TRUE(at::allclose(model.forward(x), y, 1e-4, 1e-6));
  }
}

TEST(VggSmall, CountAndForward) {
  const Model model = make("vgg_small", "{}");
  const int64_t convs = conv_bn_count(3, 128, 3) + conv_bn_count(128, 128, 3) + conv_bn_count(128, 256, 3) +
                        conv_bn_count(256, 256, 3) + conv_bn_count(256, 512, 3) + conv_bn_count(512, 512, 3);
  EXPECT_EQ(parameter_count(model), convs + 512 * 4 * 4 * 10 + 10);
  EXPECT_EQ(make("vgg_small", "{image_size: 28}").module->named_parameters()["fc.weight"].size(1), 512 * 3 * 3);
  EXPECT_THROW(make("vgg_small", "{image_size: 7}"), ConfigError);
  model.module->eval();
  const auto parameters = model.module->named_parameters();
  at::Tensor x = at::randn({2, 3, 32, 32});
  const at::Tensor found = model.forward(x);
  for (int i = 0; i < 6; ++i) {
    x = at::relu(at::conv2d(x, parameters[fmt::format("conv{}.weight", i)], {}, 1, 1) / std::sqrt(1 + 1e-5));
    if (i % 2 == 1) x = at::max_pool2d(x, {2, 2});
  }
  x = at::linear(x.flatten(1), parameters["fc.weight"], parameters["fc.bias"]);
  EXPECT_TRUE(at::allclose(found, x, 1e-4, 1e-6));
}

TEST(Nin, CountsNamesAndTheOrderOfShuffledChannels) {
  // {out, kernel, groups, shuffled}, then the layer to the classes; with biases.
  struct Layer {
    int64_t out, kernel, groups, shuffled;
  };
  const std::vector<std::pair<const char*, std::vector<Layer>>> networks = {{"nin",
                                                                             {{192, 5, 1, 1},
                                                                              {160, 1, 1, 1},
                                                                              {96, 1, 1, 1},
                                                                              {192, 5, 1, 1},
                                                                              {192, 1, 1, 1},
                                                                              {192, 1, 1, 1},
                                                                              {192, 3, 1, 1},
                                                                              {192, 1, 1, 1},
                                                                              {10, 1, 1, 1}}},
                                                                            {"nin_gc",
                                                                             {{256, 5, 1, 1},
                                                                              {256, 1, 2, 1},
                                                                              {256, 1, 2, 2},
                                                                              {512, 3, 16, 2},
                                                                              {512, 1, 4, 16},
                                                                              {512, 1, 4, 4},
                                                                              {1024, 3, 32, 4},
                                                                              {1024, 1, 8, 32},
                                                                              {10, 1, 1, 1}}}};
  for (const auto& [name, layers] : networks) {
    SCOPED_TRACE(name);
    const Model model = make(name, "{}");
    model.module->eval();
    const auto parameters = model.module->named_parameters();
    at::Tensor x = at::randn({1, 3, 16, 16});
    const at::Tensor found = model.forward(x);
    int64_t count = 0, in = 3;
    for (size_t i = 0; i < layers.size(); ++i) {
      const Layer& layer = layers[i];
      if (i == 3 || i == 6) {
        x = std::string(name) == "nin" ? at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1}) : at::max_pool2d(x, {2, 2}, {2, 2});
      }
      if (layer.shuffled > 1) {
        std::vector<at::Tensor> order;  // first channels of all groups, second channels of all groups, ...
        for (int64_t j = 0; j < in / layer.shuffled; ++j) {
          for (int64_t g = 0; g < layer.shuffled; ++g) order.push_back(x.select(1, g * (in / layer.shuffled) + j));
        }
        x = at::stack(order, 1);
      }
      const std::string prefix = fmt::format("model.{}.", i + (i >= 3) + (i >= 6));
      x = at::conv2d(x, parameters[prefix + "conv.weight"], parameters[prefix + "conv.bias"], 1, (layer.kernel - 1) / 2,
                     1, layer.groups);
      x = at::relu(x / std::sqrt(1 + 1e-5));
      EXPECT_EQ(parameters[prefix + "bn.weight"].size(0), layer.out);
      count += conv_bn_count(in, layer.out, layer.kernel, layer.groups) + layer.out;
      in = layer.out;
    }
    EXPECT_EQ(parameter_count(model), count);
    EXPECT_TRUE(at::allclose(found, x.mean({2, 3}), 1e-4, 1e-6));
  }
}

TEST(NniMnist, CountAndForward) {
  const Model model = make("nni_mnist", "{in_channels: 1}");
  EXPECT_EQ(parameter_count(model), 25 * 20 + 20 + 20 * 25 * 50 + 50 + 800 * 500 + 500 + 5000 + 10);
  const auto p = model.module->named_parameters();
  at::Tensor x = 40 * at::randn({2, 1, 28, 28});
  const at::Tensor found = model.forward(x);
  for (const std::string conv : {"conv1", "conv2"}) {
    x = at::max_pool2d(at::conv2d(x, p[conv + ".weight"], p[conv + ".bias"]).clamp(0, 6), {2, 2});
  }
  EXPECT_EQ(x.max().item<float>(), 6.0f);
  x = at::linear(x.flatten(1), p["fc1.weight"], p["fc1.bias"]).clamp(0, 6);
  EXPECT_TRUE(at::allclose(found, at::linear(x, p["fc2.weight"], p["fc2.bias"]), 1e-4, 1e-5));
}

TEST(LenetPytorch, CountAndForward) {
  // NNI's quick start and nnieqat's CIFAR-10 example.
  EXPECT_EQ(parameter_count(make("lenet_pytorch", "{in_channels: 1, image_size: 28}")),
            25 * 6 + 6 + 6 * 25 * 16 + 16 + 256 * 120 + 120 + 120 * 84 + 84 + 840 + 10);
  const Model model = make("lenet_pytorch", "{}");
  EXPECT_EQ(parameter_count(model), 3 * 25 * 6 + 6 + 6 * 25 * 16 + 16 + 400 * 120 + 120 + 120 * 84 + 84 + 840 + 10);
  EXPECT_THROW(make("lenet_pytorch", "{image_size: 15}"), ConfigError);
  const auto p = model.module->named_parameters();
  at::Tensor x = at::randn({2, 3, 32, 32});
  const at::Tensor found = model.forward(x);
  for (const std::string conv : {"conv1", "conv2"}) {
    x = at::relu(at::max_pool2d(at::conv2d(x, p[conv + ".weight"], p[conv + ".bias"]), {2, 2}));
  }
  x = x.flatten(1);
  for (const std::string fc : {"fc1", "fc2"}) x = at::relu(at::linear(x, p[fc + ".weight"], p[fc + ".bias"]));
  EXPECT_TRUE(at::allclose(found, at::linear(x, p["fc3.weight"], p["fc3.bias"]), 1e-4, 1e-6));
}

TEST(NniVgg, CountNamesAndForward) {
  const Model model = make("nni_vgg", "{}");
  const int64_t convs = conv_bn_count(3, 128, 3) + conv_bn_count(128, 128, 3) + conv_bn_count(128, 256, 3) +
                        conv_bn_count(256, 256, 3) + conv_bn_count(256, 512, 3) + conv_bn_count(512, 512, 3);
  EXPECT_EQ(parameter_count(model), convs + 8192 * 1024 + 2048 + 1024 * 1024 + 2048 + 1024 * 10 + 10);
  model.module->eval();
  const auto p = model.module->named_parameters();
  at::Tensor x = at::randn({2, 3, 32, 32});
  const at::Tensor found = model.forward(x);
  const double feature_scale = 1 / std::sqrt(1 + 1e-4), scale = 1 / std::sqrt(1 + 1e-5);
  // The numbers of the original's layers, those that its configuration names among them.
  for (const auto& [number, pooled] :
       {std::pair{0, false}, {3, true}, {7, false}, {10, true}, {14, false}, {17, true}}) {
    x = at::conv2d(x, p[fmt::format("features.{}.weight", number)], {}, 1, 1);
    if (pooled) x = at::max_pool2d(x, {2, 2});
    x = (x * feature_scale).clamp(-1, 1);
    EXPECT_NE(p.find(fmt::format("features.{}.weight", number + 1 + pooled)), nullptr);
  }
  x = x.flatten(1);
  for (const int number : {0, 3}) {
    x = (at::linear(x, p[fmt::format("classifier.{}.weight", number)]) * scale).clamp(-1, 1);
  }
  x = at::linear(x, p["classifier.6.weight"], p["classifier.6.bias"]) * scale;
  EXPECT_TRUE(at::allclose(found, x, 1e-4, 1e-5));
  EXPECT_EQ(p.find("classifier.7.weight"), nullptr);
}

TEST(NniResnet18, DiffersFromTorchvisionsInTheStem) {
  EXPECT_EQ(models::parameter_count("nni_resnet18"), models::parameter_count("resnet18") - 3 * 64 * (49 - 9));
  const Model model = make("nni_resnet18", "{num_classes: 10}");
  EXPECT_EQ(model.forward(at::randn({2, 3, 32, 32})).sizes(), (std::vector<int64_t>{2, 10}));
}

TEST(ClassifierTensors, AreThoseThatTheNumberOfClassesShapes) {
  using Names = std::set<std::string>;
  const config::Node none;
  EXPECT_EQ(classifier_tensors("resnet18", none), (Names{"fc.weight", "fc.bias"}));
  EXPECT_EQ(classifier_tensors("resnet18", config::load_text("{num_classes: 7}", "test", {}).root()),
            (Names{"fc.weight", "fc.bias"}));
  EXPECT_EQ(classifier_tensors("squeezenet1_1", none), (Names{"classifier.1.weight", "classifier.1.bias"}));
  EXPECT_EQ(classifier_tensors("googlenet", none),
            (Names{"aux1.fc2.bias", "aux1.fc2.weight", "aux2.fc2.bias", "aux2.fc2.weight", "fc.bias", "fc.weight"}));
  EXPECT_EQ(classifier_tensors("nin", none),
            (Names{"model.10.conv.weight", "model.10.conv.bias", "model.10.bn.weight", "model.10.bn.bias",
                   "model.10.bn.running_mean", "model.10.bn.running_var"}));
  registry().add("two_outputs", "without the option num_classes", [](const config::Node& options) {
    if (!options.entries().empty()) throw options.entries().front().value.error("unknown key");
    return wrap(std::make_shared<Lenet5>(ClassifierOptions{2, 1}));
  });
  EXPECT_THROW(classifier_tensors("two_outputs", none), ConfigError);
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
