#include "trainers/reporting.h"

#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/files.h"
#include "core/base/text.h"
#include "core/log/metrics.h"
#include "core/report/report.h"
#include "datasets/image_file.h"
#include "trainers/evaluate.h"
#include "trainers/layer_reports.h"
#include "trainers/opened_run.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;
using report::Prediction;
using report::RunReport;

constexpr int64_t kGuesses = 3;
constexpr size_t kShown = 16;            // samples, and mistakes
constexpr int64_t kThumbnailSide = 128;  // pixels

/// The leaves of a config by their paths.
void flatten(const config::Node& node, const std::string& path,
             std::vector<std::pair<std::string, std::string>>& settings) {
  if (node.is_map()) {
    for (const auto& entry : node.entries()) flatten(entry.value, config::child_path(path, entry.key), settings);
  } else if (node.is_sequence() && std::any_of(node.items().begin(), node.items().end(),
                                               [](const config::Node& item) { return !item.is_scalar(); })) {
    for (size_t i = 0; i < node.items().size(); ++i) {
      flatten(node.items()[i], config::child_path(path, i), settings);
    }
  } else {
    settings.emplace_back(path, node.inline_yaml());
  }
}

void add_facts(RunReport& run, const Session& session) {
  const Experiment& e = session.experiment;
  const auto fact = [&](const char* name, std::string value) { run.facts.emplace_back(name, std::move(value)); };
  fact("model", fmt::format("{}, {} parameters", e.model_name(), session.parameter_count()));
  const datasets::Shape image = session.transforms.eval.output_shape(session.data.eval->shape());
  fact("data", fmt::format("{}, {} training and {} evaluation images of {} x {} x {}, {} classes",
                           e.data.dataset.at("name").text(), session.data.train->size(), session.data.eval->size(),
                           image[0], image[1], image[2], session.data.eval->num_classes()));
  std::vector<std::string> stages;
  for (const Stage& stage : e.parsed_stages()) stages.emplace_back(to_string(stage.kind));
  fact("stages", join(stages));
  fact("seed", std::to_string(e.seed));
  if (!session.net) return fact("quantized", "nothing");
  fact("target", e.quantization->target);
  for (const std::string& total : session.quantizers.totals) fact("quantized", total);
  const graph::InsertReport& q = session.quantizers;
  for (size_t i = 0; i < q.float_layers.size(); ++i) {
    fact("in float", fmt::format("{} ({})", q.float_layers[i], q.float_reasons[i]));
  }
}

/// Fills in confusion, samples and mistakes.
class Predictions {
 public:
  Predictions(RunReport& run, const Session& session, std::optional<int64_t> samples)
      : run_(run), data_(*session.data.eval), loader_(eval_loader(session, samples)) {
    run_.classes = data_.class_names();
    run_.confusion.assign(run_.classes.size() * run_.classes.size(), 0);
  }

  void make(Session& session, Runtime runtime) {
    const at::NoGradGuard no_grad;
    session.model.module->eval();
    if (session.net) session.net->eval();
    const int64_t every = std::max<int64_t>(1, loader_->samples() / static_cast<int64_t>(kShown));
    datasets::Batch batch;
    int64_t index = 0;
    loader_->start_epoch(0);
    while (loader_->next(batch)) {
      const at::Tensor images = to_tensors(batch, loader_->shape()).images;
      const at::Tensor logits =
          runtime == Runtime::kFloat ? session.model.forward(images) : session.net->forward(images);
      const auto [probabilities, classes] =
          at::softmax(logits.to(at::kFloat), 1).topk(std::min<int64_t>(kGuesses, logits.size(1)), 1);
      for (int64_t i = 0; i < batch.size; ++i, ++index) {
        Guess guess{.index = index, .label = batch.labels[static_cast<size_t>(i)]};
        for (int64_t j = 0; j < classes.size(1); ++j) {
          guess.guesses.emplace_back(classes[i][j].item<int64_t>(), probabilities[i][j].item<double>());
        }
        add(std::move(guess), index % every == 0);
      }
    }
    for (const Guess& guess : samples_) run_.samples.push_back(prediction(guess));
    for (const Guess& guess : mistakes_) run_.mistakes.push_back(prediction(guess));
  }

