#include "trainers/experiment.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <thread>
#include <utility>

#include "core/base/text.h"
#include "core/export/export.h"
#include "core/quant/quantizer.h"
#include "datasets/registry.h"
#include "datasets/transform.h"
#include "models/model.h"
#include "quantizers/builtin.h"
#include "trainers/optimizer.h"
#include "trainers/schedule.h"

namespace qat::config {

using trainers::CheckpointConfig;
using trainers::Experiment;
using trainers::ExportEntry;
using trainers::VerifyStage;
using trainers::WeightsConfig;

void Schema<ExportEntry>::describe(Fields<ExportEntry>& f) {
  f.field("format", &ExportEntry::format).doc("see `qat list formats`").required();
  f.field("input", &ExportEntry::input)
      .doc("what the file's network takes: the preprocessed image, or its pixels")
      .one_of({trainers::kFloatInput, trainers::kPixelInput});
}

void Schema<VerifyStage>::describe(Fields<VerifyStage>& f) {
  f.field("samples", &VerifyStage::samples).doc("of the evaluation split; null: all").minimum(1);
}

void Schema<WeightsConfig>::describe(Fields<WeightsConfig>& f) {
  f.field("path", &WeightsConfig::path).doc(".pth, .safetensors, or a run folder").required();
  f.field("skip_classifier", &WeightsConfig::skip_classifier)
      .doc("leave out what depends on num_classes: the file may be for other classes");
}

void Schema<CheckpointConfig>::describe(Fields<CheckpointConfig>& f) {
  f.field("every", &CheckpointConfig::every).doc("optimizer steps between checkpoints").minimum(1);
  f.field("minutes", &CheckpointConfig::minutes).doc("at most between two of them; null: any time").above(0);
  f.field("keep_best", &CheckpointConfig::keep_best)
      .doc("epochs of a stage, by top-1, whose checkpoints are kept; one of them is best.ckpt")
      .minimum(1);
}

void Schema<Experiment>::describe(Fields<Experiment>& f) {
  f.field("seed", &Experiment::seed).doc("of all random numbers").minimum(0);
  f.field("device", &Experiment::device)
      .doc(
          "where finetune stages train: cpu, cuda, or auto for cuda where there is a GPU and all of them train on it; "
          "all else runs on the CPU")
      .one_of({"cpu", "cuda", "auto"});
  f.field("threads", &Experiment::threads).doc("of the computation; 0: one for each core").minimum(0).maximum(1024);
  f.field("data", &Experiment::data).doc("dataset, transforms and loading").required();
  f.field("model", &Experiment::model).doc("{name: ..., weights: FILE or {path: FILE, ...}, options}").required();
  f.field("quantization", &Experiment::quantization).doc("null: train in float only");
  f.field("stages", &Experiment::stages)
      .doc("what to do, in order: float, calibrate, adaptive_rounding, finetune, export, verify")
      .required();
  f.field("checkpoint", &Experiment::checkpoint).doc("what --resume continues from");
}

}  // namespace qat::config

