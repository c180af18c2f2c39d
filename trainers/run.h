// train(): runs an experiment's stages into a run folder, resumably. Free of LibTorch headers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/error.h"

namespace qat::trainers {

/// A run that was told to stop; it can be resumed (exit code 130).
class Interrupted : public Error {
 public:
  using Error::Error;
};

struct TrainRequest {
  std::string config;                  // file
  std::vector<std::string> overrides;  // key.path=value
  std::string out;                     // folder; "": runs/<the config file's name>
  bool post_training = false;          // leave the stages out that train: `qat calibrate`
  bool resume = false;
  std::vector<std::string> allow;           // keys that may differ from the resumed run's config, with all below them
  const std::atomic<bool>* stop = nullptr;  // set: finish the step, write a checkpoint, throw Interrupted
  /// Called after every optimizer step, with the checkpoint of this step not yet written; what it throws ends the run.
  std::function<void(int64_t stage, int64_t step)> on_step;
};

struct TableRow {
  std::string name;
  double top1 = 0, top5 = 0;  // fractions
  double loss = 0;
  uint64_t bytes = 0;                // float32 weights, or the exported file
  std::optional<double> latency_ms;  // for one image, where this run was timed; checkpoints do not hold it
};

struct TrainSummary {
  std::string folder;
  std::vector<TableRow> rows;        // float, calibrated, fine-tuned, integer engine: those that the stages made
  std::vector<std::string> exports;  // paths
  int64_t compared = -1;             // values that verify compared; -1: no verify stage
  int64_t mismatches = -1;
};

/// Runs the stages. A run killed at any instant and resumed gives the same metrics.jsonl, checkpoints and exported
/// bytes as one that was not. A finished run that is resumed returns its summary at once.
///
/// Throws UsageError for an existing folder without `resume`, ConfigError for a mistake in the config or a config that
/// differs from the resumed run's, FileError for files (full disk: the previous checkpoint stays), Error when the loss
/// is no longer finite or verify finds a difference.
TrainSummary train(const TrainRequest& request);

}  // namespace qat::trainers
