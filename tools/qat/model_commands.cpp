// The commands on an exported file alone: predict.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/text.h"
#include "tools/qat/commands.h"
#include "trainers/predict.h"

namespace qat::cli {

using Json = nlohmann::ordered_json;

Run add_predict(CLI::App& app) {
  struct Options {
    std::string model;
    std::vector<std::string> inputs;
    int64_t top = 3;
    bool json = false;
  };
  const auto o = std::make_shared<Options>();
  app.add_option("--model", o->model, "Exported file")->required()->type_name("FILE");
  app.add_option("inputs", o->inputs, "Image files, or folders of them")->required()->type_name("INPUT");
  app.add_option("--top", o->top, "Classes to print for each image")->type_name("N")->check(CLI::PositiveNumber);
  app.add_flag("--json", o->json, "Print one JSON object and nothing else");
  return [o] {
    const Json report = trainers::predict_report(o->model, o->inputs, o->top);
    if (o->json) {
      fmt::print("{}\n", report.dump(2, ' ', false, Json::error_handler_t::replace));
      return 0;
    }
    for (const Json& prediction : report["predictions"]) {
      std::vector<std::string> classes;
      for (const Json& entry : prediction["top"]) {
        classes.push_back(
            fmt::format("{} {:.4f}", entry["class"].get<std::string>(), entry["probability"].get<double>()));
      }
      fmt::print("{}: {}\n", prediction["file"].get<std::string>(), join(classes));
    }
    return 0;
  };
}

}  // namespace qat::cli
