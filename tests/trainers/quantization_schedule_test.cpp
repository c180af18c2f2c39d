// The `quantization.schedule:` section in runs: where quantization starts, widths, and a resume at every step.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/files.h"
#include "trainers/commands.h"
#include "trainers/run.h"
#include "trainers/run_folder.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Width 8: LibTorch 2.11's oneDNN overruns memory in gradients of 1x1 weights with fewer input channels where there is
/// AVX2 only.
constexpr const char* kConfig = R"(seed: 4
threads: 1
data:
  dataset: {name: synthetic, height: 12, width: 12, train_samples: 64, eval_samples: 32}
  batch_size: 16
  workers: 0
  train: [horizontal_flip, {normalize: {mean: [0.5], std: [0.25]}}]
  eval: [{normalize: {mean: [0.5], std: [0.25]}}]
model: {name: resnet20, in_channels: 1, width: 8}
quantization:
  weight: {quantizer: lsq, bits: 3}
  activation: {quantizer: minmax, bits: 4}
  batch_norm: {freeze_at: {step: 9}}
  calibration: {batches: 2}
  schedule:
    start_at: {step: 2}
    observe_every: 2
    bits: [{until: {step: 4}, weight: 8, activation: 8}, {until: {step: 6}, weight: 4}]
    noise_probability: 0.8
    dampening: {final: 0.01}
    weight_freezing: {initial: 0.3, final: 0.1, momentum: 0.2}
stages:
  - float: {steps: 2, optimizer: {name: sgd, lr: 0.05}}
  - calibrate
  - finetune: {epochs: 3, optimizer: {name: sgd, lr: 0.05, momentum: 0.9}}
  - export: [{format: safetensors}]
  - verify
checkpoint: {every: 1}
)";

struct Killed {};

class QuantizationSchedule : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/qat_schedule_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_file_atomic(folder_ + "/small.yaml", kConfig);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainRequest request(const std::string& name, std::vector<std::string> overrides = {}) const {
    TrainRequest r;
    r.config = folder_ + "/small.yaml";
    r.out = folder_ + "/" + name;
    r.resume = true;
    r.overrides = std::move(overrides);
    return r;
  }
  std::string bytes(const std::string& name, const std::string& file) const {
    return read_file(folder_ + "/" + name + "/" + file);
  }
  RunCheckpoint stopped_at(const std::string& name, int64_t step, std::vector<std::string> overrides = {}) const {
    TrainRequest r = request(name, std::move(overrides));
    r.on_step = [step](int64_t stage, int64_t at) {
      if (stage == 2 && at == step + 1) throw Killed();  // after the checkpoint of `step`
    };
    EXPECT_THROW(train(r), Killed);
    return read_checkpoint(r.out + "/checkpoints/last.ckpt");
  }

  std::string folder_;
};

TEST_F(QuantizationSchedule, ARunKilledAtEveryStepGivesTheSameBytes) {
  const TrainSummary summary = train(request("whole"));
  EXPECT_EQ(summary.mismatches, 0);
  TrainRequest part = request("parts");
  for (int64_t kill = 1; kill <= 12; ++kill) {
    part.on_step = [kill](int64_t stage, int64_t step) {
      if (stage == 2 && step == kill) throw Killed();
    };
    EXPECT_THROW(train(part), Killed) << kill;
  }
  part.on_step = nullptr;
  train(part);
  for (const char* file :
       {"metrics.jsonl", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "export/model.safetensors"}) {
    EXPECT_TRUE(bytes("parts", file) == bytes("whole", file)) << file;
  }
  const Json report = eval_report(folder_ + "/whole", "best", "");
  EXPECT_EQ(report["runtime"], "simulated") << "the best of the network with its final widths";
}

TEST_F(QuantizationSchedule, WidthsChangeAndTheOptimizerGoesOn) {
  const auto state = [&](int64_t step) { return stopped_at(fmt::format("at{}", step), step).state; };
  EXPECT_EQ(state(1).phase, "float");
  for (const auto& [step, weight, activation] : {std::tuple{3, 8, 8}, {5, 4, 0}, {7, 0, 0}}) {
    const RunCheckpoint c = stopped_at(fmt::format("w{}", step), step);
    EXPECT_EQ(c.state.weight_bits, weight);
    EXPECT_EQ(c.state.activation_bits, activation);
    EXPECT_EQ(c.state.phase, "live");
    EXPECT_EQ(c.optimizer.count("conv1.weight.momentum_buffer") + c.optimizer.count("conv1.weight.momentum"), 1U);
    // Codes of the export follow from the width: an interrupted run evaluates with the width of its checkpoint.
    EXPECT_NO_THROW(eval_report(folder_ + fmt::format("/w{}", step), "last", "simulated"));
  }
}

// Before the start a finetune stage is a float stage: the same parameters as one with the same numbers of steps, and
// evaluation is the float network's.
TEST_F(QuantizationSchedule, UntilTheStartTrainingIsFloat) {
  const std::vector<std::string> plain{"quantization.schedule={start_at: {step: 8}}", "data.train=[]", "data.eval=[]"};
  const RunCheckpoint quantized = stopped_at("quantized", 7, plain);
  EXPECT_EQ(quantized.state.phase, "float");
  EXPECT_EQ(eval_report(folder_ + "/quantized", "last", "")["runtime"], "float");
  // The third stage of another run: float again, so that its data and its seed are the same.
  const std::string sgd = "{name: sgd, lr: 0.05, momentum: 0.9}";
  const std::vector<std::string> floats{
      "quantization=null", "data.train=[]", "data.eval=[]",
      "stages=[{float: {steps: 2, optimizer: {name: sgd, lr: 0.05}}}, {float: {steps: 1, optimizer: {name: sgd, lr: "
      "0}}}, {float: {epochs: 3, optimizer: " +
          sgd + "}}]"};
  const RunCheckpoint reference = stopped_at("floats", 7, floats);
  int64_t compared = 0;
  for (const auto& [name, tensor] : reference.tensors) {
    if (name.find("running") != std::string::npos || name.find("num_batches") != std::string::npos) continue;
    EXPECT_TRUE(at::allclose(quantized.tensors.at(name), tensor, 1e-4, 1e-5)) << name;
    ++compared;
  }
  EXPECT_GT(compared, 20);
}

TEST_F(QuantizationSchedule, ImpossibleOrdersAreRefused) {
  const auto error_of = [&](const std::string& schedule) {
    try {
      train(request("refused", {"quantization.schedule=" + schedule}));
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("no ConfigError");
  };
  EXPECT_NE(error_of("{start_at: {step: 10}}").find("expected a step before batch_norm.freeze_at"), std::string::npos);
  fs::remove_all(folder_ + "/refused");
  EXPECT_NE(error_of("{bits: [{until: {step: 6}, weight: 8}, {until: {step: 5}, weight: 6}]}").find("in order"),
            std::string::npos);
  fs::remove_all(folder_ + "/refused");
  EXPECT_NE(error_of("{bits: [{until: never}]}").find("0% to 100%"), std::string::npos);
  EXPECT_NE(error_of("{bits: [{weight: 8}]}").find("until"), std::string::npos);
}

}  // namespace
}  // namespace qat::trainers
