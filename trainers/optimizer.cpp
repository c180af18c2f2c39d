#include "trainers/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "core/base/error.h"

namespace qat::trainers {
namespace {

constexpr const char* kStep = "step";

at::Tensor count_tensor(int64_t count) { return at::scalar_tensor(count, at::kLong); }

}  // namespace

bool is_quantizer_state(const std::string& name) { return name.find("_quantizer.") != std::string::npos; }

Optimizer::Optimizer(const OptimizerOptions& options, std::vector<NamedParameter> parameters,
                     std::vector<std::string> slots, bool counts_steps)
    : options_(options), slots_(std::move(slots)), counts_steps_(counts_steps) {
  std::set<const void*> seen;
  for (NamedParameter& p : parameters) {
    QAT_CHECK(seen.insert(p.tensor.unsafeGetTensorImpl()).second, "{}: the parameter is in the list twice", p.name);
    const Group group = is_quantizer_state(p.name) ? Group::kQuantizer
                        : p.tensor.dim() < 2       ? Group::kVector
                                                   : Group::kWeight;
    entries_.push_back({std::move(p.name), std::move(p.tensor), group, std::vector<at::Tensor>(slots_.size()), 0});
  }
}

void Optimizer::step(double factor) {
  const at::NoGradGuard no_grad;
  for (Entry& entry : entries_) {
    const at::Tensor gradient = entry.parameter.grad();
    if (!gradient.defined()) continue;
    Rates rates = rates_of(entry);
    rates.learning_rate *= factor;
    ++entry.steps;
    update(entry, gradient, rates);
  }
}

Optimizer::Rates Optimizer::rates_of(const Entry& entry) const {
  if (entry.group == Group::kQuantizer) return {quantizer_learning_rate(), options_.quantizer_weight_decay};
  return {options_.lr, entry.group == Group::kVector ? options_.vector_weight_decay : options_.weight_decay};
}

std::vector<Optimizer::Shared> Optimizer::share() {
  std::vector<Shared> shared;
  for (Entry& entry : entries_) {
    for (at::Tensor& slot : entry.slots) {
      if (!slot.defined()) slot = at::zeros_like(entry.parameter);
    }
    shared.push_back({entry.name, entry.parameter, entry.slots, rates_of(entry).weight_decay,
                      entry.group == Group::kQuantizer, entry.steps});
  }
  return shared;
}

void Optimizer::count_updates(const std::string& name, int64_t updates) {
  for (Entry& entry : entries_) {
    if (entry.name == name) entry.steps += updates;
  }
}

void Optimizer::zero_grad() {
  for (Entry& entry : entries_) entry.parameter.mutable_grad() = at::Tensor();
}

std::string Optimizer::find_non_finite_gradient() const {
  const at::NoGradGuard no_grad;
  // One number says that all is well: a sum is finite only if its terms are.
  double sum = 0;
  for (const Entry& entry : entries_) {
    if (entry.parameter.grad().defined()) sum += entry.parameter.grad().sum().item<double>();
  }
  if (std::isfinite(sum)) return "";
  for (const Entry& entry : entries_) {
    const at::Tensor& gradient = entry.parameter.grad();
    if (gradient.defined() && !at::isfinite(gradient).all().item<bool>()) return entry.name;
  }
  return "";
}

double Optimizer::clip_grad_norm(double max_norm) {
  const at::NoGradGuard no_grad;
  double squares = 0;
  for (const Entry& entry : entries_) {
    const at::Tensor& gradient = entry.parameter.grad();
    if (gradient.defined()) squares += std::pow(gradient.norm().item<double>(), 2);
  }
  const double norm = std::sqrt(squares);
  QAT_CHECK(std::isfinite(norm), "the gradients' norm is {}: training diverged; lower the learning rate", norm);
  const double coefficient = max_norm / (norm + 1e-6);
  if (coefficient >= 1) return norm;
  for (Entry& entry : entries_) {
    if (entry.parameter.grad().defined()) entry.parameter.mutable_grad().mul_(coefficient);
  }
  return norm;
}

void Optimizer::clip_grad_value(double limit) {
  const at::NoGradGuard no_grad;
  for (Entry& entry : entries_) {
    if (entry.parameter.grad().defined()) entry.parameter.mutable_grad().clamp_(-limit, limit);
  }
}

std::vector<std::string> Optimizer::state_names(const Entry& entry) const {
  std::vector<std::string> names;
  for (const std::string& slot : slots_) names.push_back(entry.name + "." + slot);
  if (counts_steps_) names.push_back(entry.name + "." + kStep);
  return names;
}

io::TensorMap Optimizer::state() const {
  io::TensorMap state;
  for (const Entry& entry : entries_) {
    if (entry.steps == 0) continue;
    const std::vector<std::string> names = state_names(entry);
    for (size_t i = 0; i < slots_.size(); ++i) state.emplace(names[i], entry.slots[i]);
    if (counts_steps_) state.emplace(names.back(), count_tensor(entry.steps));
  }
  return state;
}

void Optimizer::load_state(const io::TensorMap& state, const std::string& source) {
  io::TensorMap into;
  std::vector<Entry> loaded = entries_;
  std::vector<at::Tensor> counts(entries_.size());
  for (size_t at = 0; at < loaded.size(); ++at) {
    Entry& entry = loaded[at];
    entry.slots.assign(slots_.size(), at::Tensor());
    entry.steps = 0;
    const std::vector<std::string> names = state_names(entry);
    // A parameter that has had no gradient yet has no state; one with a part of it is an error.
    if (std::none_of(names.begin(), names.end(), [&](const std::string& name) { return state.count(name) != 0; })) {
      continue;
    }
    for (size_t i = 0; i < slots_.size(); ++i) {
      into.emplace(names[i], entry.slots[i] = at::zeros_like(entry.parameter));
    }
    entry.steps = 1;  // where the count does not matter, any but none
    if (counts_steps_) into.emplace(names.back(), counts[at] = count_tensor(0));
  }
  io::copy_state(into, state, source);
  for (size_t at = 0; at < loaded.size(); ++at) {
    if (counts[at].defined()) loaded[at].steps = counts[at].item<int64_t>();
    QAT_CHECK_AS(CheckpointError, loaded[at].steps >= (counts[at].defined() ? 1 : 0),
                 "{}: {}: expected at least one step, found {}", source, loaded[at].name, loaded[at].steps);
  }
  entries_ = std::move(loaded);
}

}  // namespace qat::trainers
