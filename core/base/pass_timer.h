// Where a step's time goes: named passes add their wall time to one table, for `qat bench step`.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace qat {

/// Adds the time from construction to destruction to its pass, where timing is on; otherwise costs one load. Passes may
/// nest: the outer one's time then includes the inner one's. `pass` must live as long as the program.
class PassTimer {
 public:
  explicit PassTimer(const char* pass);
  ~PassTimer();
  PassTimer(const PassTimer&) = delete;
  PassTimer& operator=(const PassTimer&) = delete;

 private:
  const char* pass_;  // null while timing is off
  std::chrono::steady_clock::time_point start_;
};

/// Switches timing on or off; the table is empty afterwards.
void time_passes(bool on);

/// Milliseconds of each pass since they were last asked for, in the order of the passes' first use; empties the table.
std::vector<std::pair<std::string, double>> take_pass_times();

}  // namespace qat
