#include "trainers/stages.h"

#include <ATen/ops/cat.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/base/random.h"
#include "core/log/log.h"

namespace qat::trainers {

RunCheckpoint RunContext::snapshot() {
  state.metrics_bytes = metrics.offset();
  return {state, config, session.state(), {}, {}};
}

std::unique_ptr<datasets::Loader> RunContext::training_loader() const {
  const uint64_t seed = hash(static_cast<uint64_t>(session.experiment.seed), static_cast<uint64_t>(state.stage));
  return std::make_unique<datasets::Loader>(session.data.train, session.transforms.train,
                                            datasets::train_options(session.experiment.data, session.data, seed));
}

void RunContext::set_row(const std::string& name, const EvaluatedEpoch& result, uint64_t bytes) {
  const auto found =
      std::find_if(state.rows.begin(), state.rows.end(), [&](const TableRow& row) { return row.name == name; });
  if (found != state.rows.end()) state.rows.erase(found);
  state.rows.push_back({name, result.top1, result.top5, result.loss, bytes, std::nullopt});
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

int64_t calibrate(RunContext& run, uint64_t epoch) {
  Session& session = run.session;
  const auto loader = run.training_loader();
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

void run_calibration(RunContext& run) {
  Session& session = run.session;
  const int64_t batches = calibrate(run, 0);
  run.state.phase = "live";
  apply_phase(session, run.state.phase);
  const Evaluation result = evaluate(session, Runtime::kSimulated, run.request.stop);
  log::info("calibrate: {} batches, eval loss {:.4f} top1 {:.2f}%", batches, result.loss(),
            100 * result.top1_fraction());
  run.metrics.write({{"stage", run.state.stage},
                     {"kind", "calibrate"},
                     {"batches", batches},
                     {"eval_loss", result.loss()},
                     {"eval_top1", result.top1_fraction()},
                     {"eval_top5", result.top5_fraction()}});
  run.set_row("calibrated", {0, result.top1_fraction(), result.top5_fraction(), result.loss()},
              session.parameter_bytes());
}

void run_adaptive_rounding(RunContext& run, const AdaptiveRoundingStage& options) {
  Session& session = run.session;
  const auto loader = run.training_loader();
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
  log::info("adaptive_rounding: eval loss {:.4f} top1 {:.2f}%", result.loss(), 100 * result.top1_fraction());
  run.metrics.write({{"stage", run.state.stage},
                     {"kind", "adaptive_rounding"},
                     {"eval_loss", result.loss()},
                     {"eval_top1", result.top1_fraction()},
                     {"eval_top5", result.top5_fraction()}});
  run.set_row("adaptive rounding", {0, result.top1_fraction(), result.top5_fraction(), result.loss()},
              session.parameter_bytes());
}

}  // namespace qat::trainers
