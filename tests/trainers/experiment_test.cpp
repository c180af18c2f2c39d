#include "trainers/experiment.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/base/error.h"

namespace qat::trainers {
namespace {

constexpr const char* kMinimal = R"(data:
  dataset: {name: synthetic}
model: {name: lenet5, in_channels: 1}
quantization: {}
stages:
  - float: {epochs: 3, optimizer: {name: sgd, lr: 0.05}}
  - calibrate
  - finetune: {schedule: {name: multistep, milestones: [1]}}
  - export: [{format: safetensors}]
  - verify
)";

Experiment load(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return make_experiment(config::load_text(text, "e.yaml", overrides).root());
}

std::string complaint(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    load(text, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError";
}

/// kMinimal with the one occurrence of `from` replaced.
std::string with(const std::string& from, const std::string& to) {
  std::string text = kMinimal;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Experiment, DefaultsAreFilledIn) {
  const Experiment e = load(kMinimal);
  EXPECT_EQ(e.seed, 0);
  EXPECT_EQ(e.device, "cpu");
  EXPECT_GE(e.threads, 1);
  EXPECT_EQ(e.checkpoint.every, 500);
  EXPECT_EQ(e.model_name(), "lenet5");
  EXPECT_EQ(model_options(e.model).keys(), std::vector<std::string>{"in_channels"});
  EXPECT_FALSE(e.weights());
  const std::vector<Stage> stages = e.parsed_stages();
  ASSERT_EQ(stages.size(), 5U);
  EXPECT_EQ(stages[0].kind, StageKind::kFloat);
  EXPECT_EQ(stages[0].train.epochs, 3);
  EXPECT_EQ(stages[0].train.optimizer.at("lr").as<double>(), 0.05);
  EXPECT_EQ(stages[0].train.optimizer.at("momentum").as<double>(), 0.9);
  EXPECT_EQ(stages[0].train.schedule.at("name").text(), "cosine");
  EXPECT_EQ(stages[2].train.schedule.at("gamma").as<double>(), 0.1);
  EXPECT_EQ(stages[3].exports.at(0).format, "safetensors");
  EXPECT_FALSE(stages[4].verify.samples);
}

TEST(Experiment, TheResolvedFileIsTheSameExperiment) {
  const Experiment e = load(kMinimal);
  const std::string resolved = config::dump(e);
  const Experiment again = load(resolved);
  EXPECT_EQ(config::dump(again), resolved);
  EXPECT_TRUE(differences(e, again).empty());
}

TEST(Experiment, EveryConfigParses) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(std::string(QAT_SOURCE_DIR) + "/configs")) {
    if (!entry.is_regular_file()) continue;
    EXPECT_NO_THROW(load_experiment(entry.path())) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 4);
}

