#include "trainers/stages.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/random.h"
#include "core/log/log.h"
#include "core/log/progress.h"
#include "datasets/mix.h"
#include "trainers/schedule.h"

namespace qat::trainers {
namespace {

/// Steps between two lines of metrics.jsonl.
constexpr int64_t kMetricsEvery = 50;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::unique_ptr<datasets::Loader> training_loader(const RunContext& run) {
  const Session& session = run.session;
  const uint64_t seed = hash(static_cast<uint64_t>(session.experiment.seed), static_cast<uint64_t>(run.state.stage));
  return std::make_unique<datasets::Loader>(session.data.train, session.transforms.train,
                                            datasets::train_options(session.experiment.data, session.data, seed));
}

std::unique_ptr<Optimizer> make_optimizer(const Session& session, const config::Node& node) {
  std::vector<NamedParameter> parameters;
  for (auto& [name, tensor] : session.parameters()) parameters.push_back({name, tensor});
  return optimizers().get(node.at("name").text()).make(node.without("name"), std::move(parameters));
}

/// The number of the random numbers' use, beside those of LibTorch's layers.
constexpr uint64_t kMixing = 1;
constexpr uint64_t kNoise = 2;

int64_t first_finetune(const Experiment& experiment) {
  const std::vector<Stage> stages = experiment.parsed_stages();
  const auto found =
      std::find_if(stages.begin(), stages.end(), [](const Stage& s) { return s.kind == StageKind::kFinetune; });
  return found - stages.begin();
}

/// Gives all quantizers their first values on batches of an epoch of the training images.
int64_t calibrate(RunContext& run, uint64_t epoch) {
  Session& session = run.session;
  const auto loader = training_loader(run);
  const int64_t batches = std::min(session.experiment.quantization->calibration.batches, loader->batches());
  if (session.experiment.quantization->batch_norm.mode == "folded") session.net->merge_batch_norm();
  session.net->eval();
  session.net->set_phase(nn::Phase::kCalibrate);
  const at::NoGradGuard no_grad;
  datasets::Batch batch;
  loader->start_epoch(epoch);
  for (int64_t i = 0; i < batches; ++i) {
    if (run.stopping()) throw Interrupted("stopped during calibration");
    QAT_CHECK(loader->next(batch), "the loader ended before its epoch");
    session.net->forward(to_tensors(batch, loader->shape()).images);
  }
  session.net->initialize_quantizers();
  return batches;
}

/// One `float` or `finetune` stage.
class Training {
 public:
  Training(RunContext& run, const Stage& stage, const io::TensorMap& momentum)
      : run_(run),
        state_(run.state),
        quantized_(stage.kind == StageKind::kFinetune),
        kind_(to_string(stage.kind)),
        config_(stage.train),
        loader_(training_loader(run)),
        optimizer_(make_optimizer(run.session, stage.train.optimizer)) {
    const config::Node& schedule = stage.train.schedule;
    schedule_ = schedules().get(schedule.at("name").text()).make(schedule.without("name"));
    steps_per_epoch_ = loader_->batches();
    epochs_ = stage.train.epochs;
    total_ = steps_per_epoch_ * epochs_;
    if (stage.train.steps) total_ = std::min(total_, *stage.train.steps);
    freeze_ = total_;
    if (quantized_) read_schedule();
    optimizer_->load_state(momentum, run.folder.last());
  }

