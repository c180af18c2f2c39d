// One dense progress line: "epoch 3/20 step 120/390 | loss 1.8421 | 1524 img/s | data 4% | eta 06:12".
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace qat::log {

struct ProgressOptions {
  std::string unit = "img";
  /// Whether lines rewrite one another; by default, whether stderr is a terminal.
  std::optional<bool> terminal;
  /// Seconds between lines; by default 0.2 on a terminal and 10 elsewhere.
  std::optional<double> interval;
  /// Where the bytes go (stderr) and what time it is in seconds (a steady clock); tests give their own.
  std::function<void(std::string_view)> write;
  std::function<double()> clock;
};

/// Shows how far a loop over `total` units is. Rate and remaining time are means since the first update.
class Progress {
 public:
  explicit Progress(int64_t total, ProgressOptions options = {});
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Tells that `done` units (of the total, also those before a resume) are through. `text` makes the line's head and
  /// is called only when a line is due. `data_seconds`: time spent waiting for data since construction, or negative
  /// when it is not known.
  void update(int64_t done, const std::function<std::string()>& text, double data_seconds = -1.0);

  /// Ends a line that a terminal still shows. The destructor does the same.
  void finish();

 private:
  int64_t total_;
  ProgressOptions options_;
  double start_;
  std::optional<int64_t> first_done_;
  double first_time_ = 0.0;
  std::optional<double> last_shown_;
  bool line_open_ = false;
};

}  // namespace qat::log
