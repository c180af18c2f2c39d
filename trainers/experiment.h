// Experiment: a config file as a typed, checked, complete struct.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/quant/config.h"
#include "datasets/data_config.h"
#include "trainers/adaptive_rounding.h"
#include "trainers/train_stage.h"

namespace qat::trainers {

/// What an exported network takes: the preprocessed image, or its pixels (core/integer/pixels.h).
inline constexpr const char *kFloatInput = "float32", *kPixelInput = "uint8";

struct ExportEntry {
  std::string format;
  std::string input = kFloatInput;
};

struct VerifyStage {
  std::optional<int64_t> samples;  // of the evaluation split; all when absent
};

enum class StageKind { kFloat, kCalibrate, kAdaptiveRounding, kFinetune, kExport, kVerify };
const char* to_string(StageKind kind);

struct Stage {
  StageKind kind = StageKind::kFloat;
  TrainStage train;                  // kFloat, kFinetune
  std::vector<ExportEntry> exports;  // kExport
  VerifyStage verify;                // kVerify
  AdaptiveRoundingStage rounding;    // kAdaptiveRounding
};

struct CheckpointConfig {
  int64_t every = 500;            // optimizer steps
  std::optional<double> minutes;  // and whenever so many have passed
  int64_t keep_best = 1;          // epochs
};

/// `model.weights`: FILE, or {path: FILE, skip_classifier: true}.
struct WeightsConfig {
  std::string path;  // .pth, .safetensors, or a run folder
  bool skip_classifier = false;
};

/// What a `model:` section gives the model's factory.
inline config::Node model_options(const config::Node& section) { return section.without("name").without("weights"); }
/// Its `weights`, if any. Throws ConfigError.
std::optional<WeightsConfig> weights_of(const config::Node& section);

struct Experiment {
  int64_t seed = 0;
  std::string device = "cpu";
  int64_t threads = 0;  // 0: one for each core; resolved, the number itself
  datasets::DataConfig data;
  config::Node model;  // name, options, weights
  std::optional<quant::QuantizationConfig> quantization;
  std::vector<config::Node> stages;  // name, or {name: options}
  CheckpointConfig checkpoint;

  std::string model_name() const { return model.at("name").text(); }
  /// What the network starts from; its own initialisation when absent. Throws ConfigError.
  std::optional<WeightsConfig> weights() const { return weights_of(model); }
  /// The typed stages; throws ConfigError.
  std::vector<Stage> parsed_stages() const;
};

/// The experiment of a config tree, all defaults filled in (`threads` too). Throws ConfigError for a mistake anywhere:
/// unknown names of models, datasets, optimizers, schedules, formats and methods, options that they refuse, stages in
/// an order that cannot run.
Experiment make_experiment(const config::Node& root);
Experiment load_experiment(const std::string& path, const std::vector<std::string>& overrides = {});
/// The experiment with the stages that train left out and a calibrate stage. Throws ConfigError without quantization or
/// trained weights.
Experiment post_training(Experiment experiment);

/// A key whose value differs: "data.batch_size", "128 in the run, 64 now".
struct Difference {
  std::string key, values;
};
/// All of them. Keys that change no result are left out: data.workers, checkpoint and threads.
std::vector<Difference> differences(const Experiment& run, const Experiment& now);

/// The optimizer step that `batch_norm.freeze_at` (at whose start ranges and batch norm freeze), `schedule.start_at` or
/// `schedule.bits[].until` names, at most `total`.
/// "75%": of the steps, rounded down; {epoch: e}: e epochs; {step: s}. Throws ConfigError.
int64_t freeze_step(const config::Node& freeze_at, int64_t total, int64_t steps_per_epoch);

/// Markdown: all keys with type, default, bounds and meaning.
std::string experiment_docs();

}  // namespace qat::trainers

template <>
struct qat::config::Schema<qat::trainers::ExportEntry> {
  static void describe(Fields<qat::trainers::ExportEntry>& f);
};
template <>
struct qat::config::Schema<qat::trainers::VerifyStage> {
  static void describe(Fields<qat::trainers::VerifyStage>& f);
};
template <>
struct qat::config::Schema<qat::trainers::WeightsConfig> {
  static void describe(Fields<qat::trainers::WeightsConfig>& f);
};
template <>
struct qat::config::Schema<qat::trainers::CheckpointConfig> {
  static void describe(Fields<qat::trainers::CheckpointConfig>& f);
};
template <>
struct qat::config::Schema<qat::trainers::Experiment> {
  static void describe(Fields<qat::trainers::Experiment>& f);
};