  void go() {
    const int64_t batch_size = run_.session.experiment.data.batch_size;
    log::Progress progress(total_ * batch_size);
    datasets::Batch batch;
    if (state_.step < total_ && state_.step % steps_per_epoch_ != 0) {
      loader_->start_epoch(static_cast<uint64_t>(state_.step / steps_per_epoch_), state_.step % steps_per_epoch_);
    }
    for (;;) {
      const bool epoch_ended = state_.step % steps_per_epoch_ == 0 || state_.step == total_;
      if (epoch_ended && state_.evaluated < state_.step) {
        progress.finish();
        finish_epoch();
      }
      if (state_.step == total_) return;
      if (state_.step % steps_per_epoch_ == 0) {
        loader_->start_epoch(static_cast<uint64_t>(state_.step / steps_per_epoch_));
      }
      const auto start = std::chrono::steady_clock::now();
      QAT_CHECK(loader_->next(batch), "the loader ended before its epoch");
      data_seconds_ += seconds_since(start);
      step(batch);
      progress.update(
          state_.step * batch_size, [this] { return head(); }, data_seconds_);
      if (run_.request.on_step) run_.request.on_step(state_.stage, state_.step);
      const bool stopping = run_.stopping();
      if (stopping || state_.step % run_.session.experiment.checkpoint.every == 0) {
        run_.save(run_.folder.last(), optimizer_.get());
      }
      if (stopping) throw Interrupted(fmt::format("stopped in stage {} at step {}", kind_, state_.step));
    }
  }

 private:
  struct Widths {
    int64_t until, weight, activation;
  };

  int64_t step_of(const config::Node& node) const { return freeze_step(node, total_, steps_per_epoch_); }

  void read_schedule() {
    const quant::QuantizationConfig& q = *run_.session.experiment.quantization;
    freeze_ = step_of(q.batch_norm.freeze_at);
    if (state_.stage != first_finetune(run_.session.experiment)) return;
    start_ = step_of(q.schedule.start_at);
    if (start_ > freeze_) throw q.schedule.start_at.error("expected a step before batch_norm.freeze_at");
    int64_t last = 0;
    for (const quant::WidthPhase& phase : q.schedule.bits) {
      widths_.push_back({step_of(phase.until), phase.weight.value_or(0), phase.activation.value_or(0)});
      if (widths_.back().until < last || widths_.back().until > freeze_) {
        throw phase.until.error("expected steps in order, none behind batch_norm.freeze_at");
      }
      last = widths_.back().until;
    }
  }

  /// Whether the quantizers are off: a finetune stage before its schedule's start.
  bool in_float() const { return !quantized_ || state_.phase == "float"; }

  /// Up to the freeze: switches quantization on, and between widths.
  void follow_schedule() {
    if (state_.step < start_) {
      if (state_.phase == "live") {
        state_.phase = "float";
        apply_phase(run_.session, state_.phase);
      }
      return;
    }
    Widths now{total_, 0, 0};
    for (const Widths& w : widths_) {
      if (state_.step < w.until) {
        now = w;
        break;
      }
    }
    if (state_.phase == "live" && now.weight == state_.weight_bits && now.activation == state_.activation_bits) return;
    state_.weight_bits = now.weight;
    state_.activation_bits = now.activation;
    requantize();
  }

  void requantize() {
    Session& session = run_.session;
    session.requantize(state_.weight_bits, state_.activation_bits);
    calibrate(run_, static_cast<uint64_t>(epochs_));
    state_.phase = "live";
    apply_phase(session, state_.phase);
    const auto width = [](int64_t bits) { return bits == 0 ? std::string("the config's") : fmt::format("{}", bits); };
    log::info("{}: step {}: new quantizers; bits of weights: {}, of activations: {}", kind_, state_.step,
              width(state_.weight_bits), width(state_.activation_bits));
    // The network's parameters are the same tensors; what the optimizer knew of the quantizers' went with them.
    io::TensorMap kept = optimizer_->state();
    std::erase_if(kept, [](const auto& item) { return is_quantizer_state(item.first); });
    optimizer_ = make_optimizer(session, config_.optimizer);
    optimizer_->load_state(kept, "the optimizer's state");
    state_.best_top1 = -1;  // of another network
  }

