// How quantization changes within a finetune stage: the `quantization.schedule:` section, and what it says of one step.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/config/config.h"

namespace qat::quant {

/// Widths that stand in for those of `weight:` and `activation:` up to a step; rules that set bits keep theirs.
struct WidthPhase {
  config::Node until;  // as batch_norm.freeze_at
  std::optional<int> weight, activation;
};

/// A number that goes from `initial` to `final` along half a cosine:
///   final + (initial - final) (1 + cos(pi t / T)) / 2, t of T steps done
struct Ramp {
  double initial = 0;
  std::optional<double> final;  // null: stays

  double at(int64_t step, int64_t total) const;
};

/// Iterative weight freezing (Nagel et al., ICML 2022, arXiv:2203.11086, algorithm 1).
struct WeightFreezing {
  std::optional<double> initial, final;  // threshold of the oscillation frequency; initial null: off
  double momentum = 0.01;                // of the moving averages
};

struct ScheduleConfig {
  config::Node start_at = config::Node::scalar("0%");
  int64_t observe_every = 1;
  std::vector<WidthPhase> bits;
  double noise_probability = 1;
  Ramp dampening;
  WeightFreezing weight_freezing;
};

/// What layers do in one training step beside the plain thing.
struct StepSettings {
  bool observe = true;           // ranges that follow the data see this batch
  double noise_probability = 1;  // of a weight to be quantized, until the freeze
  uint64_t noise_key = 0;        // of the step's random numbers; every layer mixes its own number in
  double dampening = 0;          // factor of the dampening loss
  std::optional<double> freezing_threshold;
  double freezing_momentum = 0.01;
};

/// At step `step` of `total` since quantization started. Random numbers follow from `key`.
StepSettings settings_at(const ScheduleConfig& schedule, int64_t step, int64_t total, uint64_t key);

}  // namespace qat::quant

template <>
struct qat::config::Schema<qat::quant::WidthPhase> {
  static void describe(Fields<qat::quant::WidthPhase>& f);
};
template <>
struct qat::config::Schema<qat::quant::Ramp> {
  static void describe(Fields<qat::quant::Ramp>& f);
};
template <>
struct qat::config::Schema<qat::quant::WeightFreezing> {
  static void describe(Fields<qat::quant::WeightFreezing>& f);
};
template <>
struct qat::config::Schema<qat::quant::ScheduleConfig> {
  static void describe(Fields<qat::quant::ScheduleConfig>& f);
};
