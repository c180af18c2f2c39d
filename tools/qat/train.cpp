#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <memory>

#include "core/base/text.h"
#include "tools/qat/commands.h"
#include "trainers/run.h"

namespace qat::cli {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set in a signal handler");

/// The first signal asks for an orderly stop, a second one, of either kind, ends the process.
void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int number) {
    if (stop_requested.exchange(true)) _exit(128 + number);
  };
  sigemptyset(&action.sa_mask);
  for (const int number : {SIGINT, SIGTERM}) sigaction(number, &action, nullptr);
  // A file size limit shows as a failed write with its own message, like a full disk.
  signal(SIGXFSZ, SIG_IGN);
}

/// An argument as a shell takes it.
std::string quoted(const std::string& text) {
  const bool plain = !text.empty() &&
                     text.find_first_not_of(
                         "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         "0123456789_-./=:,+%@[]") == std::string::npos &&
                     text.find_first_of("[]") == std::string::npos;
  if (plain) return text;
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string plugin_arguments(const std::vector<std::string>& plugins) {
  std::string arguments;
  for (const std::string& plugin : plugins) arguments += " --plugin " + quoted(plugin);
  return arguments;
}

void print(const trainers::TrainSummary& summary, const std::string& program, const std::string& plugins) {
  fmt::print("{:<24} {:>8} {:>8} {:>8} {:>12} {:>10}\n", "", "top-1", "top-5", "loss", "bytes", "ms/image");
  for (const trainers::TableRow& row : summary.rows) {
    fmt::print("{:<24} {:>8.4f} {:>8.4f} {:>8.4f} {:>12} {:>10}\n", row.name, row.top1, row.top5, row.loss, row.bytes,
               row.latency_ms ? fmt::format("{:.3f}", *row.latency_ms) : "-");
  }
  if (summary.compared >= 0) {
    fmt::print("verify: mismatches: {} of {} values compared\n", summary.mismatches, summary.compared);
  }
  const std::string qat = quoted(program), run = quoted(summary.folder);
  fmt::print("\nnext:\n  {} eval --run {}{}{}\n", qat, run, summary.exports.empty() ? "" : " --runtime integer",
             plugins);
  for (const std::string& file : summary.exports) {
    fmt::print("  {} verify --run {} --model {}{}\n", qat, run, quoted(file), plugins);
  }
  fmt::print("  {} inspect --run {} --graph{}\n", qat, run, plugins);
  fmt::print("  {} report --run {} --out {}{}\n", qat, run, quoted(summary.folder + "/report.html"), plugins);
}

std::string resume_command(const trainers::TrainRequest& request, const std::string& program,
                           const std::string& plugins) {
  std::string command = fmt::format("{} {} --config {}", quoted(program), request.post_training ? "calibrate" : "train",
                                    quoted(request.config));
  for (const std::string& change : request.overrides) command += " --set " + quoted(change);
  for (const std::string& key : request.allow) command += " --allow " + quoted(key);
  if (!request.out.empty()) command += " --out " + quoted(request.out);
  return command + plugins + " --resume";
}

}  // namespace

Run add_train(CLI::App& app, const std::string& program, const std::vector<std::string>& plugins, bool post_training) {
  const auto request = std::make_shared<trainers::TrainRequest>();
  request->post_training = post_training;
  app.add_option("--config", request->config, "YAML file of the experiment")->required()->type_name("FILE");
  app.add_option("--set", request->overrides, "Change a key, e.g. stages[0].float.epochs=1; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app.add_option("--out", request->out, "Run folder; default: runs/<config's file name>")->type_name("DIR");
  app.add_flag("--resume", request->resume, "Continue the run in its folder from its last checkpoint");
  app.add_option("--allow", request->allow,
                 "With --resume: a key that may differ from the run's config; may be repeated")
      ->type_name("KEY")
      ->allow_extra_args(false);
  return [request, program, &plugins] {
    catch_signals();
    request->stop = &stop_requested;
    try {
      print(trainers::train(*request), program, plugin_arguments(plugins));
    } catch (const trainers::Interrupted& stopped) {
      throw trainers::Interrupted(fmt::format("{}; continue with: {}", stopped.what(),
                                              resume_command(*request, program, plugin_arguments(plugins))));
    }
    return 0;
  };
}

}  // namespace qat::cli
