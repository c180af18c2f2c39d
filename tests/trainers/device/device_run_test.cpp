// Whole runs with device: cuda, by the GPU that device_training_test.cpp chooses.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/text.h"
#include "trainers/gpu_library.h"
#include "trainers/run.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// Learned scales of weights and ranges that follow, a freeze in the middle of an epoch, mixed labels, and checkpoints
/// out of step with the epochs. Width 8: LibTorch 2.11's oneDNN overruns memory in gradients of 1x1 weights with fewer
/// input channels where there is AVX2 only.
constexpr const char* kConfig = R"(seed: 3
threads: 1
device: cuda
data:
  dataset: {name: synthetic, num_classes: 4, height: 8, width: 8, train_samples: 52, eval_samples: 16}
  batch_size: 8
  train: [horizontal_flip, {normalize: {mean: [0.5], std: [0.25]}}]
  eval: [{normalize: {mean: [0.5], std: [0.25]}}]
model: {name: resnet20, width: 8, in_channels: 1, num_classes: 4}
quantization:
  weight: {quantizer: lsq, bits: 4}
  batch_norm: {freeze_at: {step: 4}}
  calibration: {batches: 2}
stages:
  - float: {epochs: 1, optimizer: {name: sgd, lr: 0.02}}
  - calibrate
  - finetune:
      epochs: 2
      steps: 8
      label_smoothing: 0.1
      mixup_alpha: 0.2
      optimizer: {name: sgd, lr: 0.01, nesterov: true, weight_decay: 0.0001}
  - export: [{format: safetensors}]
  - verify
checkpoint: {every: 3}
)";

const std::string kWayOut = "set device to cpu; a run that began on a GPU takes that with --allow device";

struct Killed {};

