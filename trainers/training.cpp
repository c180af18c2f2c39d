#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/base/random.h"
#include "core/base/text.h"
#include "core/log/log.h"
#include "core/log/progress.h"
#include "datasets/mix.h"
#include "trainers/device_training.h"
#include "trainers/distillation.h"
#include "trainers/early_stopping.h"
#include "trainers/frozen_parameters.h"
#include "trainers/non_finite.h"
#include "trainers/optimizer.h"
#include "trainers/schedule.h"
#include "trainers/stages.h"
#include "trainers/training_loss.h"
#include "trainers/weight_average.h"

namespace qat::trainers {
namespace {

/// Steps between two lines of metrics.jsonl.
constexpr int64_t kMetricsEvery = 50;
/// Steps of a GPU between two looks at what it has counted.
constexpr int64_t kReadEvery = 10;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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

/// One `float` or `finetune` stage.
class Training {
 public:
  Training(RunContext& run, const Stage& stage, const RunCheckpoint& from)
      : run_(run),
        state_(run.state),
        quantized_(stage.kind == StageKind::kFinetune),
        kind_(to_string(stage.kind)),
        config_(stage.train),
        loader_(run.training_loader()) {
    take_parameters();
    const config::Node& schedule = stage.train.schedule;
    schedule_ = schedules().get(schedule.at("name").text()).make(schedule.without("name"));
    steps_per_epoch_ = (loader_->batches() + config_.accumulate - 1) / config_.accumulate;
    epochs_ = stage.train.epochs;
    total_ = steps_per_epoch_ * epochs_;
    if (stage.train.steps) total_ = std::min(total_, *stage.train.steps);
    freeze_ = total_;
    if (quantized_) read_schedule();
    optimizer_->load_state(from.optimizer, run.folder.last());
    add_callbacks();
    for (const auto& callback : callbacks_) {
      const std::string prefix = callback->name() + ".";
      io::TensorMap own;
      for (const auto& [name, tensor] : from.callbacks) {
        if (name.starts_with(prefix)) own.emplace(name.substr(prefix.size()), tensor);
      }
      if (state_.step > 0) callback->load_state(own, run.folder.last());
    }
  }

  void go() {
    if (uses_device() && !quantized_) log::info("{}: networks in float train on the CPU", kind_);
    const int64_t step_size = run_.session.experiment.data.batch_size * config_.accumulate;
    log::Progress progress(total_ * step_size);
    if (state_.step < total_ && state_.step % steps_per_epoch_ != 0) {
      loader_->start_epoch(static_cast<uint64_t>(state_.step / steps_per_epoch_),
                           state_.step % steps_per_epoch_ * config_.accumulate);
    }
    for (;;) {
      const bool epoch_ended = state_.step % steps_per_epoch_ == 0 || state_.step == total_;
      if (epoch_ended && state_.evaluated < state_.step) {
        progress.finish();
        finish_epoch();
      }
      if (state_.step == total_ || wants_stop()) {
        finish();
        return;
      }
      if (state_.step % steps_per_epoch_ == 0) {
        loader_->start_epoch(static_cast<uint64_t>(state_.step / steps_per_epoch_));
      }
      if (on_device()) {
        device_step();
      } else {
        step();
      }
      progress.update(
          state_.step * step_size, [this] { return head(); }, data_seconds_);
      if (run_.request.on_step) run_.request.on_step(state_.stage, state_.step);
      const bool stopping = run_.stopping();
      const CheckpointConfig& when = run_.session.experiment.checkpoint;
      if (stopping || state_.step % when.every == 0 || (when.minutes && seconds_since(saved_) > *when.minutes * 60)) {
        save_last();
      }
      if (stopping) throw Interrupted(fmt::format("stopped in stage {} at step {}", kind_, state_.step));
    }
  }

 private:
  /// Makes what holds the network's parameters.
  void take_parameters() {
    const Session& session = run_.session;
    frozen_parameters_.emplace(session, config_.freeze);
    autocast_.emplace(quantized_ ? session.net : nullptr, config_.autocast.has_value());
    optimizer_ = make_optimizer(session, config_.optimizer);
  }

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
    leave_device();
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
    take_parameters();
    optimizer_->load_state(kept, "the optimizer's state");
    for (const auto& callback : callbacks_) callback->requantized();
    state_.best.clear();  // of another network
  }

