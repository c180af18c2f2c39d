// The stages that change a network: training (float, finetune) and calibration.
#pragma once

#include <memory>
#include <string>

#include "core/log/metrics.h"
#include "trainers/evaluate.h"
#include "trainers/run.h"
#include "trainers/run_folder.h"
#include "trainers/session.h"

namespace qat::trainers {

/// What the stages of one run share.
struct RunContext {
  Session& session;
  const RunFolder& folder;
  log::MetricsWriter& metrics;
  RunState& state;
  const TrainRequest& request;
  std::string config;  // resolved, as the run's folder has it

  /// The state and the network, between stages; what is in the middle of one adds its own.
  RunCheckpoint snapshot();
  /// Over the training split, in an order of the stage's own.
  std::unique_ptr<datasets::Loader> training_loader() const;
  /// Sets a line of the final table.
  void set_row(const std::string& name, const EvaluatedEpoch& result, uint64_t bytes);
  bool stopping() const { return request.stop && *request.stop; }
};

/// The network's phase as state.phase says.
void apply_phase(Session& session, const std::string& phase);

/// Puts the session where the checkpoint, from the file `path`, was written. Throws CheckpointError.
void restore(Session& session, const RunCheckpoint& checkpoint, const std::string& path);

/// Gives all quantizers their first values on batches of an epoch of the training images; returns how many.
int64_t calibrate(RunContext& run, uint64_t epoch);

/// Continues at state.step until the stage's last epoch is evaluated. `from`: optimizer and callbacks at that step;
/// empty at a stage's start. Throws Interrupted, and Error for a loss or gradient that is not finite: the network is
/// then as the last checkpoint has it on disk.
void run_training(RunContext& run, const Stage& stage, const RunCheckpoint& from);

/// AdaRound on training images.
void run_adaptive_rounding(RunContext& run, const AdaptiveRoundingStage& options);

/// Observes training batches with the float network, initializes all quantizers and switches them on.
void run_calibration(RunContext& run);

}  // namespace qat::trainers
