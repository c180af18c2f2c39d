#include "trainers/run.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/base/files.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "core/export/export.h"
#include "core/log/log.h"
#include "core/log/metrics.h"
#include "trainers/device_training.h"
#include "trainers/evaluate.h"
#include "trainers/events.h"
#include "trainers/experiment.h"
#include "trainers/exporting.h"
#include "trainers/gpu_library.h"
#include "trainers/run_folder.h"
#include "trainers/session.h"
#include "trainers/stages.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;

std::string default_folder(const std::string& config) { return "runs/" + fs::path(config).stem().string(); }

bool is_allowed(const std::string& key, const std::vector<std::string>& allowed) {
  return std::any_of(allowed.begin(), allowed.end(), [&](const std::string& name) {
    return key == name || key.starts_with(name + ".") || key.starts_with(name + "[");
  });
}

/// Throws ConfigError for differences that are not `allowed`; says whether there are any.
bool config_changes(const RunFolder& folder, const Experiment& before, const Experiment& now,
                    const std::vector<std::string>& allowed) {
  std::vector<std::string> refused, taken;
  for (const Difference& difference : differences(before, now)) {
    (is_allowed(difference.key, allowed) ? taken : refused).push_back(difference.key + ": " + difference.values);
  }
  QAT_CHECK_AS(
      ConfigError, refused.empty(),
      "{}: the config differs from the run's: {}; undo the change, allow it with --allow KEY, or start another "
      "run with --out",
      folder.path(), join(refused, "; "));
  for (const std::string& change : taken) log::warn("the config differs from the run's: {}", change);
  return !taken.empty();
}

void announce(const Session& session, const std::string& folder) {
  const Experiment& e = session.experiment;
  log::info("qat {} | device {} | threads {} | seed {} | run {}", version_string(), e.device, e.threads, e.seed,
            folder);
  log::info("{}: {} parameters ({} as float32)", e.model_name(), session.parameter_count(),
            format_bytes(session.parameter_bytes()));
  log::info("data: {} training and {} evaluation images", session.data.train->size(), session.data.eval->size());
  if (!session.net) return;
  const graph::InsertReport& q = session.quantizers;
  log::info("quantized: {} layers for {}", q.quantized_layers, session.experiment.quantization->target);
  for (const std::string& line : q.totals) log::info("  {}", line);
  if (q.float_layers.empty()) log::info("in float: nothing");
  std::map<std::string, std::vector<std::string>> by_reason;
  for (size_t i = 0; i < q.float_layers.size(); ++i) by_reason[q.float_reasons[i]].push_back(q.float_layers[i]);
  for (const auto& [reason, layers] : by_reason) log::info("in float: {} ({})", join(layers), reason);
}

void run_export(RunContext& run, const Stage& stage) {
  for (const ExportEntry& entry : stage.exports) {
    const std::string kind = entry.input == kFloatInput ? "" : "." + entry.input;
    const std::string file = "export/model" + kind + exporter::formats().get(entry.format).extension;
    const std::string path = run.folder.path() + "/" + file;
    const uint64_t bytes = export_model(run.session, entry.format, path, entry.input);
    log::info("export: {} ({})", path, format_bytes(bytes));
    run.state.exports.push_back(file);
    run.metrics.write({{"stage", run.state.stage}, {"kind", "export"}, {"file", file}, {"bytes", bytes}});
  }
}

void run_verify(RunContext& run, const Stage& stage) {
  for (const std::string& file : run.state.exports) {
    const std::string path = run.folder.path() + "/" + file;
    const auto [result, onnxruntime, not_run] = verify_model(run.session, path, stage.verify.samples, run.request.stop);
    for (const std::string& reason : not_run) log::warn("verify: {}: {}", path, reason);
    QAT_CHECK(result.passed(), "verify: {}: {}", path, describe_failure(result));
    std::vector<std::string> judges;
    for (const judges::JudgeResult& judge : result.judges) judges.push_back(judge.name);
    log::info("verify: {}: {} values of {} samples compared by {}, mismatches: 0", path, result.compared,
              result.samples, join(judges));
    const double top1 = result.integer.top1_fraction(), top5 = result.integer.top5_fraction();
    run.state.verified = std::max<int64_t>(0, run.state.verified) + result.compared;
    run.state.mismatches = 0;
    run.set_row("integer engine", {0, top1, top5, result.integer.loss()}, fs::file_size(path));
    run.metrics.write({{"stage", run.state.stage},
                       {"kind", "verify"},
                       {"file", file},
                       {"samples", result.samples},
                       {"compared", result.compared},
                       {"mismatches", result.mismatches},
                       {"not_run", not_run},
                       {"top1", top1},
                       {"top5", top5},
                       {"loss", result.integer.loss()}});
  }
}

/// What the stage's row of the final table is of.
std::optional<Runtime> runtime_of_row(StageKind stage) {
  switch (stage) {
    case StageKind::kFloat:
      return Runtime::kFloat;
    case StageKind::kCalibrate:
    case StageKind::kAdaptiveRounding:
    case StageKind::kFinetune:
      return Runtime::kSimulated;
    case StageKind::kVerify:
      return Runtime::kInteger;
    case StageKind::kExport:
      break;
  }
  return std::nullopt;
}