  void add_callbacks() {
    if (config_.ema) callbacks_.push_back(std::make_unique<WeightAverage>(run_.session, *config_.ema));
    if (config_.distillation) {
      callbacks_.push_back(std::make_unique<Distillation>(run_.session, *config_.distillation, run_.folder,
                                                          state_.stage, quantized_, state_.step == 0));
    }
    if (config_.early_stopping) callbacks_.push_back(std::make_unique<EarlyStopping>(*config_.early_stopping));
    loss_.emplace(run_.session, config_, quantized_, callbacks_);
  }

  RunCheckpoint snapshot() {
    if (device_) device_->download();
    RunCheckpoint checkpoint = run_.snapshot();
    checkpoint.optimizer = optimizer_->state();
    for (const auto& callback : callbacks_) {
      for (auto& [name, tensor] : callback->state())
        checkpoint.callbacks.emplace(callback->name() + "." + name, tensor);
    }
    return checkpoint;
  }

  void save_last() {
    read_totals();
    run_.folder.write_last(snapshot());
    saved_ = std::chrono::steady_clock::now();
  }

  bool wants_stop() const {
    return std::any_of(callbacks_.begin(), callbacks_.end(),
                       [](const auto& callback) { return callback->wants_stop(); });
  }

  /// Leaves the network as the next stage gets it.
  void finish() {
    leave_device();
    for (const auto& callback : callbacks_) callback->finish();
    const std::string row = quantized_ ? "fine-tuned (simulated)" : "float";
    run_.set_row(row, state_.last, run_.session.parameter_bytes());
    if (config_.result != "best" || state_.best.empty()) return;
    const RunCheckpoint best = read_checkpoint(run_.folder.best());
    io::copy_state(run_.session.state(), best.tensors, run_.folder.best());
    state_.phase = best.state.phase;
    if (quantized_) apply_phase(run_.session, state_.phase);
    run_.set_row(row, state_.best[0], run_.session.parameter_bytes());
    log::info("{}: the result is that of epoch {}: top1 {:.2f}%", kind_, state_.best[0].epoch,
              100 * state_.best[0].top1);
  }

  void set_mode(uint64_t key) {
    if (!quantized_) {
      frozen_parameters_->train(*run_.session.model.module);
      return;
    }
    if (state_.phase != "frozen") follow_schedule();
    run_.session.net->set_step(quant::settings_at(run_.session.experiment.quantization->schedule, state_.step - start_,
                                                  total_ - start_, hash(key, kNoise)));
    if (state_.phase != "frozen" && state_.step >= freeze_) {
      leave_device();
      reestimate(run_.session.experiment.quantization->batch_norm.reestimate);
      run_.session.net->project();  // frozen weights of layers whose codes depend on the statistics
      log::info("{}: step {}: batch norm and ranges are frozen", kind_, state_.step);
      state_.phase = "frozen";
      apply_phase(run_.session, state_.phase);
      for (const auto& callback : callbacks_) callback->frozen();
    }
    run_.session.net->train();
  }

  /// Running statistics become the means over batches of an epoch that training never sees.
  void reestimate(int64_t batches) {
    if (batches == 0) return;
    const auto loader = run_.training_loader();
    loader->start_epoch(static_cast<uint64_t>(epochs_));
    datasets::Batch batch;
    int64_t done = 0;
    run_.session.net->reestimate_batch_norm([&]() -> at::Tensor {
      if (done++ == batches || !loader->next(batch)) return {};
      return to_tensors(batch, loader->shape()).images;
    });
    log::info("{}: step {}: running statistics are those of {} batches", kind_, state_.step, done - 1);
  }

  uint64_t key_of(int64_t part) const {
    return hash(static_cast<uint64_t>(run_.session.experiment.seed), static_cast<uint64_t>(state_.stage),
                static_cast<uint64_t>(state_.step * config_.accumulate + part));
  }