namespace qat::trainers {
namespace {

using config::Node;

constexpr std::array kStageNames{"float", "calibrate", "adaptive_rounding", "finetune", "export", "verify"};

StageKind stage_kind(const Node& node, const std::string& name) {
  const std::vector<std::string> known(kStageNames.begin(), kStageNames.end());
  const auto found = std::find(known.begin(), known.end(), name);
  if (found == known.end()) {
    throw node.error(
        fmt::format("unknown stage {}{}; known: {}", in_quotes(name), did_you_mean(name, known), join(known)));
  }
  return static_cast<StageKind>(found - known.begin());
}

/// `{name: ..., options}` of a registered component, with all options written out.
template <class Factory>
Node resolve_named(Registry<Factory>& registry, const Node& node) {
  const Node& name = node.at("name");
  const Factory& factory = registry.get(name.text(), name);
  std::vector<Node::Entry> entries{{"name", Node::scalar(name.text())}};
  const Node options = factory.resolve(node.without("name"));
  for (const Node::Entry& entry : options.entries()) entries.push_back(entry);
  return Node::map(std::move(entries), {node.location(), node.path()});
}

Stage parse_stage(const Node& node) {
  const auto [name, options] = config::tagged(node);
  Stage stage{.kind = stage_kind(node, name), .train = {}, .exports = {}, .verify = {}, .rounding = {}};
  switch (stage.kind) {
    case StageKind::kFloat:
    case StageKind::kFinetune:
      stage.train = options.as<TrainStage>();
      stage.train.optimizer = resolve_named(optimizers(), stage.train.optimizer);
      stage.train.schedule = resolve_named(schedules(), stage.train.schedule);
      break;
    case StageKind::kCalibrate:
      if (!options.entries().empty()) {
        throw options.error("calibrate has no options here; they stand in quantization.calibration");
      }
      break;
    case StageKind::kAdaptiveRounding:
      stage.rounding = options.as<AdaptiveRoundingStage>();
      break;
    case StageKind::kExport: {
      std::set<std::string> seen;
      for (const Node& item : options.items()) {
        const ExportEntry& entry = stage.exports.emplace_back(item.as<ExportEntry>());
        const exporter::Format& format = exporter::formats().get(entry.format, item.at("format"));
        if (!seen.insert(format.extension).second) throw item.error("a second file with " + format.extension);
      }
      if (stage.exports.empty()) throw options.error("expected a list of {format: ...}");
      break;
    }
    case StageKind::kVerify:
      stage.verify = options.as<VerifyStage>();
      break;
  }
  return stage;
}

Node resolved_node(const Stage& stage) {
  const std::string name = to_string(stage.kind);
  switch (stage.kind) {
    case StageKind::kFloat:
    case StageKind::kFinetune:
      return Node::map({{name, config::to_node(stage.train)}});
    case StageKind::kExport: {
      std::vector<Node> items;
      for (const ExportEntry& entry : stage.exports) items.push_back(config::to_node(entry));
      return Node::map({{name, Node::sequence(std::move(items))}});
    }
    case StageKind::kVerify:
      return Node::map({{name, config::to_node(stage.verify)}});
    case StageKind::kAdaptiveRounding:
      return Node::map({{name, config::to_node(stage.rounding)}});
    case StageKind::kCalibrate:
      break;
  }
  return Node::scalar(name);
}

/// Whether each stage has what it needs from those before it.
void check_order(const std::vector<Stage>& stages, const std::vector<Node>& nodes, bool quantized) {
  bool calibrated = false, exported = false;
  for (size_t i = 0; i < stages.size(); ++i) {
    const StageKind kind = stages[i].kind;
    const std::string name = to_string(kind);
    if (kind == StageKind::kFloat) {
      if (calibrated) throw nodes[i].error("float cannot follow calibrate: the network is quantized by then");
      continue;
    }
    if (!quantized) throw nodes[i].error(name + " needs a `quantization:` section");
    if (kind == StageKind::kCalibrate && calibrated) throw nodes[i].error("calibrate: expected once");
    if (kind != StageKind::kCalibrate && !calibrated) throw nodes[i].error(name + " needs a calibrate stage before it");
    if (kind == StageKind::kVerify && !exported) throw nodes[i].error("verify needs an export stage before it");
    if ((kind == StageKind::kFinetune || kind == StageKind::kAdaptiveRounding) && exported) {
      throw nodes[i].error(name + " cannot follow export: the exported file would be out of date");
    }
    calibrated = true;
    exported = exported || kind == StageKind::kExport;
  }
}

/// Names that the quantization section's defaults give; those in rules are checked where rules meet layers.
void check_methods(const Node& quantization) {
  const auto check = [&](const char* section, const char* key, const auto& registry) {
    const std::optional<Node> inner = quantization.find(section);
    const std::optional<Node> name = inner ? inner->find(key) : std::nullopt;
    if (name && !name->is_null()) registry.get(name->text(), *name);
  };
  check("weight", "quantizer", quant::quantizers());
  check("activation", "quantizer", quant::quantizers());
  check("bias", "quantizer", quant::quantizers());
  check("calibration", "observer", quant::observers());
}

void find_differences(const Node& run, const Node& now, const std::string& path, std::vector<Difference>& found) {
  static const std::set<std::string> kFree{"threads", "data.workers", "checkpoint"};
  if (kFree.count(path) != 0) return;
  if (run.is_map() && now.is_map()) {
    std::vector<std::string> keys = run.keys();
    for (const std::string& key : now.keys()) {
      if (!run.find(key)) keys.push_back(key);
    }
    for (const std::string& key : keys) {
      find_differences(run.find(key).value_or(Node()), now.find(key).value_or(Node()), config::child_path(path, key),
                       found);
    }
  } else if (run.is_sequence() && now.is_sequence() && run.items().size() == now.items().size()) {
    for (size_t i = 0; i < run.items().size(); ++i) {
      find_differences(run.items()[i], now.items()[i], config::child_path(path, i), found);
    }
  } else if (const std::string before = run.inline_yaml(), after = now.inline_yaml(); before != after) {
    found.push_back({path, fmt::format("{} in the run, {} now", before, after)});
  }
}

}  // namespace

const char* to_string(StageKind kind) { return kStageNames[static_cast<size_t>(kind)]; }

std::optional<WeightsConfig> weights_of(const Node& section) {
  const std::optional<Node> node = section.find("weights");
  if (!node || node->is_null()) return std::nullopt;
  return node->is_scalar() ? WeightsConfig{node->text()} : node->as<WeightsConfig>();
}

std::vector<Stage> Experiment::parsed_stages() const {
  std::vector<Stage> parsed;
  for (const Node& node : stages) parsed.push_back(parse_stage(node));
  return parsed;
}

Experiment make_experiment(const Node& root) {
  quantizers::register_builtin();
  Experiment e = config::parse<Experiment>(root);
  if (e.threads == 0) e.threads = std::max(1u, std::thread::hardware_concurrency());
  const Node& model = e.model.at("name");
  models::registry().get(model.text(), model);
  e.weights();
  const Node& dataset = e.data.dataset.at("name");
  datasets::registry().get(dataset.text(), dataset);
  if (e.quantization) {
    check_methods(root.at("quantization"));
    freeze_step(e.quantization->batch_norm.freeze_at, 1, 1);
    freeze_step(e.quantization->schedule.start_at, 1, 1);
    for (const quant::WidthPhase& phase : e.quantization->schedule.bits) freeze_step(phase.until, 1, 1);
  }
  const std::vector<Stage> stages = e.parsed_stages();
  if (stages.empty()) throw root.at("stages").error("expected at least one stage");
  check_order(stages, e.stages, e.quantization.has_value());
  for (size_t i = 0; i < stages.size(); ++i) {
    e.stages[i] = resolved_node(stages[i]).moved({e.stages[i].location(), e.stages[i].path()});
  }
  return e;
}

Experiment load_experiment(const std::string& path, const std::vector<std::string>& overrides) {
  return make_experiment(config::load_file(path, overrides).root());
}

Experiment post_training(Experiment e) {
  if (!e.quantization) throw ConfigError("calibrate needs a `quantization:` section");
  if (!e.weights()) {
    throw e.model.error("calibrate needs trained weights: expected model.weights, a file or a run's folder");
  }
  const std::vector<Stage> stages = e.parsed_stages();
  std::vector<Node> kept{Node::scalar(to_string(StageKind::kCalibrate))};
  for (size_t i = 0; i < stages.size(); ++i) {
    const StageKind kind = stages[i].kind;
    if (kind == StageKind::kAdaptiveRounding || kind == StageKind::kExport || kind == StageKind::kVerify) {
      kept.push_back(e.stages[i]);
    }
  }
  e.stages = std::move(kept);
  return e;
}

std::vector<Difference> differences(const Experiment& run, const Experiment& now) {
  std::vector<Difference> found;
  find_differences(config::to_node(run), config::to_node(now), "", found);
  return found;
}

int64_t freeze_step(const Node& freeze_at, int64_t total, int64_t steps_per_epoch) {
  if (freeze_at.is_map() && freeze_at.entries().size() == 1) {
    const Node::Entry& entry = freeze_at.entries().front();
    if (entry.key == "epoch" || entry.key == "step") {
      const auto value = entry.value.as<int64_t>();
      if (value < 0) throw entry.value.error("expected 0 or more");
      const int64_t unit = entry.key == "epoch" ? steps_per_epoch : 1;
      return value > total / unit ? total : value * unit;
    }
  }
  if (freeze_at.is_scalar() && freeze_at.text().ends_with('%')) {
    const std::string& text = freeze_at.text();
    double percent = -1;
    const char* end = text.data() + text.size() - 1;
    const auto [rest, error] = std::from_chars(text.data(), end, percent);
    if (error == std::errc() && rest == end && percent >= 0 && percent <= 100) {
      return static_cast<int64_t>(percent / 100 * static_cast<double>(total));
    }
  }
  throw freeze_at.error("expected 0% to 100%, {epoch: N} or {step: N}, found " + freeze_at.describe());
}

std::string experiment_docs() {
  std::string text = "# Experiment\n\n" + config::docs<Experiment>();
  text += "\nmodel.weights, a path or:\n\n" + config::docs<WeightsConfig>();
  text += "\n## Stages\n\nfloat, finetune:\n\n" + config::docs<TrainStage>();
  text += "\ncalibrate has no options. export takes a list of:\n\n" + config::docs<ExportEntry>();
  text += "\nverify:\n\n" + config::docs<VerifyStage>();
  text += "\nadaptive_rounding:\n\n" + config::docs<AdaptiveRoundingStage>();
  text += "\nquantization.rules[]:\n\n" + config::docs<quant::Rule>();
  for (const std::string& name : datasets::registry().names()) {
    text += fmt::format("\n## Dataset {}\n\n{}", name, datasets::registry().get(name).docs());
  }
  for (const std::string& name : datasets::transforms().names()) {
    text += fmt::format("\n## Transform {}\n\n{}", name, datasets::transforms().get(name).docs());
  }
  for (const std::string& name : optimizers().names()) {
    text += fmt::format("\n## Optimizer {}\n\n{}", name, optimizers().get(name).docs());
  }
  for (const std::string& name : schedules().names()) {
    text += fmt::format("\n## Schedule {}\n\n{}", name, schedules().get(name).docs());
  }
  return text;
}

}  // namespace qat::trainers
