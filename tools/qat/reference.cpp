// The commands that need no run: list, config, version.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "core/base/version.h"
#include "tools/qat/commands.h"
#include "trainers/commands.h"
#include "trainers/experiment.h"
#include "trainers/gpu_library.h"

namespace qat::cli {

Run add_list(CLI::App& app) {
  const auto kind = std::make_shared<std::string>();
  app.add_option("kind", *kind, "What to list")->required()->check(CLI::IsMember(trainers::catalogue_kinds()));
  return [kind] {
    const std::vector<trainers::CatalogueEntry> entries = trainers::catalogue(*kind);
    size_t width = 0;
    for (const trainers::CatalogueEntry& entry : entries) width = std::max(width, entry.name.size());
    for (const trainers::CatalogueEntry& entry : entries) {
      fmt::print("{:<{}} {}\n", entry.name, width, entry.description);
    }
    return 0;
  };
}

Run add_config(CLI::App& app) {
  struct Options {
    std::string check, resolve;
    bool docs = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::Option_group* action = app.add_option_group("action", "What to do");
  action->add_option("--check", o->check, "Say whether a config is sound")->type_name("FILE");
  action->add_option("--resolve", o->resolve, "Print a config with all defaults")->type_name("FILE");
  action->add_flag("--docs", o->docs, "Print all keys as Markdown");
  action->require_option(1);
  return [o] {
    if (o->docs) {
      fmt::print("{}", trainers::experiment_docs());
    } else if (!o->resolve.empty()) {
      fmt::print("{}", config::dump(trainers::load_experiment(o->resolve)));
    } else {
      trainers::load_experiment(o->check);
      fmt::print("{}: ok\n", o->check);
    }
    return 0;
  };
}

Run add_version(CLI::App&) {
  return [] {
    std::string reason;
    const int gpus = trainers::count_gpus(&reason);
    fmt::print("qat {}\nLibTorch {} (CPU kernels: {})\nGPUs: {}\n", version_string(), trainers::libtorch_version(),
               trainers::cpu_capability(), gpus > 0 ? fmt::format("{}", gpus) : "none: " + reason);
    return 0;
  };
}

}  // namespace qat::cli