  /// The gradients of the next batch, times its share of the step's samples; returns its part of the loss.
  double add_gradients(int64_t part, int64_t step_samples) {
    const auto start = std::chrono::steady_clock::now();
    QAT_CHECK(loader_->next(batch_), "the loader ended before its epoch");
    data_seconds_ += seconds_since(start);
    // Random layers and mixing need no saved generator: their numbers follow from the step.
    const uint64_t key = key_of(part);
    at::manual_seed(key);
    const datasets::Mixture mixture =
        datasets::mix(batch_, loader_->shape(), {config_.mixup_alpha, config_.cutmix_alpha}, hash(key, kMixing));
    const TensorBatch tensors = to_tensors(batch_, loader_->shape());
    at::Tensor logits;
    const at::Tensor loss = (*loss_)(tensors, mixture, in_float(), logits);
    const double value = loss.item<double>();
    if (!std::isfinite(value)) {
      at::manual_seed(key);
      diverged(fmt::format("the loss is {}: {}", value, find_non_finite(run_.session, quantized_, tensors.images)));
    }
    const double share = static_cast<double>(batch_.size) / static_cast<double>(step_samples);
    (share == 1.0 ? loss : loss * share).backward();
    state_.loss_sum += value * static_cast<double>(batch_.size);
    state_.correct += logits.argmax(1).eq(tensors.labels).sum().item<int64_t>();
    state_.samples += batch_.size;
    return value * share;
  }

  void step() {
    set_mode(key_of(0));
    optimizer_->zero_grad();
    const int64_t batch_size = run_.session.experiment.data.batch_size;
    const int64_t first = state_.step % steps_per_epoch_ * config_.accumulate;
    const int64_t last = std::min(first + config_.accumulate, loader_->batches());
    const int64_t samples = std::min(last * batch_size, loader_->samples()) - first * batch_size;
    double loss = 0;
    for (int64_t part = 0; part < last - first; ++part) loss += add_gradients(part, samples);
    if (const std::string name = optimizer_->find_non_finite_gradient(); !name.empty()) {
      diverged(fmt::format("the gradient of {} is not finite", name));
    }
    for (const auto& callback : callbacks_) callback->before_update();
    if (config_.clip_grad_value) optimizer_->clip_grad_value(*config_.clip_grad_value);
    if (config_.clip_grad_norm) optimizer_->clip_grad_norm(*config_.clip_grad_norm);
    const double factor = schedule_({state_.step, total_, steps_per_epoch_});
    rate_ = optimizer_->base_learning_rate() * factor;
    optimizer_->step(factor);
    if (!in_float()) run_.session.net->project();
    for (const auto& callback : callbacks_) callback->after_update();
    ++state_.step;
    if (state_.step % kMetricsEvery == 0) write_metrics(loss);
  }

  bool uses_device() const { return run_.session.experiment.device == "cuda"; }
  /// Whether the next step is the GPU's.
  bool on_device() {
    if (!uses_device() || !quantized_) return false;
    set_mode(key_of(0));
    return !in_float();
  }

  /// A step on the GPU, which the CPU does not wait for; what it has counted is read now and then.
  void device_step() {
    if (!device_) {
      device_ = std::make_unique<DeviceTraining>(run_.session, *optimizer_, config_);
      device_->set_totals({.loss = state_.loss_sum, .correct = state_.correct, .samples = state_.samples});
    }
    const auto start = std::chrono::steady_clock::now();
    QAT_CHECK(loader_->next(batch_), "the loader ended before its epoch");
    data_seconds_ += seconds_since(start);
    const uint64_t key = key_of(0);
    const datasets::Mixture mixture =
        datasets::mix(batch_, loader_->shape(), {config_.mixup_alpha, config_.cutmix_alpha}, hash(key, kMixing));
    const double factor = schedule_({state_.step, total_, steps_per_epoch_});
    rate_ = optimizer_->base_learning_rate() * factor;
    device_->step(batch_, mixture, factor, key);
    ++state_.step;
    const bool measured = state_.step % kMetricsEvery == 0;
    if (measured || state_.step % kReadEvery == 0) read_totals();
    if (measured) write_metrics(device_loss_);
  }

  void read_totals() {
    if (!device_) return;
    const device::Totals totals = device_->totals();
    if (totals.failed) diverged("one of the last steps had a loss, gradient, statistic or range that is not finite");
    state_.loss_sum = totals.loss, state_.correct = totals.correct, state_.samples = totals.samples;
    device_loss_ = totals.last_loss;
  }

  /// Brings the network back from the GPU.
  void leave_device() {
    if (!device_) return;
    read_totals();
    device_->download();
    device_.reset();
  }

