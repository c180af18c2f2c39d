// qat: the command line. Results go to stdout; progress, logs and errors to stderr.
// Exit codes: 0 done, 1 failed, 2 a mistake of usage or config, 130 stopped by a signal.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/log/log.h"
#include "tools/qat/commands.h"
#include "trainers/commands.h"

namespace {

/// OpenMP's threads spin while they wait, which slows training tenfold once data workers or other programs share the
/// cores. The runtime reads its policy while it is loaded, so the program starts itself again with another one.
void wait_without_spinning(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);  // returns only when it fails; then the default policy serves
}

int run(int argc, char** argv) {
  CLI::App app("Quantization-aware training of vision models, from training to a verified integer network.", "qat");
  app.require_subcommand(0, 1);  // a wrong name would otherwise only be told as a missing command
  app.get_formatter()->column_width(32);
  app.option_defaults()->always_capture_default();
  std::vector<std::pair<CLI::App*, qat::cli::Run>> commands;
  std::vector<std::string> plugins;
  const auto add = [&](const char* name, const char* description, auto&& setup) {
    CLI::App* command = app.add_subcommand(name, description);
    commands.emplace_back(command, setup(*command));
  };
  using namespace qat::cli;
  add("train", "Run an experiment's stages into a run folder",
      [&](CLI::App& a) { return add_train(a, argv[0], plugins, /*post_training=*/false); });
  add("calibrate", "Quantize trained weights without training: an experiment's other stages",
      [&](CLI::App& a) { return add_train(a, argv[0], plugins, /*post_training=*/true); });
  add("eval", "Measure a run's network on the evaluation data", add_eval);
  add("export", "Write a run's network to a file of another format", add_export);
  add("verify", "Compare an exported file with the training's network, code by code", add_verify);
  add("inspect", "Show a network, its graph and its quantizers", add_inspect);
  add("report", "Write one HTML page about one run or several", add_report);
  add("predict", "Classify image files with an exported file", add_predict);
  add("bench", "Measure this machine's training step, or inference", [&](CLI::App& a) { return add_bench(a, argv); });
  add("list", "List what a config can name", add_list);
  add("config", "Check a config, write it out in full, or print the reference", add_config);
  add("version", "Print the versions of qat and LibTorch", add_version);
  for (const auto& [command, action] : commands) {
    if (command->get_name() == "version") continue;
    command->add_option("--plugin", plugins, "Shared library with models or quantizers of your own; may be repeated")
        ->type_name("FILE")
        ->allow_extra_args(false);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    qat::log::write_stderr("qat: " + qat::one_line(error.what()) + " (see `qat --help`)\n");
    return 2;
  }
  for (const auto& [command, action] : commands) {
    if (!command->parsed()) continue;
    const std::string name = command->get_name();
    if (name == "train" || name == "eval" || name == "verify" || name == "report" || name == "bench")
      wait_without_spinning(argv);
    qat::trainers::load_plugins(plugins);
    return action();
  }
  throw qat::UsageError("expected a command (see `qat --help`)");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int code = run(argc, argv);
    // A full disk or a closed pipe shows only when the buffer is written out.
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
    qat::log::write_stderr("qat: cannot write the result to stdout\n");
    return 1;
  } catch (...) {
    const qat::trainers::Failure failure = qat::trainers::describe_current_exception();
    qat::log::write_stderr("qat: " + failure.message + "\n");
    return failure.exit_code;
  }
}
