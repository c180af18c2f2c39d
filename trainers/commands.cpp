#include "trainers/commands.h"

#include <ATen/Version.h>
#include <c10/util/Exception.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/text.h"
#include "core/export/export.h"
#include "core/quant/quantizer.h"
#include "core/registry/plugin.h"
#include "datasets/registry.h"
#include "datasets/transform.h"
#include "models/model.h"
#include "quantizers/builtin.h"
#include "trainers/evaluate.h"
#include "trainers/experiment.h"
#include "trainers/exporting.h"
#include "trainers/opened_run.h"
#include "trainers/optimizer.h"
#include "trainers/run.h"
#include "trainers/run_folder.h"
#include "trainers/schedule.h"

namespace qat::trainers {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kTarget = "onnxruntime";
constexpr const char* kGolden = "golden";
constexpr int64_t kGoldenSamples = 16;

Runtime runtime_of(const std::string& name, const Session& session) {
  if (name == "float") return Runtime::kFloat;
  if (name == "simulated") return Runtime::kSimulated;
  if (name == "integer") return Runtime::kInteger;
  QAT_CHECK_AS(UsageError, name.empty(), "unknown runtime {}; known: float, simulated, integer", in_quotes(name));
  return session.net && session.net->phase() != nn::Phase::kFloat ? Runtime::kSimulated : Runtime::kFloat;
}

template <class Factory>
std::vector<CatalogueEntry> entries_of(const Registry<Factory>& registry) {
  std::vector<CatalogueEntry> entries;
  for (const std::string& name : registry.names()) entries.push_back({name, registry.description(name)});
  return entries;
}

std::vector<CatalogueEntry> models_with_sizes() {
  std::vector<CatalogueEntry> entries = entries_of(models::registry());
  for (CatalogueEntry& entry : entries) {
    entry.description += fmt::format("; {} parameters with default options", models::parameter_count(entry.name));
  }
  return entries;
}

std::vector<CatalogueEntry> formats() {
  std::vector<CatalogueEntry> entries = entries_of(exporter::formats());
  for (CatalogueEntry& entry : entries) {
    entry.description += fmt::format(" ({})", exporter::formats().get(entry.name).extension);
  }
  entries.push_back({kGolden, "the engine's tensors for some images as .npy files with index.json (qat export only)"});
  return entries;
}

std::vector<CatalogueEntry> quantizers_with_support() {
  std::vector<CatalogueEntry> entries = entries_of(quant::quantizers());
  for (CatalogueEntry& entry : entries) entry.description += "; " + quant::describe(entry.name);
  return entries;
}

using Lister = std::vector<CatalogueEntry> (*)();
const std::vector<std::pair<std::string, Lister>>& listers() {
  static const std::vector<std::pair<std::string, Lister>> all{
      {"models", models_with_sizes},
      {"quantizers", quantizers_with_support},
      {"observers", [] { return entries_of(quant::observers()); }},
      {"datasets", [] { return entries_of(datasets::registry()); }},
      {"transforms", [] { return entries_of(datasets::transforms()); }},
      {"targets",
       [] {
         return std::vector<CatalogueEntry>{
             {kTarget, "uint8 activations, int8 weights per channel, int32 bias, rounding half to even"}};
       }},
      {"formats", formats},
      {"optimizers", [] { return entries_of(optimizers()); }},
      {"schedules", [] { return entries_of(schedules()); }},
  };
  return all;
}

Json tensor_list(const std::vector<judges::TensorResult>& results) {
  Json tensors = Json::array();
  for (const judges::TensorResult& tensor : results) {
    tensors.push_back({{"name", tensor.name},
                       {"compared", tensor.compared},
                       {"mismatches", tensor.mismatches},
                       {"ties", tensor.ties},
                       {"max_difference", tensor.max_difference}});
    if (!tensor.first) continue;
    Json& first = tensors.back()["first"];
    first = {{"index", tensor.first->index}, {"expected", tensor.first->expected}, {"found", tensor.first->found}};
    if (tensor.first->accumulator) first["accumulator"] = *tensor.first->accumulator;
  }
  return tensors;
}

}  // namespace

Json eval_report(const std::string& run, const std::string& checkpoint, const std::string& runtime) {
  Session session = open_run(run, checkpoint).session;
  const Runtime chosen = runtime_of(runtime, session);
  const Evaluation result = evaluate(session, chosen);
  return {{"top1", result.top1_fraction()},
          {"top5", result.top5_fraction()},
          {"loss", result.loss()},
          {"samples", result.samples},
          {"runtime", to_string(chosen)}};
}