TEST(Experiment, DifferencesThatChangeResultsAreNamed) {
  const Experiment e = load(kMinimal);
  const auto found = [&](const std::vector<std::string>& overrides) {
    std::vector<std::string> lines;
    for (const Difference& d : differences(e, load(kMinimal, overrides))) lines.push_back(d.key + ": " + d.values);
    return lines;
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(found({"data.workers=7", "threads=3", "checkpoint={every: 1, minutes: 2, keep_best: 3}"}), Lines{});
  EXPECT_EQ(found({"data.batch_size=64", "model.num_classes=12"}),
            (Lines{"data.batch_size: 128 in the run, 64 now", "model.num_classes: null in the run, 12 now"}));
  EXPECT_EQ(found({"stages[0].float.optimizer.lr=0.5", "stages[2].finetune.ema.decay=0.5"}),
            (Lines{"stages[0].float.optimizer.lr: 0.05 in the run, 0.5 now",
                   "stages[2].finetune.ema: null in the run, {decay: 0.5, every: 1, warmup: true} now"}));
  EXPECT_EQ(found({"stages=[{float: {epochs: 3}}]"}).at(0).substr(0, 7), "stages:");
}

TEST(Experiment, FreezePoint) {
  const auto step = [](const std::string& text) {
    return freeze_step(config::load_text(text, "f.yaml").root(), 1001, 100);
  };
  EXPECT_EQ(step("75%"), 750);  // 750.75, rounded down
  EXPECT_EQ(step("0%"), 0);
  EXPECT_EQ(step("100%"), 1001);
  EXPECT_EQ(step("{epoch: 3}"), 300);
  EXPECT_EQ(step("{epoch: 11}"), 1001);
  EXPECT_EQ(step("{step: 1000}"), 1000);
  EXPECT_EQ(step("{step: 5000}"), 1001);
  for (const char* wrong : {"75", "-1%", "101%", "x%", "{epoch: -1}", "{half: 1}", "[1]", "{epoch: 1, step: 1}"}) {
    EXPECT_THROW(step(wrong), ConfigError) << wrong;
  }
  EXPECT_EQ(complaint(with("quantization: {}", "quantization: {batch_norm: {freeze_at: 3 epochs}}")),
            "e.yaml:4:40: quantization.batch_norm.freeze_at: expected 0% to 100%, {epoch: N} or {step: N}, found "
            "'3 epochs'");
}

TEST(Experiment, MistakesAreNamedWithTheirPlace) {
  EXPECT_EQ(complaint(with("epochs: 3", "epoch: 3")),
            "e.yaml:6:13: stages[0].float.epoch: unknown key (did you mean 'epochs'?); valid keys: epochs, steps, "
            "accumulate, "
            "label_smoothing, mixup_alpha, cutmix_alpha, clip_grad_norm, clip_grad_value, freeze, autocast, ema, "
            "distillation, "
            "early_stopping, result, optimizer, schedule");
  EXPECT_EQ(complaint(with("epochs: 3", "epochs: many")),
            "e.yaml:6:21: stages[0].float.epochs: expected an integer, found 'many'");
  EXPECT_EQ(complaint(with("name: lenet5", "name: lenet"))
                .find("e.yaml:3:15: model.name: unknown model 'lenet' (did you mean 'lenet5'?); known: "),
            0U);
  EXPECT_EQ(complaint(with("quantization: {}", "quantization: {weight: {bits: 17}}")),
            "e.yaml:4:31: quantization.weight.bits: 17 is out of bounds: expected >= 1, <= 16");
  EXPECT_EQ(complaint(with("model:", "model: {name: lenet5}\nmodel:")),
            "e.yaml:4:1: model: duplicate key, first at e.yaml:3:1");
  EXPECT_EQ(complaint(kMinimal, {"device=gpu"}),
            "--set device=gpu: device: expected one of: cpu, cuda, auto, found 'gpu' (did you mean 'cpu'?)");
  EXPECT_EQ(complaint(with("name: sgd", "name: sdg")),
            "e.yaml:6:42: stages[0].float.optimizer.name: unknown optimizer 'sdg' (did you mean 'sgd'?); known: adam, "
            "adamw, lamb, rmsprop, sgd");
  EXPECT_EQ(complaint(with("lr: 0.05", "lr: -1")),
            "e.yaml:6:51: stages[0].float.optimizer.lr: -1 is out of bounds: expected >= 0");
  EXPECT_EQ(complaint(with("format: safetensors", "format: onnx")),
            "e.yaml:9:23: stages[3].export[0].format: unknown format 'onnx'; known: onnx-qdq, onnx-qoperator, "
            "safetensors");
  EXPECT_EQ(
      complaint(with("quantization: {}", "quantization: {activation: {quantizer: lqs}}"))
          .find(
              "e.yaml:4:40: quantization.activation.quantizer: unknown quantizer 'lqs' (did you mean 'lsq'?); known: "),
      0U);
  EXPECT_EQ(complaint(with("- calibrate", "- calibrat")),
            "e.yaml:7:5: stages[1]: unknown stage 'calibrat' (did you mean 'calibrate'?); known: float, calibrate, "
            "adaptive_rounding, "
            "finetune, export, verify");
}

TEST(Experiment, WeightsAreAPathOrAMap) {
  const auto weights = [](const std::string& yaml) {
    return load(with("in_channels: 1", "in_channels: 1, weights: " + yaml)).weights();
  };
  EXPECT_FALSE(weights("null"));
  EXPECT_EQ(weights("r.pth")->path, "r.pth");
  EXPECT_FALSE(weights("r.pth")->skip_classifier);
  EXPECT_EQ(weights("{path: r.pth, skip_classifier: true}")->path, "r.pth");
  EXPECT_TRUE(weights("{path: r.pth, skip_classifier: true}")->skip_classifier);
  EXPECT_EQ(complaint(with("in_channels: 1", "weights: {skip_classifier: true}")),
            "e.yaml:3:32: model.weights: missing key 'path'");
  EXPECT_EQ(complaint(with("in_channels: 1", "weights: {path: r.pth, skip: fc}")),
            "e.yaml:3:46: model.weights.skip: unknown key; valid keys: path, skip_classifier");
}

TEST(Experiment, StagesMustBeInAnOrderThatRuns) {
  const auto stages = [](const std::string& list) { return complaint(kMinimal, {"stages=" + list}); };
  EXPECT_NE(stages("[finetune]").find("finetune needs a calibrate stage before it"), std::string::npos);
  EXPECT_NE(stages("[calibrate, verify]").find("verify needs an export stage before it"), std::string::npos);
  EXPECT_NE(stages("[calibrate, float]").find("float cannot follow calibrate"), std::string::npos);
  EXPECT_NE(stages("[calibrate, calibrate]").find("calibrate: expected once"), std::string::npos);
  EXPECT_NE(stages("[calibrate, {export: [{format: safetensors}]}, finetune]").find("out of date"), std::string::npos);
  EXPECT_NE(stages("[]").find("expected at least one stage"), std::string::npos);
  EXPECT_NE(complaint(kMinimal, {"quantization="}).find("calibrate needs a `quantization:` section"),
            std::string::npos);
  EXPECT_EQ(complaint(kMinimal, {"stages=[float]", "quantization="}), "no ConfigError");
}

TEST(Experiment, DocsNameEveryLevel) {
  const std::string docs = experiment_docs();
  for (const char* key : {"`data.batch_size`", "`quantization.weight.bits`", "`epochs`", "`lr`", "`milestones`",
                          "`match.position`", "`format`", "`skip_classifier`", "`quantizer_lr`", "`num_magnitude_bins`",
                          "`train_annotations`", "`mixup_alpha`"}) {
    EXPECT_NE(docs.find(key), std::string::npos) << key;
  }
}

}  // namespace
}  // namespace qat::trainers
