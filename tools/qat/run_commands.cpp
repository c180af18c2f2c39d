// The commands on a run folder: eval, export, verify, inspect.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/base/text.h"
#include "tools/qat/commands.h"
#include "trainers/commands.h"
#include "trainers/reporting.h"

namespace qat::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string run, config, checkpoint = "last", runtime, model, format, out, input = "float32";
  std::optional<std::string> target;
  std::optional<int64_t> samples;
  std::vector<std::string> judges;
  bool json = false, graph = false;
};

void add_run(CLI::App& app, Options& o) {
  app.add_option("--run", o.run, "Run folder of `qat train`")->required()->type_name("DIR");
}

void add_json(CLI::App& app, Options& o) { app.add_flag("--json", o.json, "Print one JSON object and nothing else"); }

void print_json(const Json& report) { fmt::print("{}\n", report.dump(2, ' ', false, Json::error_handler_t::replace)); }

void print_lines(const Json& report, const char* title, const char* key) {
  if (report[key].empty()) return;
  fmt::print("{}:\n", title);
  for (const Json& line : report[key]) fmt::print("  {}\n", line.get<std::string>());
}

}  // namespace

Run add_eval(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  add_run(app, *o);
  app.add_option("--checkpoint", o->checkpoint, "last, best or a file")->type_name("NAME");
  app.add_option("--runtime", o->runtime, "Default: simulated once the run is quantized, else float")
      ->check(CLI::IsMember({"float", "simulated", "integer"}));
  add_json(app, *o);
  return [o] {
    const Json r = trainers::eval_report(o->run, o->checkpoint, o->runtime);
    if (o->json) {
      print_json(r);
    } else {
      fmt::print("top1 {:.4f} top5 {:.4f} loss {:.4f} samples {} runtime {}\n", r["top1"].get<double>(),
                 r["top5"].get<double>(), r["loss"].get<double>(), r["samples"].get<int64_t>(),
                 r["runtime"].get<std::string>());
    }
    return 0;
  };
}

Run add_export(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  add_run(app, *o);
  app.add_option("--format", o->format, "See `qat list formats`")->required()->type_name("NAME");
  app.add_option("--out", o->out, "File to write; a folder for format golden")->required()->type_name("PATH");
  app.add_option("--target", o->target, "See `qat list targets`; default: the run's")->type_name("NAME");
  app.add_option("--samples", o->samples, "Evaluation images of format golden; default: 16")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  app.add_option("--input", o->input, "float32: the preprocessed image; uint8: its pixels")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"float32", "uint8"}))
      ->capture_default_str();
  return [o] {
    const Json r = trainers::export_report(o->run, o->format, o->out, o->target, o->samples, o->input);
    fmt::print("{} ({} bytes)\n", r["path"].get<std::string>(), r["bytes"].get<uint64_t>());
    return 0;
  };
}

Run add_verify(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  add_run(app, *o);
  app.add_option("--model", o->model, "Exported file")->required()->type_name("FILE");
  app.add_option("--samples", o->samples, "Evaluation images to compare; default: all")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  app.add_option("--require", o->judges, "Judges that must run, separated by commas")
      ->type_name("NAME,...")
      ->delimiter(',')
      ->allow_extra_args(false);
  add_json(app, *o);
  return [o] {
    const Json r = trainers::verify_report(o->run, o->model, o->samples, o->judges);
    if (o->json) {
      print_json(r);
    } else {
      for (const Json& judge : r["judges"]) {
        fmt::print("{}: mismatches: {} of {} values in {} tensors\n", judge["name"].get<std::string>(),
                   judge["mismatches"].get<int64_t>(), judge["compared"].get<int64_t>(), judge["tensors"].size());
        for (const Json& tensor : judge["tensors"]) {
          if (tensor["mismatches"] == 0) continue;
          fmt::print("  {}: {} of {}, by {} at most; the first: {}\n", tensor["name"].get<std::string>(),
                     tensor["mismatches"].get<int64_t>(), tensor["compared"].get<int64_t>(),
                     tensor["max_difference"].get<double>(), tensor.value("first", Json()).dump());
        }
        for (const Json& tensor : judge["tensors"]) {
          if (tensor["ties"] == 0) continue;
          fmt::print("  {}: {} of {} are ties that it rounds otherwise\n", tensor["name"].get<std::string>(),
                     tensor["ties"].get<int64_t>(), tensor["compared"].get<int64_t>());
        }
        for (const Json& tensor : judge["advisory"]) {
          fmt::print("  advisory: {}: {} of {} differ, by {} at most\n", tensor["name"].get<std::string>(),
                     tensor["mismatches"].get<int64_t>(), tensor["compared"].get<int64_t>(),
                     tensor["max_difference"].get<double>());
        }
        print_lines(judge, "  left out", "left_out");
        print_lines(judge, "  computed in float", "float_nodes");
        if (judge.contains("default_session")) {
          fmt::print("  on this CPU a session with default options gives {} of {} codes differently\n",
                     judge["default_session"]["mismatches"].get<int64_t>(),
                     judge["default_session"]["compared"].get<int64_t>());
        }
      }
      print_lines(r, "not compared", "skipped");
      print_lines(r, "cannot judge here", "not_run");
      print_lines(r, "required judges that did not run", "missing_judges");
      fmt::print("{}: mismatches: {}, samples: {}\n", r["passed"] == true ? "passed" : "FAILED",
                 r["mismatches"].get<int64_t>(), r["samples"].get<int64_t>());
    }
    return r["passed"] == true ? 0 : 1;
  };
}

Run add_inspect(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  CLI::Option* run = app.add_option("--run", o->run, "Run folder of `qat train`")->type_name("DIR");
  app.add_option("--config", o->config, "YAML file of an experiment")->type_name("FILE")->excludes(run);
  app.add_option("--target", o->target, "See `qat list targets`; default: the config's")->type_name("NAME");
  app.add_flag("--graph", o->graph, "Print the traced graph, its fusions and its quantizers");
  add_json(app, *o);
  return [o] {
    const Json r = trainers::inspect_report(o->run, o->config, o->target);
    if (o->json) {
      print_json(r);
      return 0;
    }
    fmt::print("{}: {} parameters ({} as float32), input {}, {} nodes, {} quantized layers\n",
               r["model"].get<std::string>(), r["parameters"].get<int64_t>(),
               format_bytes(r["parameter_bytes"].get<uint64_t>()), r["input"].dump(), r["nodes"].get<int64_t>(),
               r["quantized_layers"].get<int64_t>());
    print_lines(r, "in float", "float_layers");
    if (o->graph) {
      fmt::print("graph:\n{}", r["graph"].get<std::string>());
      print_lines(r, "fusions", "fusions");
    }
    print_lines(r, "quantizers", "quantizers");
    return 0;
  };
}

Run add_report(CLI::App& app) {
  struct Report {
    std::vector<std::string> runs;
    std::string out;
    std::optional<int64_t> samples;
  };
  const auto o = std::make_shared<Report>();
  app.add_option("--run", o->runs, "Run folders of `qat train`; several are shown side by side")
      ->required()
      ->type_name("DIR...");
  app.add_option("--out", o->out, "HTML file to write")->required()->type_name("FILE");
  app.add_option("--samples", o->samples, "Evaluation images; default: all")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  return [o] {
    const uint64_t bytes = trainers::write_report(o->runs, o->out, o->samples);
    fmt::print("{} ({})\n", o->out, format_bytes(bytes));
    return 0;
  };
}

}  // namespace qat::cli