  void set_mode(uint64_t key) {
    if (!quantized_) {
      run_.session.model.module->train();
      return;
    }
    if (state_.phase != "frozen") follow_schedule();
    run_.session.net->set_step(quant::settings_at(run_.session.experiment.quantization->schedule, state_.step - start_,
                                                  total_ - start_, hash(key, kNoise)));
    if (state_.phase != "frozen" && state_.step >= freeze_) {
      reestimate(run_.session.experiment.quantization->batch_norm.reestimate);
      run_.session.net->project();  // frozen weights of layers whose codes depend on the statistics
      log::info("{}: step {}: batch norm and ranges are frozen", kind_, state_.step);
      state_.phase = "frozen";
      apply_phase(run_.session, state_.phase);
    }
    run_.session.net->train();
  }

  /// Running statistics become the means over batches of an epoch that training never sees.
  void reestimate(int64_t batches) {
    if (batches == 0) return;
    const auto loader = training_loader(run_);
    loader->start_epoch(static_cast<uint64_t>(epochs_));
    datasets::Batch batch;
    int64_t done = 0;
    run_.session.net->reestimate_batch_norm([&]() -> at::Tensor {
      if (done++ == batches || !loader->next(batch)) return {};
      return to_tensors(batch, loader->shape()).images;
    });
    log::info("{}: step {}: running statistics are those of {} batches", kind_, state_.step, done - 1);
  }

  /// Of smoothed labels, and of mixed ones by linearity in the targets.
  at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, const datasets::Mixture& mixture) const {
    const auto loss = [&](const at::Tensor& targets) {
      return at::cross_entropy_loss(logits, targets, {}, at::Reduction::Mean, -100, config_.label_smoothing);
    };
    if (mixture.others.empty()) return loss(labels);
    const at::Tensor others = at::tensor(mixture.others, at::kLong);
    return loss(labels).mul(mixture.share).add(loss(others), 1 - mixture.share);
  }

  /// Cross-entropy, and a part of that of auxiliary heads. `logits` are the network's own.
  at::Tensor loss_of(const TensorBatch& batch, const datasets::Mixture& mixture, at::Tensor& logits) {
    const models::Model& model = run_.session.model;
    if (!model.forward_heads) {
      logits = quantized_ ? run_.session.net->forward(batch.images) : model.forward(batch.images);
      return cross_entropy(logits, batch.labels, mixture);
    }
    graph::NamedTensors outputs;
    if (quantized_) {
      outputs = run_.session.net->forward_heads(batch.images);
    } else {
      for (models::HeadOutput& head : model.forward_heads(batch.images)) outputs.emplace_back(head.name, head.logits);
    }
    logits = outputs[0].second;
    at::Tensor loss = cross_entropy(logits, batch.labels, mixture);
    for (size_t i = 1; i < outputs.size(); ++i) {
      loss = loss + cross_entropy(outputs[i].second, batch.labels, mixture) * model.auxiliary_weight;
    }
    return loss;
  }

  void step(datasets::Batch& batch) {
    // Random layers and mixing need no saved generator: their numbers follow from the step.
    const uint64_t key = hash(static_cast<uint64_t>(run_.session.experiment.seed), static_cast<uint64_t>(state_.stage),
                              static_cast<uint64_t>(state_.step));
    set_mode(key);
    at::manual_seed(key);
    const datasets::Mixture mixture =
        datasets::mix(batch, loader_->shape(), {config_.mixup_alpha, config_.cutmix_alpha}, hash(key, kMixing));
    const TensorBatch tensors = to_tensors(batch, loader_->shape());
    optimizer_->zero_grad();
    at::Tensor logits;
    at::Tensor loss = loss_of(tensors, mixture, logits);
    if (const at::Tensor penalty = in_float() ? at::Tensor() : run_.session.net->penalty(); penalty.defined()) {
      loss = loss + penalty;
    }
    const double value = loss.item<double>();
    QAT_CHECK(
        std::isfinite(value),
        "stage {} step {}: the loss is {}: training diverged; lower the learning rate (the last checkpoint is {})",
        kind_, state_.step, value, run_.folder.last());
    loss.backward();
    if (config_.clip_grad_value) optimizer_->clip_grad_value(*config_.clip_grad_value);
    if (config_.clip_grad_norm) optimizer_->clip_grad_norm(*config_.clip_grad_norm);
    const double factor = schedule_({state_.step, total_, steps_per_epoch_});
    rate_ = optimizer_->base_learning_rate() * factor;
    optimizer_->step(factor);
    if (!in_float()) run_.session.net->project();

    state_.loss_sum += value * static_cast<double>(batch.size);
    state_.correct += logits.argmax(1).eq(tensors.labels).sum().item<int64_t>();
    state_.samples += batch.size;
    ++state_.step;
    if (state_.step % kMetricsEvery == 0) {
      run_.metrics.write(
          {{"stage", state_.stage}, {"kind", kind_}, {"step", state_.step}, {"loss", value}, {"learning_rate", rate_}});
    }
  }

