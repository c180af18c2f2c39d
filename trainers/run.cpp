#include "trainers/run.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/files.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "core/export/export.h"
#include "core/log/log.h"
#include "core/log/metrics.h"
#include "trainers/experiment.h"
#include "trainers/exporting.h"
#include "trainers/run_folder.h"
#include "trainers/session.h"
#include "trainers/stages.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;

std::string default_folder(const std::string& config) { return "runs/" + fs::path(config).stem().string(); }

void check_same_experiment(const RunFolder& folder, const Experiment& now) {
  const Experiment before = load_experiment(folder.config());
  const std::string difference = first_difference(before, now);
  QAT_CHECK_AS(ConfigError, difference.empty(),
               "{}: the config differs from the run's: {}; undo the change, or start another run with --out",
               folder.path(), difference);
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
  log::info("{} quantized layers; in float: {}", q.quantized_layers,
            q.float_layers.empty() ? "none" : join(q.float_layers));
}

void run_export(RunContext& run, const Stage& stage) {
  for (const ExportEntry& entry : stage.exports) {
    const std::string file = "export/model" + exporter::formats().get(entry.format).extension;
    const std::string path = run.folder.path() + "/" + file;
    const uint64_t bytes = export_model(run.session, entry.format, path);
    log::info("export: {} ({})", path, format_bytes(bytes));
    run.state.exports.push_back(file);
    run.metrics.write({{"stage", run.state.stage}, {"kind", "export"}, {"file", file}, {"bytes", bytes}});
  }
}

void run_verify(RunContext& run, const Stage& stage) {
  for (const std::string& file : run.state.exports) {
    const std::string path = run.folder.path() + "/" + file;
    const judges::VerifyResult result = verify_model(run.session, path, stage.verify.samples, run.request.stop).result;
    QAT_CHECK(result.passed(), "verify: {}: {}", path, describe_failure(result));
    std::vector<std::string> judges;
    for (const judges::JudgeResult& judge : result.judges) judges.push_back(judge.name);
    log::info("verify: {}: {} values of {} samples compared by {}, mismatches: 0", path, result.compared,
              result.samples, join(judges));
    const double top1 = static_cast<double>(result.integer_top1) / static_cast<double>(result.samples);
    run.state.verified = std::max<int64_t>(0, run.state.verified) + result.compared;
    run.state.mismatches = 0;
    run.set_row("integer engine", top1, fs::file_size(path));
    run.metrics.write({{"stage", run.state.stage},
                       {"kind", "verify"},
                       {"file", file},
                       {"samples", result.samples},
                       {"compared", result.compared},
                       {"mismatches", result.mismatches},
                       {"top1", top1}});
  }
}

TrainSummary summary(const RunFolder& folder, const RunState& state) {
  TrainSummary result{folder.path(), state.rows, {}, state.verified, state.mismatches};
  for (const std::string& file : state.exports) result.exports.push_back(folder.path() + "/" + file);
  return result;
}

void warn_of_threads(const Session& session, const RunCheckpoint& checkpoint) {
  if (checkpoint.state.threads != session.experiment.threads) {
    log::warn("resumed with {} threads, the run had {}: float results may differ in their last bits",
              session.experiment.threads, checkpoint.state.threads);
  }
}

}  // namespace

TrainSummary train(const TrainRequest& request) {
  const Experiment experiment = load_experiment(request.config, request.overrides);
  const RunFolder folder(request.out.empty() ? default_folder(request.config) : request.out);
  QAT_CHECK_AS(UsageError, request.resume || !folder.exists(),
               "{}: exists already; continue that run with --resume, or choose another folder with --out",
               folder.path());
  const bool continues = request.resume && folder.is_run();
  if (continues) check_same_experiment(folder, experiment);

  const std::vector<Stage> stages = experiment.parsed_stages();
  RunCheckpoint checkpoint;
  const bool has_checkpoint = continues && fs::exists(folder.last());
  if (has_checkpoint) {
    checkpoint = read_checkpoint(folder.last());
    if (checkpoint.state.stage >= static_cast<int64_t>(stages.size())) return summary(folder, checkpoint.state);
  }

  Session session(experiment);
  if (has_checkpoint) {
    restore(session, checkpoint, folder.last());
    warn_of_threads(session, checkpoint);
  } else if (const auto weights = experiment.weights()) {
    session.load_weights(*weights);
  }
  folder.prepare();
  const RunLock lock(folder.path());
  log::open_file(folder.log());
  if (!continues) write_file_atomic(folder.config(), config::dump(experiment));
  announce(session, folder.path());

  RunState& state = checkpoint.state;
  state.threads = experiment.threads;
  log::MetricsWriter metrics(folder.metrics());
  metrics.truncate_to(state.metrics_bytes);
  if (has_checkpoint) {
    log::info("resumed in stage {} at step {}", to_string(stages[static_cast<size_t>(state.stage)].kind), state.step);
  }
  RunContext run{session, folder, metrics, state, request};
  while (state.stage < static_cast<int64_t>(stages.size())) {
    const Stage& stage = stages[static_cast<size_t>(state.stage)];
    log::info("stage {}/{}: {}", state.stage + 1, stages.size(), to_string(stage.kind));
    switch (stage.kind) {
      case StageKind::kFloat:
      case StageKind::kFinetune:
        run_training(run, stage, checkpoint.optimizer);
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
    ++state.stage;
    state.step = state.evaluated = 0;
    state.best_top1 = -1;
    checkpoint.optimizer.clear();
    run.save(folder.last());
  }
  log::close_file();
  return summary(folder, state);
}

}  // namespace qat::trainers
