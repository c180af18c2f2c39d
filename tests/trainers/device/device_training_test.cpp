// A GPU's training steps against the CPU's. The emulated one runs them (tests/ops/cuda/emulated), or a real one with
// QAT_CUDA_LIBRARY=build/dev/lib/libqat_cuda.so.
#include "trainers/device_training.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/relu.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/nn/weighted.h"
#include "models/plugin.h"
#include "trainers/experiment.h"
#include "trainers/gpu_library.h"
#include "trainers/optimizer.h"

namespace qat::trainers {
namespace {

constexpr double kRate = 0.02;

struct Case {
  std::string model = "resnet20, width: 4";
  std::string weight = "quantizer: minmax, bits: 8";
  std::string activation = "quantizer: minmax, bits: 8";
  std::string quantization;  // more keys
  std::string optimizer = "name: sgd, momentum: 0.9, weight_decay: 0.0005, nesterov: true";
  std::string stage;  // more keys
  std::string data = "channels: 3, height: 16, width: 16";
  bool frozen = false;
  bool without_dropout = false;  // whose random numbers are the CPU's and the GPU's own
};

Experiment experiment_of(const Case& c) {
  const std::string text =
      "threads: 1\n"
      "data: {dataset: {name: synthetic, num_classes: 4, train_samples: 32, eval_samples: 8, " +
      c.data + "}, batch_size: 4}\nmodel: {num_classes: 4, name: " + c.model + "}\nquantization: {weight: {" +
      c.weight + "}, activation: {" + c.activation + "}, calibration: {batches: 2}" + c.quantization +
      "}\nstages:\n  - calibrate\n  - finetune: {optimizer: {lr: " + std::to_string(kRate) + ", " + c.optimizer + "}" +
      c.stage + "}\n";
  return make_experiment(config::load_text(text, "device.yaml", {}).root());
}

/// A network in the phase to train, its optimizer and its batches; two of them are equal.
struct Side {
  explicit Side(const Case& c) : session(experiment_of(c)), stage(session.experiment.parsed_stages()[1].train) {
    loader = std::make_unique<datasets::Loader>(session.data.train, session.transforms.train,
                                                datasets::train_options(session.experiment.data, session.data, 3));
    if (c.without_dropout) {
      for (graph::Node& node : session.graph.nodes) node.dropout = 0;
      session.requantize(0, 0);
    }
    vary_batch_norms();
    graph::GraphModule& net = *session.net;
    if (session.experiment.quantization->batch_norm.mode == "folded") net.merge_batch_norm();
    net.eval();
    net.set_phase(nn::Phase::kCalibrate);
    {
      const at::NoGradGuard no_grad;
      for (const datasets::Batch& batch : batches(2)) net.forward(to_tensors(batch, loader->shape()).images);
    }
    net.initialize_quantizers();
    net.set_phase(c.frozen ? nn::Phase::kFrozen : nn::Phase::kLive);
    net.train();
    std::vector<NamedParameter> parameters;
    for (auto& [name, tensor] : session.parameters()) parameters.push_back({name, tensor});
    const config::Node& options = stage.optimizer;
    optimizer = optimizers().get(options.at("name").text()).make(options.without("name"), std::move(parameters));
  }

  /// Those of a new network are all alike: no factor of theirs could be missed. Some gammas are negative.
  void vary_batch_norms() const {
    const at::NoGradGuard no_grad;
    at::manual_seed(11);
    const io::TensorMap state = session.state();
    for (const auto& [name, variance] : state) {
      const std::string kind = ".running_var";
      if (!name.ends_with(kind)) continue;
      const std::string module = name.substr(0, name.size() - kind.size());
      at::Tensor var = variance, mean = state.at(module + ".running_mean"), gamma = state.at(module + ".weight"),
                 beta = state.at(module + ".bias");
      var.uniform_(0.5, 1.5), mean.normal_(0, 0.1), gamma.uniform_(0.5, 1.5), beta.normal_(0.1, 0.2);
      gamma.slice(0, 0, std::nullopt, 5).neg_();
    }
  }

  std::vector<datasets::Batch> batches(size_t count) const {
    std::vector<datasets::Batch> result(count);
    loader->start_epoch(0);
    for (datasets::Batch& batch : result) EXPECT_TRUE(loader->next(batch));
    return result;
  }