class DeviceRun : public testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    ASSERT_GT(count_gpus(&reason), 0) << reason;
    folder_ = testing::TempDir() + "/qat_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_file_atomic(folder_ + "/run.yaml", kConfig);
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  TrainRequest request(const std::string& name, std::vector<std::string> overrides = {}) const {
    TrainRequest r;
    r.config = folder_ + "/run.yaml";
    r.out = folder_ + "/" + name;
    r.overrides = std::move(overrides);
    return r;
  }

  std::string complaint(const std::vector<std::string>& overrides) const {
    try {
      train(request("refused", overrides));
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  std::map<std::string, uint64_t> promised(const std::string& name) const {
    std::map<std::string, uint64_t> digests;
    for (const char* file : {"metrics.jsonl", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
                             "export/model.safetensors", "config.yaml"}) {
      digests[file] = hash_string(read_file(folder_ + "/" + name + "/" + file));
    }
    return digests;
  }

  std::vector<Json> epochs(const std::string& name) const {
    std::vector<Json> found;
    std::ifstream metrics(folder_ + "/" + name + "/metrics.jsonl");
    for (std::string line; std::getline(metrics, line);) {
      Json entry = Json::parse(line);
      if (entry.contains("train_loss")) found.push_back(std::move(entry));
    }
    return found;
  }

  std::string folder_;
};

TEST_F(DeviceRun, TrainsAsTheCpuDoesAndExportsItsIntegers) {
  // Trained so far that few images are near the decision, and no random labels.
  const std::vector<std::string> learned = {"stages[0].float.epochs=12", "stages[0].float.optimizer.lr=0.1",
                                            "stages[2].finetune.mixup_alpha=0"};
  std::vector<std::string> on_cpu = learned;
  on_cpu.emplace_back("device=cpu");
  const TrainSummary gpu = train(request("gpu", learned)), cpu = train(request("cpu", on_cpu));
  EXPECT_EQ(gpu.mismatches, 0);
  EXPECT_EQ(gpu.compared, cpu.compared);
  EXPECT_GT(gpu.compared, 1000);
  const std::vector<Json> there = epochs("gpu"), here = epochs("cpu");
  ASSERT_EQ(there.size(), 14U);
  ASSERT_EQ(here.size(), 14U);
  EXPECT_EQ(there[11], here[11]);  // in float
  for (size_t i = 12; i < 14; ++i) {
    // 48 samples an epoch: one of them on the other side is chance, the loss is close.
    EXPECT_GT(here[i]["train_top1"].get<double>(), 0.7);
    EXPECT_NEAR(there[i]["train_loss"].get<double>(), here[i]["train_loss"].get<double>(), 0.02) << i;
    EXPECT_NEAR(there[i]["train_top1"].get<double>(), here[i]["train_top1"].get<double>(), 0.04) << i;
    EXPECT_NEAR(there[i]["eval_loss"].get<double>(), here[i]["eval_loss"].get<double>(), 0.05) << i;
  }
}

TEST_F(DeviceRun, AKilledRunContinuesToTheSameBytes) {
  const std::vector<std::string> small = {"data.batch_size=4", "data.dataset.train_samples=26",
                                          "quantization.weight={quantizer: minmax, bits: 8}",
                                          "quantization.activation={quantizer: lsq, bits: 8}"};
  train(request("whole", small));
  TrainRequest part = request("parts", small);
  part.resume = true;
  // Before and behind checkpoints, live and frozen; and stopped at an epoch's end, whose evaluation then follows
  // without a step before it.
  const auto kill_at = [&](int64_t at) {
    part.on_step = [at](int64_t stage, int64_t step) {
      if (stage == 2 && step == at) throw Killed();
    };
    EXPECT_THROW(train(part), Killed) << at;
  };
  kill_at(2);
  kill_at(5);
  std::atomic<bool> stop{false};
  part.stop = &stop;
  part.on_step = [&](int64_t stage, int64_t step) { stop = stage == 2 && step == 6; };
  EXPECT_THROW(train(part), Interrupted);
  part.stop = nullptr;
  kill_at(8);
  part.on_step = nullptr;
  train(part);
  EXPECT_EQ(promised("parts"), promised("whole"));
}

TEST_F(DeviceRun, SaysWhatTrainsOnTheCpuOnly) {
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"stages[2].finetune.accumulate=2",
       "device: accumulate trains on the CPU only: set it to 1 and choose a larger batch; " + kWayOut},
      {"stages[2].finetune.ema={decay: 0.9}", "device: ema trains on the CPU only: leave it out; " + kWayOut},
      {"quantization.weight={quantizer: tqt}",
       "device: conv1 (conv2d) trains on the CPU only: the tqt quantizer of its weight, with its options and observer, "
       "has no form for a GPU; " +
           kWayOut},
      {"stages[2].finetune.optimizer={name: lamb}",
       "device: the optimizer lamb runs on the CPU only: choose sgd, adam or adamw; " + kWayOut},
  };
  for (const auto& [change, expected] : refused) {
    fs::remove_all(folder_ + "/refused");
    EXPECT_EQ(complaint({change}), expected);
    EXPECT_FALSE(fs::exists(folder_ + "/refused")) << "found out only when training had begun";
  }
}

TEST_F(DeviceRun, AutoTakesTheGpuWhereTheNetworkTrainsThere) {
  const std::vector<std::string> one_step = {"stages[2].finetune.steps=1", "device=auto"};
  train(request("auto", one_step));
  EXPECT_NE(read_file(folder_ + "/auto/config.yaml").find("\ndevice: cuda\n"), std::string::npos);
  std::vector<std::string> refused = one_step;
  refused.emplace_back("stages[2].finetune.accumulate=2");
  train(request("refused", refused));
  EXPECT_NE(read_file(folder_ + "/refused/config.yaml").find("\ndevice: cpu\n"), std::string::npos);
  EXPECT_NE(
      read_file(folder_ + "/refused/log.txt").find("the run takes the CPU: device: accumulate trains on the CPU only"),
      std::string::npos);
}

TEST_F(DeviceRun, ADivergedRunEndsWithTheLastGoodCheckpoint) {
  const std::string message = complaint({"stages[2].finetune.optimizer.lr=1e30"});
  EXPECT_NE(message.find("training diverged"), std::string::npos) << message;
  EXPECT_NE(message.find("--resume"), std::string::npos) << message;
  EXPECT_TRUE(fs::exists(folder_ + "/refused/checkpoints/last.ckpt"));
}

}  // namespace
}  // namespace qat::trainers
