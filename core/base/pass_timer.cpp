#include "core/base/pass_timer.h"

#include <algorithm>
#include <atomic>
#include <mutex>

namespace qat {
namespace {

std::atomic<bool> timing{false};
std::mutex mutex;  // of the table
std::vector<std::pair<std::string, double>> table;

}  // namespace

PassTimer::PassTimer(const char* pass) : pass_(timing.load(std::memory_order_relaxed) ? pass : nullptr) {
  if (pass_ != nullptr) start_ = std::chrono::steady_clock::now();
}

PassTimer::~PassTimer() {
  if (pass_ == nullptr) return;
  const double spent = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
  const std::lock_guard lock(mutex);
  const auto found = std::find_if(table.begin(), table.end(), [this](const auto& row) { return row.first == pass_; });
  if (found != table.end()) {
    found->second += spent;
  } else {
    table.emplace_back(pass_, spent);
  }
}

void time_passes(bool on) {
  timing = on;
  take_pass_times();
}

std::vector<std::pair<std::string, double>> take_pass_times() {
  const std::lock_guard lock(mutex);
  return std::exchange(table, {});
}

}  // namespace qat