Json export_report(const std::string& run, const std::string& format, const std::string& out,
                   const std::optional<std::string>& target, std::optional<int64_t> samples, const std::string& input) {
  std::vector<std::string> known = exporter::formats().names();
  known.insert(known.begin(), kGolden);
  QAT_CHECK_AS(UsageError, std::ranges::find(known, format) != known.end(), "unknown format {}{}; known: {}",
               in_quotes(format), did_you_mean(format, known), join(known));
  QAT_CHECK_AS(UsageError, format != kGolden || input == kFloatInput, "export: format {} takes no --input", kGolden);
  QAT_CHECK_AS(UsageError, format == kGolden || !samples, "export: only --format {} takes samples", kGolden);
  const Session session = open_run(run, "last", target).session;
  const uint64_t bytes = format == kGolden ? export_golden(session, out, samples.value_or(kGoldenSamples))
                                           : export_model(session, format, out, input);
  return {{"format", format}, {"path", out}, {"bytes", bytes}};
}

Json verify_report(const std::string& run, const std::string& model, std::optional<int64_t> samples,
                   const std::vector<std::string>& required_judges) {
  for (const std::string& name : required_judges) {
    QAT_CHECK_AS(UsageError, std::ranges::find(judge_names(), name) != judge_names().end(),
                 "unknown judge {}{}; known: {}", in_quotes(name), did_you_mean(name, judge_names()),
                 join(judge_names()));
  }
  Session session = open_run(run, "last").session;
  const auto [result, onnxruntime, not_run] = verify_model(session, model, samples);
  Json judges = Json::array();
  std::vector<std::string> missing = required_judges;
  for (const judges::JudgeResult& judge : result.judges) {
    judges.push_back({{"name", judge.name},
                      {"mismatches", judge.mismatches},
                      {"compared", judge.compared},
                      {"tensors", tensor_list(judge.tensors)},
                      {"advisory", tensor_list(judge.advisory)},
                      {"left_out", judge.left_out},
                      {"float_nodes", judge.float_nodes}});
    if (judge.name == "onnxruntime" && onnxruntime) {
      judges.back()["version"] = onnxruntime->version;
      if (const auto& session_report = onnxruntime->default_session) {
        judges.back()["default_session"] = {{"mismatches", session_report->mismatches},
                                            {"compared", session_report->compared}};
      }
    }
    std::erase(missing, judge.name);
  }
  return {{"mismatches", result.mismatches},
          {"compared", result.compared},
          {"skipped", result.skipped},
          {"samples", result.samples},
          {"passed", result.passed() && missing.empty()},
          {"missing_judges", missing},
          {"not_run", not_run},
          {"simulated_top1", result.simulated.top1_fraction()},
          {"integer_top1", result.integer.top1_fraction()},
          {"judges", std::move(judges)}};
}

Json inspect_report(const std::string& run, const std::string& config, const std::optional<std::string>& target) {
  QAT_CHECK_AS(UsageError, run.empty() != config.empty(), "inspect: expected either --run or --config");
  const RunFolder folder(run);
  if (!run.empty()) folder.require_run();
  Session session(load_experiment(run.empty() ? config : folder.config(), target_override(target)));
  const datasets::Shape image = session.transforms.eval.output_shape(session.data.eval->shape());
  return {{"model", session.experiment.model_name()},
          {"parameters", session.parameter_count()},
          {"parameter_bytes", session.parameter_bytes()},
          {"input", {image[2], image[0], image[1]}},
          {"nodes", session.graph.nodes.size()},
          {"fusions", session.pass_report},
          {"quantized_layers", session.quantizers.quantized_layers},
          {"float_layers", session.quantizers.float_layers},
          {"quantizers", session.quantizers.lines},
          {"graph", session.graph.dump()}};
}

void load_plugins(const std::vector<std::string>& paths) {
  quantizers::register_builtin();
  for (const std::string& path : paths) load_plugin(path);
}

std::vector<std::string> catalogue_kinds() {
  std::vector<std::string> kinds;
  for (const auto& [kind, lister] : listers()) kinds.push_back(kind);
  return kinds;
}

std::vector<CatalogueEntry> catalogue(const std::string& kind) {
  quantizers::register_builtin();
  for (const auto& [name, lister] : listers()) {
    if (name == kind) return lister();
  }
  throw UsageError(fmt::format("unknown list {}{}; known: {}", in_quotes(kind), did_you_mean(kind, catalogue_kinds()),
                               join(catalogue_kinds())));
}

std::string libtorch_version() {
  return fmt::format("{}.{}.{}", TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH);
}

std::string cpu_capability() { return at::get_cpu_capability(); }

Failure describe_current_exception() {
  try {
    throw;
  } catch (const Interrupted& error) {
    return {error.what(), 130};
  } catch (const UsageError& error) {
    return {error.what(), 2};
  } catch (const ConfigError& error) {
    return {error.what(), 2};
  } catch (const c10::Error& error) {
    return {one_line(error.what_without_backtrace()), 1};
  } catch (const std::bad_alloc&) {
    return {"out of memory", 1};
  } catch (const std::exception& error) {
    return {one_line(error.what()), 1};
  } catch (...) {
    return {"an unknown error", 1};
  }
}

}  // namespace qat::trainers
