// What a training stage's options do, in whole runs.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/files.h"
#include "trainers/experiment.h"
#include "trainers/run.h"
#include "trainers/run_folder.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = R"(seed: 3
threads: 1
data:
  dataset: {name: synthetic, train_samples: 120, eval_samples: 48}
  batch_size: 16
  workers: 1
  train: [horizontal_flip, {normalize: {mean: [0.5], std: [0.25]}}]
  eval: [{normalize: {mean: [0.5], std: [0.25]}}]
model: {name: lenet5, in_channels: 1}
quantization:
  weight: {quantizer: lsq}
  batch_norm: {freeze_at: {step: 3}}
  calibration: {batches: 2}
stages:
  - float: {epochs: 2, optimizer: {name: sgd, lr: 0.02}}
checkpoint: {every: 3}
)";

struct Killed {};

class StageOptions : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = testing::TempDir() + "/qat_stage_options_" + info->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_file_atomic(folder_ + "/small.yaml", kConfig);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainRequest request(const std::string& name, std::vector<std::string> overrides) const {
    TrainRequest r;
    r.config = folder_ + "/small.yaml";
    r.out = folder_ + "/" + name;
    r.overrides = std::move(overrides);
    return r;
  }

  RunCheckpoint checkpoint(const std::string& run, const std::string& name = "last") const {
    return read_checkpoint(folder_ + "/" + run + "/checkpoints/" + name + ".ckpt");
  }

  template <class E>
  std::string error_of(const TrainRequest& r) const {
    try {
      train(r);
    } catch (const E& error) {
      return error.what();
    }
    return "not the expected error";
  }

  std::string folder_;
};

const std::vector<std::string> kBatchNorms{"bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var",
                                           "bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var"};

TEST_F(StageOptions, FrozenParametersAndTheirStatisticsStay) {
  train(request("start", {"stages[0].float.steps=1", "stages[0].float.optimizer.lr=0"}));
  train(request("run", {"model.weights=" + folder_ + "/start", "stages[0].float.freeze=['bn?.*', fc1.bias]"}));
  const RunCheckpoint start = checkpoint("start"), end = checkpoint("run");
  for (const std::string& name : kBatchNorms) {
    EXPECT_TRUE(at::equal(start.tensors.at(name), end.tensors.at(name))) << name;
  }
  EXPECT_TRUE(at::equal(start.tensors.at("fc1.bias"), end.tensors.at("fc1.bias")));
  EXPECT_FALSE(at::equal(start.tensors.at("fc1.weight"), end.tensors.at("fc1.weight")));
  EXPECT_FALSE(at::equal(start.tensors.at("conv1.weight"), end.tensors.at("conv1.weight")));
  EXPECT_EQ(error_of<ConfigError>(request("typo", {"stages[0].float.freeze=['fc3.*']"})),
            "freeze: 'fc3.*' matches no parameter");
}

TEST_F(StageOptions, AccumulatedStepsAreStepsOfLargerBatches) {
  // Without batch statistics a step of 4 batches of 4 is one of 16, and one of 2 batches, an epoch's end, one of 8.
  for (const auto& [samples, size] : {std::pair{112, 16}, {8, 8}}) {
    const std::string train_samples = fmt::format("data.dataset.train_samples={}", samples);
    const std::vector<std::string> frozen{"stages[0].float.freeze=['bn?.*']", train_samples};
    std::vector<std::string> whole = frozen, parts = frozen;
    whole.push_back(fmt::format("data.batch_size={}", size));
    parts.insert(parts.end(), {"data.batch_size=4", "stages[0].float.accumulate=4"});
    train(request(fmt::format("whole{}", samples), whole));
    train(request(fmt::format("parts{}", samples), parts));
    const RunCheckpoint a = checkpoint(fmt::format("whole{}", samples)),
                        b = checkpoint(fmt::format("parts{}", samples));
    for (const auto& [name, tensor] : a.tensors) {
      if (!tensor.is_floating_point()) continue;
      const double scale = tensor.abs().max().item<double>();
      EXPECT_LE((tensor - b.tensors.at(name)).abs().max().item<double>(), 1e-4 * scale) << samples << name;
    }
  }
}

TEST_F(StageOptions, EarlyStoppingEndsTheStage) {
  // With a learning rate of 0 and no batch statistics nothing improves: the first epoch and two more.
  train(request("run", {"stages[0].float={epochs: 9, freeze: ['bn?.*'], optimizer: {name: sgd, lr: 0}, "
                        "early_stopping: {metric: loss, patience: 2}}"}));
  std::ifstream metrics(folder_ + "/run/metrics.jsonl");
  int epochs = 0;
  for (std::string line; std::getline(metrics, line);) epochs += nlohmann::json::parse(line).contains("epoch");
  EXPECT_EQ(epochs, 3);
  EXPECT_EQ(checkpoint("run").state.stage, 1);
}