 private:
  struct Guess {
    int64_t index = 0, label = 0;
    std::vector<std::pair<int64_t, double>> guesses;
  };

  void add(Guess guess, bool sample) {
    const auto best = static_cast<size_t>(guess.guesses[0].first), n = run_.classes.size();
    // A network may have more outputs than the data has classes.
    if (best < n) ++run_.confusion[static_cast<size_t>(guess.label) * n + best];
    if (sample && samples_.size() < kShown) samples_.push_back(guess);
    if (guess.guesses[0].first == guess.label) return;
    const auto surer = [&](const Guess& other) { return other.guesses[0].second >= guess.guesses[0].second; };
    mistakes_.insert(std::find_if_not(mistakes_.begin(), mistakes_.end(), surer), std::move(guess));
    if (mistakes_.size() > kShown) mistakes_.pop_back();
  }

  Prediction prediction(const Guess& guess) const {
    return {datasets::encode_png(data_.get(guess.index).image, kThumbnailSide), guess.label, guess.guesses,
            data_.describe(guess.index)};
  }

  RunReport& run_;
  const datasets::Dataset& data_;
  std::unique_ptr<datasets::Loader> loader_;
  std::vector<Guess> samples_, mistakes_;
};

RunReport gather(const std::string& path, std::optional<int64_t> samples) {
  const RunFolder folder(path);
  folder.require_run();
  RunReport run{.name = fs::path(path).lexically_normal().filename().string(), .config = read_file(folder.config())};
  if (run.name.empty()) run.name = path;
  flatten(config::to_node(load_experiment(folder.config())), "", run.settings);
  run.metrics = log::read_metrics(folder.metrics());
  if (!fs::exists(folder.last())) {
    run.notes.emplace_back("The run has no checkpoint yet: there is nothing to evaluate.");
    return run;
  }
  OpenedRun opened = open_run(path, "last");
  Session& session = opened.session;
  add_facts(run, session);
  for (const TableRow& row : folder.timed(opened.state.rows)) {
    run.rows.push_back({row.name, row.top1, row.top5, row.loss, row.bytes, row.latency_ms});
  }
  run.compared = opened.state.verified;
  run.mismatches = opened.state.mismatches;
  const std::vector<Stage> stages = session.experiment.parsed_stages();
  if (const auto stage = static_cast<size_t>(opened.state.stage); stage < stages.size()) {
    run.notes.push_back(fmt::format("The run is not finished: stage {} ({}) of {}, step {}.", stage + 1,
                                    to_string(stages[stage].kind), stages.size(), opened.state.step));
  }
  const bool quantized = session.net && session.net->phase() != nn::Phase::kFloat;
  if (session.net && !quantized) run.notes.emplace_back("The network is not quantized yet: calibrate comes later.");
  Predictions(run, session, samples).make(session, quantized ? Runtime::kSimulated : Runtime::kFloat);
  if (quantized) run.layers = layer_reports(session);
  return run;
}

}  // namespace

uint64_t write_report(const std::vector<std::string>& runs, const std::string& out, std::optional<int64_t> samples) {
  QAT_CHECK_AS(UsageError, !runs.empty(), "report: expected at least one run");
  std::vector<RunReport> reports;
  for (const std::string& run : runs) {
    RunReport made = gather(run, samples);
    const bool taken =
        std::any_of(reports.begin(), reports.end(), [&](const RunReport& other) { return other.name == made.name; });
    if (taken) made.name = run;
    reports.push_back(std::move(made));
  }
  const std::string page = report::page(reports);
  write_file_atomic(out, page);
  return page.size();
}

}  // namespace qat::trainers
