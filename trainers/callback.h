// Callback: one optional feature of a training stage. The loop calls all of a stage's callbacks at fixed points.
#pragma once

#include <optional>
#include <string>

#include "core/graph/graph_module.h"
#include "core/io/checkpoint.h"
#include "trainers/evaluate.h"

namespace qat::trainers {

class Callback {
 public:
  virtual ~Callback() = default;

  /// In front of its state's names in checkpoints.
  virtual std::string name() const = 0;

  /// Called with every layer's output in the forward of a quantized network; null: not wanted.
  virtual graph::GraphModule::Tap tap() { return nullptr; }
  /// The loss of one batch, from that of the labels.
  virtual at::Tensor loss(const at::Tensor& images, const at::Tensor& logits, const at::Tensor& loss) {
    (void)images, (void)logits;
    return loss;
  }
  /// The gradients of a step are there.
  virtual void before_update() {}
  virtual void after_update() {}
  /// The quantizers are others now.
  virtual void requantized() {}
  /// Ranges and batch norm have just been frozen.
  virtual void frozen() {}

  /// An epoch's evaluation; what is saved as the best is the network between the two. No result: it was interrupted,
  /// and will be made again.
  virtual void before_evaluation() {}
  virtual void after_evaluation(const std::optional<Evaluation>& result) { (void)result; }
  /// Whether the stage is over before its time.
  virtual bool wants_stop() const { return false; }
  /// The stage has ended.
  virtual void finish() {}

  /// What resuming needs: the tensors themselves, or copies.
  virtual io::TensorMap state() const { return {}; }
  /// Throws CheckpointError for a state that does not fit.
  virtual void load_state(const io::TensorMap& state, const std::string& source) {
    io::copy_state(this->state(), state, source);
  }
};

}  // namespace qat::trainers