  /// A step on the CPU; returns its loss.
  double step(const datasets::Batch& batch, const datasets::Mixture& mixture = {}) const {
    optimizer->zero_grad();
    const TensorBatch tensors = to_tensors(batch, loader->shape());
    const at::Tensor logits = session.net->forward(tensors.images);
    const auto cross_entropy = [&](const std::vector<int64_t>& labels) {
      const at::Tensor targets = tensors.labels.clone();
      std::copy(labels.begin(), labels.end(), targets.mutable_data_ptr<int64_t>());
      return at::cross_entropy_loss(logits, targets, {}, at::Reduction::Mean, -100, stage.label_smoothing);
    };
    at::Tensor loss = cross_entropy(batch.labels);
    if (!mixture.others.empty()) {
      loss = loss * mixture.share + cross_entropy(mixture.others) * (1 - mixture.share);
    }
    loss.backward();
    if (stage.clip_grad_value) optimizer->clip_grad_value(*stage.clip_grad_value);
    if (stage.clip_grad_norm) optimizer->clip_grad_norm(*stage.clip_grad_norm);
    optimizer->step(1.0);
    session.net->project();
    return loss.item<double>();
  }

  Session session;
  TrainStage stage;
  std::unique_ptr<datasets::Loader> loader;
  std::unique_ptr<Optimizer> optimizer;
};

bool is_parameter(const Session& session, const std::string& name) {
  for (const auto& [parameter, tensor] : session.parameters()) {
    if (parameter == name) return true;
  }
  return false;
}

class DeviceTrainingTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    ASSERT_GT(count_gpus(&reason), 0) << reason;
  }

  /// Where a GPU's step is not the CPU's, "" where it is: what no gradient reaches must be equal in every bit, updates
  /// of parameters within `tolerance` of their norm.
  static std::string difference_of_a_step(const Case& c, double tolerance = 2e-4, const datasets::Mixture& mixture = {},
                                          std::optional<double> of_moments = std::nullopt) {
    const Side cpu(c), gpu(c);
    const datasets::Batch batch = cpu.batches(1)[0];
    io::TensorMap before;
    for (const auto& [name, tensor] : cpu.session.state()) before.emplace(name, tensor.clone());

    DeviceTraining device(gpu.session, *gpu.optimizer, gpu.stage);
    device.step(batch, mixture, 1.0, 7);
    const device::Totals totals = device.totals();
    device.download();
    const double loss = cpu.step(batch, mixture);

    std::string found;
    const auto check = [&](bool holds, const std::string& what) {
      if (!holds) found += what + "; ";
    };
    const auto norm = [](const at::Tensor& t) { return t.to(at::kDouble).norm().item<double>(); };
    check(!totals.failed, "the step failed");
    check(totals.samples == batch.size, fmt::format("{} samples were counted", totals.samples));
    const double mean = totals.loss / static_cast<double>(totals.samples);
    check(std::abs(mean - loss) <= 1e-5 * std::abs(loss), fmt::format("loss {} instead of {}", mean, loss));
    const io::TensorMap here = cpu.session.state(), there = gpu.session.state();
    int64_t moved = 0;
    for (const auto& [name, tensor] : here) {
      if (!is_parameter(cpu.session, name)) {
        check(at::equal(there.at(name), tensor), name + " is not equal");
        continue;
      }
      const double update = norm(tensor - before.at(name));
      if (update > 0) ++moved;
      // Of the update, or of the parameter's last digits and of terms that cancel where that is smaller than they are.
      const double bound = tolerance * update + 1e-7 * norm(tensor) + 2e-5 * kRate;
      const double wrong = norm(there.at(name) - tensor);
      check(wrong <= bound, fmt::format("{} is off by {}, allowed are {}", name, wrong, bound));
    }
    check(moved >= 8, fmt::format("only {} parameters moved", moved));
    const io::TensorMap optimizer_here = cpu.optimizer->state(), optimizer_there = gpu.optimizer->state();
    check(optimizer_here.size() == optimizer_there.size(), "the optimizer remembers other things");
    double largest = 0;
    for (const auto& [name, tensor] : optimizer_here) {
      if (tensor.dim() > 0) largest = std::max(largest, norm(tensor));
    }
    for (const auto& [name, tensor] : optimizer_here) {
      if (tensor.dim() == 0) continue;
      // Where terms cancel, the last digits of the larger ones stay.
      const double bound = of_moments.value_or(4 * tolerance) * norm(tensor) + (of_moments ? 1e-9 : 1e-6) * largest;
      const double wrong = norm(optimizer_there.at(name) - tensor);
      check(wrong <= bound, fmt::format("{} is off by {}, allowed are {}", name, wrong, bound));
    }
    return found;
  }
};

TEST_F(DeviceTrainingTest, LiveMinMax) { EXPECT_EQ(difference_of_a_step({}), ""); }