TrainSummary summary(const RunFolder& folder, const RunState& state) {
  TrainSummary result{folder.path(), folder.timed(state.rows), {}, state.verified, state.mismatches};
  for (const std::string& file : state.exports) result.exports.push_back(folder.path() + "/" + file);
  return result;
}

void warn_of_threads(const Session& session, const RunCheckpoint& checkpoint) {
  if (checkpoint.state.threads != session.experiment.threads) {
    log::warn("resumed with {} threads, the run had {}: float results may differ in their last bits",
              session.experiment.threads, checkpoint.state.threads);
  }
}

/// Decides where the finetune stages from `first` on train; returns why `auto` did not take a GPU that is there. Throws
/// ConfigError where `cuda` was asked and is not possible.
std::string choose_device(Session& session, const std::vector<Stage>& stages, int64_t first) {
  std::string& device = session.experiment.device;
  const auto is_finetune = [](const Stage& stage) { return stage.kind == StageKind::kFinetune; };
  if (device == "cpu" || std::none_of(stages.begin() + first, stages.end(), is_finetune)) return "";
  const bool asked = device == "cuda";
  const char* way_out = "set device to cpu; a run that began on a GPU takes that with --allow device";
  std::string reason;
  if (count_gpus(&reason) == 0) {
    QAT_CHECK_AS(ConfigError, !asked, "device: cuda cannot be used: {}; {}", reason, way_out);
    device = "cpu";
    return "";
  }
  try {
    for (const Stage& stage : stages) {
      if (is_finetune(stage)) check_for_device(session, stage.train);
    }
  } catch (const ConfigError& error) {
    if (asked) throw ConfigError(fmt::format("{}; {}", error.what(), way_out));
    device = "cpu";
    return error.what();
  }
  device = "cuda";
  return "";
}

}  // namespace

TrainSummary train(const TrainRequest& request) {
  Experiment experiment = load_experiment(request.config, request.overrides);
  if (request.post_training) experiment = post_training(std::move(experiment));
  const RunFolder folder(request.out.empty() ? default_folder(request.config) : request.out);
  QAT_CHECK_AS(UsageError, request.resume || !folder.exists(),
               "{}: exists already; continue that run with --resume, or choose another folder with --out",
               folder.path());
  const bool continues = request.resume && folder.is_run();
  std::optional<RunLock> lock;
  if (continues) lock.emplace(folder.path());

  const std::vector<Stage> stages = experiment.parsed_stages();
  std::optional<RunCheckpoint> found = continues ? folder.read_last() : std::nullopt;
  std::string config;
  if (continues) {
    const std::string run_config = found ? found->config : read_file(folder.config());
    const Experiment before = make_experiment(config::load_text(run_config, folder.config(), {}).root());
    if (experiment.device == "auto" && !is_allowed("device", request.allow)) experiment.device = before.device;
    if (!config_changes(folder, before, experiment, request.allow)) config = run_config;
  }
  if (found && found->state.stage >= static_cast<int64_t>(stages.size())) return summary(folder, found->state);

  Session session(experiment);
  const std::string not_taken = choose_device(session, stages, found ? found->state.stage : 0);
  if (config.empty()) config = config::dump(session.experiment);
  if (found) {
    restore(session, *found, folder.last());
    warn_of_threads(session, *found);
  } else if (const auto weights = experiment.weights()) {
    load_weights(session.model, experiment.model, *weights);
  }
  folder.prepare();
  if (!lock) lock.emplace(folder.path());
  log::open_file(folder.log());
  write_file_atomic(folder.config(), config);
  announce(session, folder.path());
  if (!not_taken.empty()) log::info("the run takes the CPU: {}", not_taken);

  RunCheckpoint from = found ? std::move(*found) : RunCheckpoint();
  RunState& state = from.state;
  state.threads = experiment.threads;
  log::MetricsWriter metrics(folder.metrics());
  metrics.truncate_to(state.metrics_bytes);
  if (found) {
    log::info("resumed in stage {} at step {}", to_string(stages[static_cast<size_t>(state.stage)].kind), state.step);
  }
  EventLog events(session, folder);
  metrics.tell([&](const nlohmann::ordered_json& line) { events.add(line); });
  RunContext run{session, folder, metrics, state, request, config};
  while (state.stage < static_cast<int64_t>(stages.size())) {
    const Stage& stage = stages[static_cast<size_t>(state.stage)];
    log::info("stage {}/{}: {}", state.stage + 1, stages.size(), to_string(stage.kind));
    switch (stage.kind) {
      case StageKind::kFloat:
      case StageKind::kFinetune:
        run_training(run, stage, from);
        break;
      case StageKind::kCalibrate:
        run_calibration(run);
        break;
      case StageKind::kAdaptiveRounding:
        run_adaptive_rounding(run, stage.rounding);
        break;
      case StageKind::kExport:
        run_export(run, stage);
        break;
      case StageKind::kVerify:
        run_verify(run, stage);
        break;
    }
    if (const auto runtime = runtime_of_row(stage.kind)) {
      folder.write_timing(state.rows.back().name, latency_ms(session, *runtime));
    }
    ++state.stage;
    state.step = state.evaluated = 0;
    state.best.clear();
    from.optimizer.clear();
    from.callbacks.clear();
    folder.write_last(run.snapshot());
  }
  log::close_file();
  return summary(folder, state);
}

}  // namespace qat::trainers
