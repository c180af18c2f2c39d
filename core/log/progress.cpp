#include "core/log/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/base/text.h"
#include "core/log/log.h"

namespace qat::log {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Progress::Progress(int64_t total, ProgressOptions options) : total_(total), options_(std::move(options)) {
  if (!options_.terminal) options_.terminal = stderr_is_terminal();
  if (!options_.interval) options_.interval = *options_.terminal ? 0.2 : 10.0;
  if (!options_.write) options_.write = write_stderr;
  if (!options_.clock) options_.clock = steady_seconds;
  start_ = options_.clock();
}

Progress::~Progress() { finish(); }

void Progress::update(int64_t done, const std::function<std::string()>& text, double data_seconds) {
  const double now = options_.clock();
  if (!first_done_) {
    // What was done before the first update took an unknown time (a resume, the set-up of workers).
    first_done_ = done;
    first_time_ = now;
  }
  const double since = now - last_shown_.value_or(start_);
  const bool last = done >= total_;
  if (!last && since < *options_.interval) return;
  last_shown_ = now;

  std::string line = text();
  const double seconds = now - first_time_;
  const double rate = seconds > 0.0 ? static_cast<double>(done - *first_done_) / seconds : 0.0;
  if (rate > 0.0) line += fmt::format(" | {:.{}f} {}/s", rate, rate < 10.0 ? 1 : 0, options_.unit);
  if (data_seconds >= 0.0 && now > start_) {
    line += fmt::format(" | data {:.0f}%", 100.0 * std::min(1.0, data_seconds / (now - start_)));
  }
  if (rate > 0.0 && !last) line += " | eta " + format_duration(static_cast<double>(total_ - done) / rate);
  options_.write(*options_.terminal ? "\r" + line + "\x1b[K" : line + "\n");
  line_open_ = *options_.terminal;
}

void Progress::finish() {
  if (std::exchange(line_open_, false)) options_.write("\n");
}

}  // namespace qat::log
