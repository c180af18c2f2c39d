// Exponential moving average of a network's weights (Polyak and Juditsky 1992; the form of TensorFlow's
// ExponentialMovingAverage):  a += (1 - d)(w - a),  d = min(decay, (1 + n) / (10 + n)) at update n = 0, 1, ... with
// warm-up.
#pragma once

#include <string>
#include <vector>

#include "trainers/callback.h"
#include "trainers/session.h"

namespace qat::trainers {

/// Averages all trainable parameters, those of quantizers too, and the running statistics of batch norms. Observed
/// ranges are not averaged: they are averages already. Evaluations, `best` and the next stages see the averages.
/// With other quantizers, and at the freeze, the average starts again from the network, whose statistics and ranges are
/// constants from then on.
class WeightAverage final : public Callback {
 public:
  WeightAverage(const Session& session, const WeightAverageConfig& config);

  std::string name() const override { return "ema"; }
  void after_update() override;
  void requantized() override;
  void frozen() override;
  void before_evaluation() override;
  void after_evaluation(const std::optional<Evaluation>& result) override;
  void finish() override;
  io::TensorMap state() const override;

 private:
  struct Entry {
    std::string name;
    at::Tensor live, average, kept;  // kept: the live values during an evaluation
  };

  /// The average is the network.
  void restart();

  const Session& session_;
  WeightAverageConfig config_;
  std::vector<Entry> entries_;
  at::Tensor steps_, updates_;  // int64 scalars
};

}  // namespace qat::trainers
