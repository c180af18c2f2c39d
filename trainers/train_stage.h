// TrainStage: the options of a `float` or `finetune` stage.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"

namespace qat::trainers {

/// `ema`: an exponential moving average of the weights, used in evaluations and at the stage's end.
struct WeightAverageConfig {
  double decay = 0.999;
  int64_t every = 1;
  bool warmup = true;
};

/// `distillation`: learning from another network's outputs.
struct DistillationConfig {
  config::Node teacher = config::Node::scalar("float");
  double temperature = 4;
  double weight = 0.5;
  std::vector<std::string> features;
  double feature_weight = 1;
};

struct EarlyStoppingConfig {
  std::string metric = "top1";
  int64_t patience = 5;
  double min_delta = 0;
};

struct TrainStage {
  int64_t epochs = 1;
  std::optional<int64_t> steps;  // at most this many, for trials
  int64_t accumulate = 1;
  double label_smoothing = 0;
  double mixup_alpha = 0;
  double cutmix_alpha = 0;
  std::optional<double> clip_grad_norm;
  std::optional<double> clip_grad_value;
  std::vector<std::string> freeze;
  std::optional<std::string> autocast;
  std::optional<WeightAverageConfig> ema;
  std::optional<DistillationConfig> distillation;
  std::optional<EarlyStoppingConfig> early_stopping;
  std::string result = "last";
  config::Node optimizer = config::Node::map({{"name", config::Node::scalar("sgd")}});
  config::Node schedule = config::Node::map({{"name", config::Node::scalar("cosine")}});
};

}  // namespace qat::trainers

template <>
struct qat::config::Schema<qat::trainers::WeightAverageConfig> {
  static void describe(Fields<qat::trainers::WeightAverageConfig>& f);
};
template <>
struct qat::config::Schema<qat::trainers::DistillationConfig> {
  static void describe(Fields<qat::trainers::DistillationConfig>& f);
};
template <>
struct qat::config::Schema<qat::trainers::EarlyStoppingConfig> {
  static void describe(Fields<qat::trainers::EarlyStoppingConfig>& f);
};
template <>
struct qat::config::Schema<qat::trainers::TrainStage> {
  static void describe(Fields<qat::trainers::TrainStage>& f);
};