TEST_F(DeviceTrainingTest, LiveLsq) {
  EXPECT_EQ(difference_of_a_step(
                {.weight = "quantizer: lsq, bits: 4", .activation = "quantizer: lsq, bits: 4", .quantization = ""}),
            "");
}

TEST_F(DeviceTrainingTest, FrozenMinMax) { EXPECT_EQ(difference_of_a_step({.frozen = true}), ""); }

TEST_F(DeviceTrainingTest, FrozenLsq) {
  EXPECT_EQ(difference_of_a_step(
                {.weight = "quantizer: lsq, bits: 4", .activation = "quantizer: lsq, bits: 4", .frozen = true}),
            "");
}

TEST_F(DeviceTrainingTest, OneScaleATensor) {
  EXPECT_EQ(difference_of_a_step({.weight = "quantizer: lsq, bits: 4, granularity: tensor"}), "");
  EXPECT_EQ(difference_of_a_step({.weight = "quantizer: minmax, bits: 8, granularity: tensor", .frozen = true}), "");
}

TEST_F(DeviceTrainingTest, EveryMemoryMode) {
  for (const char* memory : {"exact", "recompute"}) {
    SCOPED_TRACE(memory);
    EXPECT_EQ(difference_of_a_step({.quantization = std::string(", memory: ") + memory}), "");
  }
}

TEST_F(DeviceTrainingTest, BatchNormModes) {
  for (const char* mode : {"batch_corrected", "ema", "folded"}) {
    SCOPED_TRACE(mode);
    EXPECT_EQ(difference_of_a_step({.quantization = std::string(", batch_norm: {mode: ") + mode + "}"}), "");
  }
  // With biases of convolutions, which are merged too.
  EXPECT_EQ(difference_of_a_step({.model = "lenet5, in_channels: 1",
                                  .quantization = ", batch_norm: {mode: folded}",
                                  .data = "height: 28, width: 28"}),
            "");
}

TEST_F(DeviceTrainingTest, Optimizers) {
  EXPECT_EQ(difference_of_a_step({.optimizer = "name: sgd, momentum: 0"}), "");
  EXPECT_EQ(
      difference_of_a_step({.activation = "quantizer: lsq, bits: 8",
                            .optimizer = "name: sgd, momentum: 0.9, quantizer_lr: 0.001, vector_weight_decay: 0.01",
                            .stage = ", clip_grad_norm: 0.5"}),
      "");
  EXPECT_EQ(difference_of_a_step({.stage = ", clip_grad_value: 0.01, label_smoothing: 0.1"}), "");
}

TEST_F(DeviceTrainingTest, Adam) {
  // Where a gradient is near zero, adam's first update is its sign: the moments are compared, the parameters loosely.
  EXPECT_EQ(difference_of_a_step({.optimizer = "name: adamw, weight_decay: 0.01", .stage = ", clip_grad_norm: 1"}, 0.1,
                                 {}, 1e-3),
            "");
}

TEST_F(DeviceTrainingTest, SharedWeightsAreRefused) {
  const Side side({});
  auto& net = *side.session.net;
  nn::WeightedLayer *first = nullptr, *second = nullptr;
  for (const auto& step : net.steps()) {
    auto* layer = dynamic_cast<nn::WeightedLayer*>(step.layer.get());
    if (layer == nullptr) continue;
    (first == nullptr ? first : second) = layer;
    if (second != nullptr) break;
  }
  ASSERT_NE(second, nullptr);
  const_cast<nn::LayerTensors&>(second->tensors()).weight = first->tensors().weight;
  try {
    describe_for_device(net);
    FAIL() << "no ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("another layer has its weight or batch norm too"), std::string::npos)
        << error.what();
  }
}

/// Random numbers follow from the step's key.
TEST_F(DeviceTrainingTest, DropoutRepeatsItself) {
  const Case c{.model = "squeezenet1_1", .data = "channels: 3, height: 32, width: 32"};
  const auto loss = [&](uint64_t key) {
    const Side side(c);
    DeviceTraining device(side.session, *side.optimizer, side.stage);
    device.step(side.batches(1)[0], {}, 1.0, key);
    return device.totals().loss;
  };
  const double first = loss(1);
  EXPECT_EQ(loss(1), first);
  EXPECT_NE(loss(2), first);
}

TEST_F(DeviceTrainingTest, MixedLabels) {
  EXPECT_EQ(difference_of_a_step({.stage = ", label_smoothing: 0.1"}, 2e-4, {.share = 0.25f, .others = {3, 1, 0, 2}}),
            "");
}