  double train_loss() const { return state_.loss_sum / static_cast<double>(std::max<int64_t>(1, state_.samples)); }
  double train_top1() const {
    return static_cast<double>(state_.correct) / static_cast<double>(std::max<int64_t>(1, state_.samples));
  }

  std::string head() const {
    const int64_t epoch = (state_.step - 1) / steps_per_epoch_;
    return fmt::format("{} epoch {}/{} step {}/{} | loss {:.4f} | top1 {:.1f}% | lr {:.2e}", kind_, epoch + 1, epochs_,
                       state_.step - epoch * steps_per_epoch_, std::min(steps_per_epoch_, total_), train_loss(),
                       100 * train_top1(), rate_);
  }

  void finish_epoch() {
    Evaluation result;
    try {
      result = evaluate(run_.session, in_float() ? Runtime::kFloat : Runtime::kSimulated, run_.request.stop);
    } catch (const Interrupted&) {
      run_.save(run_.folder.last(), optimizer_.get());
      throw;
    }
    const int64_t epoch = (state_.step + steps_per_epoch_ - 1) / steps_per_epoch_;
    const double top1 = result.top1_fraction();
    run_.metrics.write({{"stage", state_.stage},
                        {"kind", kind_},
                        {"epoch", epoch},
                        {"step", state_.step},
                        {"phase", state_.phase},
                        {"train_loss", train_loss()},
                        {"train_top1", train_top1()},
                        {"eval_loss", result.loss},
                        {"eval_top1", top1},
                        {"eval_top5", result.top5_fraction()}});
    log::info("{} epoch {}/{}: train loss {:.4f} top1 {:.2f}%, eval loss {:.4f} top1 {:.2f}%", kind_, epoch, epochs_,
              train_loss(), 100 * train_top1(), result.loss, 100 * top1);
    for (const datasets::Dataset* data : {run_.session.data.train.get(), run_.session.data.eval.get()}) {
      const std::vector<std::string> damaged = data->damaged();
      if (damaged.empty()) continue;
      log::warn("{} damaged images were replaced by others so far, among them {}", damaged.size(), damaged.front());
    }
    state_.evaluated = state_.step;
    state_.loss_sum = 0;
    state_.correct = state_.samples = 0;
    if (state_.step == total_) {
      run_.set_row(quantized_ ? "fine-tuned (simulated)" : "float", top1, run_.session.parameter_bytes());
    }
    if (top1 > state_.best_top1) {
      state_.best_top1 = top1;
      run_.save(run_.folder.best(), optimizer_.get());
    }
    run_.save(run_.folder.last(), optimizer_.get());
  }

  RunContext& run_;
  RunState& state_;
  const bool quantized_;
  const std::string kind_;
  const TrainStage config_;
  std::unique_ptr<datasets::Loader> loader_;
  std::unique_ptr<Optimizer> optimizer_;
  Schedule schedule_;
  int64_t epochs_ = 0, steps_per_epoch_ = 0, total_ = 0, start_ = 0, freeze_ = 0;
  std::vector<Widths> widths_;  // of the first steps
  double rate_ = 0, data_seconds_ = 0;
};

}  // namespace

