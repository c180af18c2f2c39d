// The loss of a batch in a training stage on the CPU: the network's forward and all that is added to it.
#pragma once

#include <memory>
#include <vector>

#include "datasets/mix.h"
#include "trainers/callback.h"
#include "trainers/session.h"
#include "trainers/train_stage.h"

namespace qat::trainers {

/// Turns the layers' autocast on for a stage.
class AutocastLayers {
 public:
  AutocastLayers(std::shared_ptr<graph::GraphModule> net, bool on) : net_(std::move(net)) {
    if (net_) net_->set_autocast(on);
  }
  ~AutocastLayers() {
    if (net_) net_->set_autocast(false);
  }
  AutocastLayers(const AutocastLayers&) = delete;
  AutocastLayers& operator=(const AutocastLayers&) = delete;

 private:
  std::shared_ptr<graph::GraphModule> net_;
};

class TrainingLoss {
 public:
  using Callbacks = std::vector<std::unique_ptr<Callback>>;

  /// What is passed must outlive it.
  TrainingLoss(const Session& session, const TrainStage& stage, bool quantized, const Callbacks& callbacks);

  /// Cross-entropy, a part of that of auxiliary heads, and what callbacks and quantizers (unless in_float) make of it.
  at::Tensor operator()(const TensorBatch& batch, const datasets::Mixture& mixture, bool in_float,
                        at::Tensor& logits) const;

 private:
  at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, const datasets::Mixture& mixture) const;
  graph::NamedTensors forward(const at::Tensor& images) const;

  const Session& session_;
  const TrainStage& stage_;
  const bool quantized_;
  const Callbacks& callbacks_;
  std::vector<graph::GraphModule::Tap> taps_;
};

}  // namespace qat::trainers
