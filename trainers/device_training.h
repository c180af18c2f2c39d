// Training steps of a quantized network on a GPU (core/device): the network's description, and its state to and fro.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/device/training_step.h"
#include "datasets/loader.h"
#include "datasets/mix.h"
#include "trainers/optimizer.h"
#include "trainers/session.h"
#include "trainers/train_stage.h"

namespace qat::trainers {

/// The steps of one phase of a stage. While it lives, parameters, statistics, quantizers and the optimizer's memory are
/// the GPU's; the session's own are those of the last download().
class DeviceTraining {
 public:
  /// The session's network must be in training mode and in the phase to train. Throws ConfigError, naming the layer or
  /// the key, for what trains on the CPU only.
  DeviceTraining(const Session& session, Optimizer& optimizer, const TrainStage& stage);

  /// Queues a step; factor: of the learning rates, key: of its random numbers.
  void step(const datasets::Batch& batch, const datasets::Mixture& mixture, double factor, uint64_t key);

  /// Loss and hits so far; waits for the GPU.
  device::Totals totals() { return step_->totals(); }
  void set_totals(const device::Totals& totals) { step_->set_totals(totals); }

  /// Brings everything back, unless there was no step since the last time; waits.
  void download();

  const device::TrainingStep& device() const { return *step_; }

 private:
  Optimizer& optimizer_;
  double rate_ = 0, quantizer_rate_ = 0;
  std::vector<std::string> updated_;  // parameters
  int64_t steps_before_[2] = {};      // of the network's parameters and of the quantizers'
  int64_t updates_ = 0, counted_ = 0;
  std::unique_ptr<device::TrainingStep> step_;
};

/// Throws ConfigError as DeviceTraining would, before a calibration and without a GPU.
void check_for_device(const Session& session, const TrainStage& stage);

/// The description alone: what the network is on a GPU. Throws as DeviceTraining.
device::Network describe_for_device(const graph::GraphModule& net);

}  // namespace qat::trainers
