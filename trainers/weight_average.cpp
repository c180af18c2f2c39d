#include "trainers/weight_average.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace qat::trainers {
namespace {

bool is_running_statistic(const std::string& name) {
  return name.ends_with("running_mean") || name.ends_with("running_var");
}

int64_t& count(const at::Tensor& scalar) { return *scalar.mutable_data_ptr<int64_t>(); }

}  // namespace

WeightAverage::WeightAverage(const Session& session, const WeightAverageConfig& config)
    : session_(session), config_(config), steps_(at::zeros({}, at::kLong)), updates_(at::zeros({}, at::kLong)) {
  restart();
}

void WeightAverage::restart() {
  entries_.clear();
  for (auto& [name, tensor] : session_.parameters()) entries_.push_back({name, tensor, tensor.detach().clone(), {}});
  for (auto& [name, tensor] : session_.state()) {
    if (is_running_statistic(name)) entries_.push_back({name, tensor, tensor.clone(), {}});
  }
  count(updates_) = 0;
}

void WeightAverage::requantized() { restart(); }

void WeightAverage::frozen() { restart(); }

void WeightAverage::after_update() {
  if (++count(steps_) % config_.every != 0) return;
  const at::NoGradGuard no_grad;
  const double n = static_cast<double>(count(updates_)++);
  const double decay = config_.warmup ? std::min(config_.decay, (1 + n) / (10 + n)) : config_.decay;
  for (Entry& entry : entries_) entry.average.lerp_(entry.live, 1 - decay);
}

void WeightAverage::before_evaluation() {
  const at::NoGradGuard no_grad;
  for (Entry& entry : entries_) {
    entry.kept = entry.live.detach().clone();
    entry.live.copy_(entry.average);
  }
}

void WeightAverage::after_evaluation(const std::optional<Evaluation>&) {
  const at::NoGradGuard no_grad;
  for (Entry& entry : entries_) {
    entry.live.copy_(entry.kept);
    entry.kept = at::Tensor();
  }
}

void WeightAverage::finish() {
  const at::NoGradGuard no_grad;
  for (Entry& entry : entries_) entry.live.copy_(entry.average);
}

io::TensorMap WeightAverage::state() const {
  io::TensorMap state{{"steps", steps_}, {"updates", updates_}};
  for (const Entry& entry : entries_) state.emplace("average." + entry.name, entry.average);
  return state;
}

}  // namespace qat::trainers
