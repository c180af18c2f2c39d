#include "trainers/training_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/tensor.h>

#include <optional>
#include <utility>

#include "core/nn/autocast.h"

namespace qat::trainers {

TrainingLoss::TrainingLoss(const Session& session, const TrainStage& stage, bool quantized, const Callbacks& callbacks)
    : session_(session), stage_(stage), quantized_(quantized), callbacks_(callbacks) {
  for (const auto& callback : callbacks_) {
    if (auto tap = callback->tap()) taps_.push_back(std::move(tap));
  }
}

/// Of smoothed labels, and of mixed ones by linearity in the targets.
at::Tensor TrainingLoss::cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                                       const datasets::Mixture& mixture) const {
  const auto loss = [&](const at::Tensor& targets) {
    return at::cross_entropy_loss(logits, targets, {}, at::Reduction::Mean, -100, stage_.label_smoothing);
  };
  if (mixture.others.empty()) return loss(labels);
  const at::Tensor others = at::tensor(mixture.others, at::kLong);
  return loss(labels).mul(mixture.share).add(loss(others), 1 - mixture.share);
}

/// The network's logits, then those of its auxiliary heads.
graph::NamedTensors TrainingLoss::forward(const at::Tensor& images) const {
  const models::Model& model = session_.model;
  if (quantized_) {
    const auto tap = [this](const nn::QLayer& layer, const nn::Value& output) {
      for (const auto& callback_tap : taps_) callback_tap(layer, output);
    };
    const graph::GraphModule::Tap all = taps_.empty() ? graph::GraphModule::Tap() : tap;
    if (model.forward_heads) return session_.net->forward_heads(images, all);
    return {{"logits", session_.net->forward(images, all)}};
  }
  std::optional<nn::Autocast> autocast;
  if (stage_.autocast) autocast.emplace();
  graph::NamedTensors outputs = forward_of(model)(images);
  autocast.reset();
  for (auto& [name, output] : outputs) output = output.to(at::kFloat);
  return outputs;
}

at::Tensor TrainingLoss::operator()(const TensorBatch& batch, const datasets::Mixture& mixture, bool in_float,
                                    at::Tensor& logits) const {
  const graph::NamedTensors outputs = forward(batch.images);
  logits = outputs[0].second;
  at::Tensor loss = cross_entropy(logits, batch.labels, mixture);
  for (size_t i = 1; i < outputs.size(); ++i) {
    loss = loss + cross_entropy(outputs[i].second, batch.labels, mixture) * session_.model.auxiliary_weight;
  }
  for (const auto& callback : callbacks_) loss = callback->loss(batch.images, logits, loss);
  const at::Tensor penalty = in_float ? at::Tensor() : session_.net->penalty();
  return penalty.defined() ? loss + penalty : loss;
}

}  // namespace qat::trainers
