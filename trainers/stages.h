// The stages that change a network: training (float, finetune) and calibration.
#pragma once

#include <string>

#include "core/io/checkpoint.h"
#include "core/log/metrics.h"
#include "trainers/evaluate.h"
#include "trainers/optimizer.h"
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

  /// Writes the state, the network and, in the middle of a stage, the optimizer.
  void save(const std::string& path, const Optimizer* optimizer = nullptr);
  /// Sets a line of the final table.
  void set_row(const std::string& name, double top1, uint64_t bytes);
  bool stopping() const { return request.stop && *request.stop; }
};

/// The network's phase as state.phase says.
void apply_phase(Session& session, const std::string& phase);

/// Puts the session where the checkpoint, from the file `path`, was written. Throws CheckpointError.
void restore(Session& session, const RunCheckpoint& checkpoint, const std::string& path);

/// Continues at state.step until the stage's last epoch is evaluated. `momentum`: the optimizer's state at that step.
void run_training(RunContext& run, const Stage& stage, const io::TensorMap& momentum);

/// AdaRound on training images.
void run_adaptive_rounding(RunContext& run, const AdaptiveRoundingStage& options);

/// Observes training batches with the float network, initializes all quantizers and switches them on.
void run_calibration(RunContext& run);

}  // namespace qat::trainers