  void write_metrics(double loss) {
    run_.metrics.write(
        {{"stage", state_.stage}, {"kind", kind_}, {"step", state_.step}, {"loss", loss}, {"learning_rate", rate_}});
  }

  /// Nothing of this step is kept: the last checkpoint is the last good state.
  [[noreturn]] void diverged(const std::string& what) const {
    throw Error(
        fmt::format("stage {} step {}: training diverged: {}; lower the learning rate and go on with --resume "
                    "from the last checkpoint, {}",
                    kind_, state_.step, what, run_.folder.last()));
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
    read_totals();
    if (device_) device_->download();
    Evaluation result;
    for (const auto& callback : callbacks_) callback->before_evaluation();
    try {
      result = evaluate(run_.session, in_float() ? Runtime::kFloat : Runtime::kSimulated, run_.request.stop);
    } catch (const Interrupted&) {
      for (const auto& callback : callbacks_) callback->after_evaluation(std::nullopt);
      save_last();
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
                        {"eval_loss", result.loss()},
                        {"eval_top1", top1},
                        {"eval_top5", result.top5_fraction()}});
    log::info("{} epoch {}/{}: train loss {:.4f} top1 {:.2f}%, eval loss {:.4f} top1 {:.2f}%", kind_, epoch, epochs_,
              train_loss(), 100 * train_top1(), result.loss(), 100 * top1);
    std::vector<std::string> damaged = run_.session.data.train->damaged();
    for (std::string& image : run_.session.data.eval->damaged()) damaged.push_back(std::move(image));
    if (damaged.size() > std::exchange(damaged_, damaged.size())) {
      log::warn("{} damaged images were replaced by others so far, among them {}", damaged.size(), damaged.front());
    }
    state_.evaluated = state_.step;
    state_.last = {epoch, top1, result.top5_fraction(), result.loss()};
    state_.loss_sum = 0;
    state_.correct = state_.samples = 0;
    if (device_) device_->set_totals({});
    keep_if_best();
    for (const auto& callback : callbacks_) callback->after_evaluation(result);
    save_last();
  }

  /// Writes the network that was evaluated where it is one of the best epochs.
  void keep_if_best() {
    const int64_t kept = run_.session.experiment.checkpoint.keep_best;
    const auto worse = [&](const EvaluatedEpoch& other) { return other.top1 < state_.last.top1; };
    const auto place = std::find_if(state_.best.begin(), state_.best.end(), worse);
    if (place - state_.best.begin() >= kept) return;
    const bool best = place == state_.best.begin();
    state_.best.insert(place, state_.last);
    const RunCheckpoint checkpoint = snapshot();
    if (best) write_checkpoint(run_.folder.best(), checkpoint);
    if (kept == 1) {
      state_.best.resize(1);
      return;
    }
    write_checkpoint(run_.folder.best(state_.stage, state_.last.epoch), checkpoint);
    for (; std::ssize(state_.best) > kept; state_.best.pop_back()) {
      std::error_code error;
      std::filesystem::remove(run_.folder.best(state_.stage, state_.best.back().epoch), error);
    }
  }

  RunContext& run_;
  RunState& state_;
  const bool quantized_;
  const std::string kind_;
  const TrainStage config_;
  std::optional<FrozenParameters> frozen_parameters_;
  std::optional<AutocastLayers> autocast_;
  std::unique_ptr<datasets::Loader> loader_;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<std::unique_ptr<Callback>> callbacks_;
  std::optional<TrainingLoss> loss_;
  Schedule schedule_;
  std::unique_ptr<DeviceTraining> device_;  // while the network is on the GPU
  double device_loss_ = 0;                  // of its last step that was read
  datasets::Batch batch_;
  size_t damaged_ = 0;  // images that were told of
  std::chrono::steady_clock::time_point saved_ = std::chrono::steady_clock::now();
  int64_t epochs_ = 0, steps_per_epoch_ = 0, total_ = 0, start_ = 0, freeze_ = 0;
  std::vector<Widths> widths_;  // of the first steps
  double rate_ = 0, data_seconds_ = 0;
};

}  // namespace

void run_training(RunContext& run, const Stage& stage, const RunCheckpoint& from) { Training(run, stage, from).go(); }

}  // namespace qat::trainers
