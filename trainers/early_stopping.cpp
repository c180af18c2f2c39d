#include "trainers/early_stopping.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <limits>

namespace qat::trainers {

EarlyStopping::EarlyStopping(const EarlyStoppingConfig& config)
    : config_(config),
      best_(at::full({}, -std::numeric_limits<double>::infinity(), at::kDouble)),
      waited_(at::zeros({}, at::kLong)) {}

void EarlyStopping::after_evaluation(const std::optional<Evaluation>& result) {
  if (!result) return;
  const double value = config_.metric == "loss" ? -result->loss() : result->top1_fraction();
  double& best = *best_.mutable_data_ptr<double>();
  int64_t& waited = *waited_.mutable_data_ptr<int64_t>();
  if (value > best + config_.min_delta) {
    best = value;
    waited = 0;
  } else {
    ++waited;
  }
}

bool EarlyStopping::wants_stop() const { return waited_.item<int64_t>() >= config_.patience; }

}  // namespace qat::trainers
