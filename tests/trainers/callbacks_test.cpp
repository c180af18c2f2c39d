#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/base/files.h"
#include "core/io/weights.h"
#include "core/nn/layer.h"
#include "trainers/distillation.h"
#include "trainers/early_stopping.h"
#include "trainers/non_finite.h"
#include "trainers/stages.h"
#include "trainers/weight_average.h"

namespace qat::trainers {
namespace {

Session make_session(const std::string& model = "name: resnet20, width: 4, num_classes: 4") {
  return Session(make_experiment(
      config::load_text(
          "data: {dataset: {name: synthetic, num_classes: 4, train_samples: 8, eval_samples: 8}}\n"
          "stages: [float, calibrate]\nquantization: {weight: {quantizer: lsq}}\nmodel: {in_channels: 1, " +
              model + "}\n",
          "session.yaml", {})
          .root()));
}

void fill(const at::Tensor& tensor, double value) {
  const at::NoGradGuard no_grad;
  at::Tensor(tensor).fill_(value);
}

TEST(WeightAverage, FollowsTheFormula) {
  const Session session = make_session();
  const io::TensorMap state = session.state();
  const at::Tensor weight = state.at("conv1.weight"), mean = state.at("bn1.running_mean");
  fill(weight, 1), fill(mean, 10);
  WeightAverage average(session, {.decay = 0.75, .every = 2, .warmup = false});
  double expected = 1;
  for (int step = 1; step <= 6; ++step) {
    fill(weight, step), fill(mean, 10 * step);
    average.after_update();
    if (step % 2 == 0) expected = 0.75 * expected + 0.25 * step;
  }
  average.before_evaluation();
  EXPECT_NEAR(weight.max().item<double>(), expected, 1e-6);
  EXPECT_NEAR(mean.min().item<double>(), 10 * expected, 1e-5);
  average.after_evaluation(Evaluation());
  EXPECT_EQ(weight.min().item<double>(), 6);
  EXPECT_EQ(mean.max().item<double>(), 60);
  average.finish();
  EXPECT_NEAR(weight.min().item<double>(), expected, 1e-6);
}

TEST(WeightAverage, WarmsUpAndRestartsAtTheFreeze) {
  const Session session = make_session();
  const at::Tensor weight = session.state().at("conv1.weight");
  fill(weight, 0);
  WeightAverage average(session, {.decay = 0.2, .every = 1, .warmup = true});
  const auto value = [&] { return average.state().at("average.conv1.weight").max().item<double>(); };
  fill(weight, 1);
  average.after_update();  // d = 1/10
  EXPECT_NEAR(value(), 0.9, 1e-6);
  average.after_update();  // d = 2/11
  EXPECT_NEAR(value(), 1 - 0.1 * 2 / 11, 1e-6);
  average.after_update();  // d = min(0.2, 3/12)
  EXPECT_NEAR(value(), 1 - 0.1 * 2 / 11 * 0.2, 1e-6);
  fill(weight, 5);
  average.frozen();
  EXPECT_EQ(value(), 5);
  fill(weight, 6);
  average.after_update();
  EXPECT_NEAR(value(), 5.9, 1e-6);
}

TEST(WeightAverage, ItsStateContinues) {
  const Session session = make_session();
  const at::Tensor weight = session.state().at("conv1.weight");
  fill(weight, 0);
  WeightAverage first(session, {});
  fill(weight, 1);
  first.after_update();
  WeightAverage second(session, {});
  io::TensorMap copy;
  for (const auto& [name, tensor] : first.state()) copy[name] = tensor.clone();
  second.load_state(copy, "test");
  first.after_update();
  second.after_update();
  for (const auto& [name, tensor] : first.state()) EXPECT_TRUE(at::equal(tensor, second.state().at(name))) << name;
  copy.erase("updates");
  EXPECT_THROW(second.load_state(copy, "test"), CheckpointError);
}

TEST(EarlyStopping, CountsEpochsWithoutImprovement) {
  EarlyStopping stopping({.metric = "top1", .patience = 2, .min_delta = 0.01});
  const auto epoch = [&](int64_t top1) {
    Evaluation result;
    result.samples = 1000;
    result.top1 = top1;
    stopping.after_evaluation(result);
    return stopping.wants_stop();
  };
  EXPECT_FALSE(epoch(500));
  EXPECT_FALSE(epoch(509));  // not enough
  EXPECT_FALSE(epoch(511));
  EXPECT_FALSE(epoch(100));
  stopping.after_evaluation(std::nullopt);
  EXPECT_FALSE(stopping.wants_stop());
  EXPECT_TRUE(epoch(512));
}

class DistillationTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = testing::TempDir() + "/qat_distillation_" + info->name();
    std::filesystem::remove_all(folder_);
    make_directories(folder_ + "/checkpoints");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
};

TEST_F(DistillationTest, TheLossIsHintons) {
  Session session = make_session();
  Distillation distillation(session, {.temperature = 3, .weight = 0.3}, RunFolder(folder_), 0, false, true);
  session.model.module->eval();
  const at::Tensor images = at::randn({5, 1, 28, 28}), logits = at::randn({5, 4}) * 2;
  const at::NoGradGuard no_grad;
  const at::Tensor teacher = session.model.forward(images);
  const auto softmax = [](const at::Tensor& row, double t) {
    std::vector<double> p(4);
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += p[i] = std::exp(row[i].item<double>() / t);
    for (double& value : p) value /= sum;
    return p;
  };
  double divergence = 0;
  for (int n = 0; n < 5; ++n) {
    const auto p = softmax(teacher[n], 3), q = softmax(logits[n], 3);
    for (int i = 0; i < 4; ++i) divergence += p[i] * std::log(p[i] / q[i]) / 5;
  }
  const double loss = distillation.loss(images, logits, at::full({}, 2.0)).item<double>();
  EXPECT_NEAR(loss, 0.7 * 2 + 0.3 * 9 * divergence, 1e-5);
}

TEST_F(DistillationTest, FeaturesAreDrawnToTheTeachers) {
  Session session = make_session();
  Distillation distillation(session, {.weight = 0, .features = {"layer1.*.conv2", "conv1"}, .feature_weight = 0.5},
                            RunFolder(folder_), 2, true, true);
  // The teacher keeps the weights of the start.
  const at::Tensor images = at::randn({3, 1, 28, 28});
  const at::NoGradGuard no_grad;
  session.net->eval();
  std::map<std::string, at::Tensor> before, after;
  session.net->forward(images,
                       [&](const nn::QLayer& layer, const nn::Value& v) { before[layer.label()] = nn::to_float(v); });
  for (const auto& [name, tensor] : session.parameters()) at::Tensor(tensor).mul_(1.25);
  const auto tap = distillation.tap();
  const at::Tensor logits = session.net->forward(images, [&](const nn::QLayer& layer, const nn::Value& v) {
    after[layer.label()] = nn::to_float(v);
    tap(layer, v);
  });
  double expected = 0;
  int layers = 0;
  for (const auto& [name, tensor] : before) {
    if (name != "conv1" && !(name.starts_with("layer1.") && name.ends_with(".conv2"))) continue;
    expected += (tensor - after.at(name)).pow(2).mean().item<double>();
    ++layers;
  }
  EXPECT_EQ(layers, 4);
  EXPECT_GT(expected, 0);
  const double loss = distillation.loss(images, logits, at::full({}, 2.0)).item<double>();
  EXPECT_NEAR(loss, 2 + 0.5 * expected / layers, 1e-4 * loss);
  // A resumed stage has the same teacher, whatever the network has become.
  Distillation resumed(session, {.temperature = 1, .weight = 1}, RunFolder(folder_), 2, true, false);
  Distillation again(session, {.temperature = 1, .weight = 1}, RunFolder(folder_), 3, true, true);
  EXPECT_NE(resumed.loss(images, logits, at::full({}, 0.0)).item<float>(),
            again.loss(images, logits, at::full({}, 0.0)).item<float>());
}

TEST_F(DistillationTest, AnotherNetworkCanTeach) {
  Session session = make_session();
  const Session larger = make_session("name: resnet20, width: 8, num_classes: 4");
  const std::string file = folder_ + "/larger.safetensors";
  io::write_weights(file, io::state_of(*larger.model.module));
  const auto section = [&](const std::string& text) { return config::load_text(text, "t.yaml", {}).root(); };
  Distillation distillation(
      session,
      {.teacher = section("{name: resnet20, width: 8, num_classes: 4, in_channels: 1, weights: " + file + "}")},
      RunFolder(folder_), 0, false, true);
  const at::Tensor images = at::randn({2, 1, 28, 28});
  larger.model.module->eval();
  const at::NoGradGuard no_grad;
  // A student that says what the teacher says has nothing to learn from it.
  EXPECT_NEAR(distillation.loss(images, larger.model.forward(images), at::full({}, 1.0)).item<double>(), 0.5, 1e-6);
  const auto complaint = [&](const std::string& text, std::vector<std::string> features, bool quantized) {
    DistillationConfig config{.teacher = section(text), .features = std::move(features)};
    try {
      Distillation(session, config, RunFolder(folder_), 0, quantized, true);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_NE(complaint("{name: resnet20}", {}, true).find("a teacher needs `weights`"), std::string::npos);
  EXPECT_NE(complaint("flaot", {}, true).find("expected float or a model with weights"), std::string::npos);
  EXPECT_NE(complaint("float", {"conv9"}, true).find("'conv9' matches no layer"), std::string::npos);
  EXPECT_NE(complaint("float", {"conv1"}, false).find("finetune stages only"), std::string::npos);
}

TEST(NonFinite, TheFirstCauseIsNamed) {
  Session session = make_session();
  const at::Tensor images = at::randn({2, 1, 28, 28});
  EXPECT_EQ(find_non_finite(session, false, images), "all layers' outputs are finite, only the loss is not");
  const at::Tensor weight = session.state().at("layer2.0.conv1.weight");
  fill(weight, 1e38);
  EXPECT_EQ(find_non_finite(session, false, images), "the output of layer2.0.conv1 is the first that is not finite");
  fill(weight, NAN);
  EXPECT_EQ(find_non_finite(session, false, images), "layer2.0.conv1.weight is not finite");
}

}  // namespace
}  // namespace qat::trainers