void RunContext::save(const std::string& path, const Optimizer* optimizer) {
  state.metrics_bytes = metrics.offset();
  write_checkpoint(path, {state, session.state(), optimizer ? optimizer->state() : io::TensorMap()});
}

void RunContext::set_row(const std::string& name, double top1, uint64_t bytes) {
  const auto found =
      std::find_if(state.rows.begin(), state.rows.end(), [&](const TableRow& row) { return row.name == name; });
  if (found != state.rows.end()) state.rows.erase(found);
  state.rows.push_back({name, top1, bytes});
}

void apply_phase(Session& session, const std::string& phase) {
  if (!session.net) return;
  session.net->set_phase(phase == "frozen" ? nn::Phase::kFrozen
                         : phase == "live" ? nn::Phase::kLive
                                           : nn::Phase::kFloat);
}

void restore(Session& session, const RunCheckpoint& checkpoint, const std::string& path) {
  const RunState& state = checkpoint.state;
  if (session.net && (state.weight_bits != 0 || state.activation_bits != 0)) {
    session.requantize(state.weight_bits, state.activation_bits);
  }
  io::copy_state(session.state(), checkpoint.tensors, path);
  apply_phase(session, state.phase);
}

void run_training(RunContext& run, const Stage& stage, const io::TensorMap& momentum) {
  Training(run, stage, momentum).go();
}

void run_calibration(RunContext& run) {
  Session& session = run.session;
  const int64_t batches = calibrate(run, 0);
  run.state.phase = "live";
  apply_phase(session, run.state.phase);
  const Evaluation result = evaluate(session, Runtime::kSimulated, run.request.stop);
  log::info("calibrate: {} batches, eval loss {:.4f} top1 {:.2f}%", batches, result.loss, 100 * result.top1_fraction());
  run.metrics.write({{"stage", run.state.stage},
                     {"kind", "calibrate"},
                     {"batches", batches},
                     {"eval_loss", result.loss},
                     {"eval_top1", result.top1_fraction()}});
  run.set_row("calibrated", result.top1_fraction(), session.parameter_bytes());
}

void run_adaptive_rounding(RunContext& run, const AdaptiveRoundingStage& options) {
  Session& session = run.session;
  const auto loader = training_loader(run);
  loader->start_epoch(0);
  std::vector<at::Tensor> images;
  datasets::Batch batch;
  for (int64_t found = 0; found < options.samples && loader->next(batch); found += batch.size) {
    images.push_back(to_tensors(batch, loader->shape()).images);
  }
  const uint64_t key = hash(static_cast<uint64_t>(session.experiment.seed), static_cast<uint64_t>(run.state.stage));
  const at::Tensor all = at::cat(images);
  const auto report = [&](const nn::WeightedLayer& layer, double nearest, double adaptive) {
    if (run.stopping()) throw Interrupted("stopped during adaptive rounding");
    log::info("adaptive_rounding: {}: squared error {:.3e}, rounded to nearest {:.3e}", layer.label(), adaptive,
              nearest);
  };
  adaptive_rounding(*session.net, all.slice(0, 0, options.samples), options, key, report);
  const Evaluation result = evaluate(session, Runtime::kSimulated, run.request.stop);
  log::info("adaptive_rounding: eval loss {:.4f} top1 {:.2f}%", result.loss, 100 * result.top1_fraction());
  run.metrics.write({{"stage", run.state.stage},
                     {"kind", "adaptive_rounding"},
                     {"eval_loss", result.loss},
                     {"eval_top1", result.top1_fraction()}});
  run.set_row("adaptive rounding", result.top1_fraction(), session.parameter_bytes());
}

}  // namespace qat::trainers
