#include "core/log/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <mutex>

#include "core/base/error.h"

namespace qat::log {
namespace {

struct State {
  std::mutex mutex;
  std::unique_ptr<spdlog::logger> file;
};

State& state() {
  static State state;
  return state;
}

void put(std::string_view bytes) {
  std::fwrite(bytes.data(), 1, bytes.size(), stderr);
  std::fflush(stderr);
}

/// Erases a progress line that may stand where the next line begins.
const char* line_start() { return stderr_is_terminal() ? "\r\x1b[K" : ""; }

}  // namespace

void open_file(const std::string& path) {
  std::shared_ptr<spdlog::sinks::basic_file_sink_mt> sink;
  try {
    sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
  } catch (const spdlog::spdlog_ex& exception) {
    throw FileError(fmt::format("{}: cannot open the log: {}", path, exception.what()));
  }
  auto logger = std::make_unique<spdlog::logger>("qat", std::move(sink));
  logger->set_pattern("[%Y-%m-%d %H:%M:%S.%e] [%l] %v");
  logger->flush_on(spdlog::level::info);
  // Called under the mutex of write().
  logger->set_error_handler([path, told = false](const std::string& cause) mutable {
    if (!std::exchange(told, true)) put(fmt::format("{}warning: {}: {}\n", line_start(), path, cause));
  });
  const std::lock_guard lock(state().mutex);
  state().file = std::move(logger);
}

void close_file() {
  const std::lock_guard lock(state().mutex);
  state().file.reset();
}

void write(Level level, std::string_view message) {
  const bool warning = level == Level::kWarning;
  const std::lock_guard lock(state().mutex);
  put(fmt::format("{}{}{}\n", line_start(), warning ? "warning: " : "", message));
  if (state().file) state().file->log(warning ? spdlog::level::warn : spdlog::level::info, message);
}

void write_stderr(std::string_view bytes) {
  const std::lock_guard lock(state().mutex);
  put(bytes);
}

bool stderr_is_terminal() {
  static const bool terminal = ::isatty(STDERR_FILENO) == 1;
  return terminal;
}

}  // namespace qat::log