TEST_F(StageOptions, TheBestEpochsAreKeptAndOneIsTheResult) {
  // The rate grows until the network is spoilt: the last epoch is not the best.
  train(request("run", {"stages[0].float={epochs: 5, result: best, optimizer: {name: sgd, lr: 0.3}, "
                        "schedule: {name: constant, warmup_epochs: 5, warmup_start: 0.03}}",
                        "checkpoint.keep_best=2"}));
  std::vector<std::pair<double, int64_t>> epochs;
  std::ifstream metrics(folder_ + "/run/metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    const auto entry = nlohmann::json::parse(line);
    if (entry.contains("epoch")) epochs.emplace_back(-entry["eval_top1"].get<double>(), entry["epoch"]);
  }
  ASSERT_EQ(epochs.size(), 5U);
  ASSERT_NE(std::min_element(epochs.begin(), epochs.end())->second, epochs.back().second);  // of equal ones the first
  std::sort(epochs.begin(), epochs.end());
  for (size_t i = 0; i < epochs.size(); ++i) {
    const std::string file = fmt::format("{}/run/checkpoints/best_stage0_epoch{}.ckpt", folder_, epochs[i].second);
    EXPECT_EQ(fs::exists(file), i < 2) << file;
  }
  const RunCheckpoint end = checkpoint("run"), best = checkpoint("run", "best");
  EXPECT_EQ(read_file(fmt::format("{}/run/checkpoints/best_stage0_epoch{}.ckpt", folder_, epochs[0].second)),
            read_file(folder_ + "/run/checkpoints/best.ckpt"));
  for (const auto& [name, tensor] : best.tensors) EXPECT_TRUE(at::equal(tensor, end.tensors.at(name))) << name;
  EXPECT_EQ(end.state.rows.at(0).top1, -epochs[0].first);
}

TEST_F(StageOptions, AutocastTrainsInBfloat16) {
  train(request("float", {}));
  train(request("half", {"stages[0].float.autocast=bfloat16"}));
  const at::Tensor a = checkpoint("float").tensors.at("conv1.weight"),
                   b = checkpoint("half").tensors.at("conv1.weight");
  EXPECT_EQ(b.scalar_type(), at::kFloat);
  const double difference = ((a - b).norm() / a.norm()).item<double>();
  EXPECT_GT(difference, 1e-6);
  EXPECT_LT(difference, 0.05);
}

TEST_F(StageOptions, AKilledRunWithEverythingContinuesToTheSameBytes) {
  const std::vector<std::string> options{
      "stages=[{float: {epochs: 2, accumulate: 3, autocast: bfloat16, freeze: ['bn1.*'], ema: {decay: 0.5}, "
      "label_smoothing: 0.1, mixup_alpha: 0.3, optimizer: {name: adamw, lr: 0.002}}}, calibrate, "
      "{finetune: {epochs: 3, accumulate: 2, clip_grad_norm: 1, ema: {decay: 0.8, every: 2}, result: best, "
      "early_stopping: {patience: 2}, distillation: {features: ['conv?', fc1]}, optimizer: {name: sgd, lr: 0.002}}}, "
      "{export: [{format: safetensors}]}, verify]",
      "checkpoint={every: 2, keep_best: 2}"};
  const auto promised = [&](const std::string& run) {
    std::map<std::string, uint64_t> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ + "/" + run)) {
      const std::string name = fs::relative(entry.path(), folder_ + "/" + run);
      if (!entry.is_regular_file() || name == "log.txt" || name.find("previous") != std::string::npos) continue;
      if (name.starts_with("events") || name == "timings.json") continue;  // hold times
      files[name] = hash_string(read_file(entry.path()));
    }
    return files;
  };
  EXPECT_EQ(train(request("whole", options)).mismatches, 0);
  TrainRequest part = request("parts", options);
  part.resume = true;
  for (const std::pair<int64_t, int64_t>& kill :
       {std::pair<int64_t, int64_t>{0, 1}, {0, 3}, {0, 6}, {2, 1}, {2, 4}, {2, 5}, {2, 8}}) {
    part.on_step = [&](int64_t stage, int64_t step) {
      if (stage == kill.first && step == kill.second) throw Killed();
    };
    EXPECT_THROW(train(part), Killed) << kill.first << " " << kill.second;
  }
  part.on_step = nullptr;
  train(part);
  EXPECT_EQ(promised("parts"), promised("whole"));
}

}  // namespace
}  // namespace qat::trainers
