// Early stopping: a stage ends when its metric has not improved for some epochs.
#pragma once

#include <string>

#include "trainers/callback.h"
#include "trainers/train_stage.h"

namespace qat::trainers {

/// An epoch improves on the best one so far when top-1 is more than min_delta (a fraction) above it, or the loss more
/// than min_delta below it.
class EarlyStopping final : public Callback {
 public:
  explicit EarlyStopping(const EarlyStoppingConfig& config);

  std::string name() const override { return "early_stopping"; }
  void after_evaluation(const std::optional<Evaluation>& result) override;
  bool wants_stop() const override;
  io::TensorMap state() const override { return {{"best", best_}, {"waited", waited_}}; }

 private:
  EarlyStoppingConfig config_;
  at::Tensor best_;    // float64, larger is better
  at::Tensor waited_;  // int64, epochs since
};

}  // namespace qat::trainers