/// Depthwise convolutions and a stem of three channels.
TEST_F(DeviceTrainingTest, MobileNet) {
  for (const char* quantizer : {"minmax, bits: 8", "lsq, bits: 4"}) {
    const std::string options = std::string("quantizer: ") + quantizer;
    EXPECT_EQ(difference_of_a_step({.model = "mobilenet_v1, width: 0.1, small_images: true",
                                    .weight = options,
                                    .activation = options,
                                    .without_dropout = true},
                                   5e-4),
              "");
  }
}

/// A sum whose second operand is read by another layer, between the maker of the first operand and the sum: backward
/// that layer adds to the second operand's gradient before the first one's is read.
class Crossing : public torch::nn::Module {
 public:
  explicit Crossing(const models::ClassifierOptions& options) {
    for (int i = 0; i < 4; ++i) {
      const int64_t from = i == 0 ? options.in_channels : 8;
      convs_.push_back(register_module(fmt::format("conv{}", i),
                                       torch::nn::Conv2d(torch::nn::Conv2dOptions(from, 8, 3).padding(1).bias(false))));
      norms_.push_back(register_module(fmt::format("bn{}", i), torch::nn::BatchNorm2d(8)));
    }
    fc_ = register_module("fc", torch::nn::Linear(8, options.num_classes));
  }
  at::Tensor forward(at::Tensor x) {
    x = at::relu(block(0, x));
    const at::Tensor first = block(1, x), second = block(2, x), third = at::relu(block(3, second));
    return fc_(at::adaptive_avg_pool2d(at::relu(first + second) + third, {1, 1}).flatten(1));
  }

 private:
  at::Tensor block(size_t i, const at::Tensor& x) { return norms_[i](convs_[i](x)); }
  std::vector<torch::nn::Conv2d> convs_;
  std::vector<torch::nn::BatchNorm2d> norms_;
  torch::nn::Linear fc_{nullptr};
};

TEST_F(DeviceTrainingTest, SumsOfWhatOthersRead) {
  models::add_network<Crossing>("crossing", "for this test");
  EXPECT_EQ(difference_of_a_step({.model = "crossing"}), "");
}

/// Max pools, flattened maps, linear layers with codes behind them.
TEST_F(DeviceTrainingTest, LeNet) {
  EXPECT_EQ(difference_of_a_step({.model = "lenet5, in_channels: 1", .data = "height: 28, width: 28"}), "");
  EXPECT_EQ(difference_of_a_step({.model = "lenet5, in_channels: 1",
                                  .activation = "quantizer: lsq, bits: 4",
                                  .data = "height: 28, width: 28",
                                  .frozen = true}),
            "");
}

/// Squeeze and excitation, hardswish and hardsigmoid.
TEST_F(DeviceTrainingTest, MobileNetV3) {
  for (const char* quantizer : {"minmax, bits: 8", "lsq, bits: 8"}) {
    const std::string options = std::string("quantizer: ") + quantizer;
    EXPECT_EQ(difference_of_a_step({.model = "mobilenet_v3_small",
                                    .weight = options,
                                    .activation = options,
                                    .data = "channels: 3, height: 32, width: 32",
                                    .without_dropout = true},
                                   5e-4),
              "");
  }
}

/// Concatenations, channels that are split and shuffled.
TEST_F(DeviceTrainingTest, ShuffleNet) {
  EXPECT_EQ(difference_of_a_step({.model = "shufflenet_v2_x0_5", .data = "channels: 3, height: 32, width: 32"}, 5e-4),
            "");
}

/// Average pools that overlap, at a width of their own for what additions read.
TEST_F(DeviceTrainingTest, PoolsAndResiduals) {
  EXPECT_EQ(difference_of_a_step({.quantization = ", residual: {bits: 8}, logits: 8"}), "");
  for (const char* quantizer : {"minmax, bits: 8", "lsq, bits: 8"}) {
    EXPECT_EQ(difference_of_a_step({.model = "nin, in_channels: 3",
                                    .activation = std::string("quantizer: ") + quantizer,
                                    .data = "channels: 3, height: 8, width: 8",
                                    .without_dropout = true},
                                   5e-4),
              "");
  }
}

TEST_F(DeviceTrainingTest, Bfloat16IsClose) {
  EXPECT_EQ(difference_of_a_step({.stage = ", autocast: bfloat16"}, 5e-2), "");
}

}  // namespace
}  // namespace qat::trainers

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  setenv("QAT_CUDA_LIBRARY", QAT_EMULATED_CUDA_LIBRARY, 0);
  return RUN_ALL_TESTS();
}
