// The human line: to stderr, and with date and time to a run's log.txt. Thread-safe.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace qat::log {

/// Also appends all further lines to `path` (in place of an earlier file). Throws FileError when it cannot be opened.
/// A failing write later (full disk) is told once on stderr and never stops a run.
void open_file(const std::string& path);
void close_file();

enum class Level { kInfo, kWarning };
void write(Level level, std::string_view message);

/// Writes raw bytes to stderr, never between the bytes of another line.
void write_stderr(std::string_view bytes);
bool stderr_is_terminal();

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}

/// On stderr the line starts with "warning: ".
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace qat::log
