// Learning rate schedules: pure functions of the position in a stage, so that a resumed run needs no state of theirs.
#pragma once

#include <cstdint>
#include <functional>

#include "core/config/node.h"
#include "core/registry/registry.h"

namespace qat::trainers {

/// Where a stage is: step 0 <= step < total.
struct Position {
  int64_t step = 0;
  int64_t total = 1;
  int64_t steps_per_epoch = 1;
};

/// The factor on the optimizer's learning rate.
using Schedule = std::function<double(const Position&)>;

/// All take `warmup` (epochs, may be a fraction): the factor of step i of w warm-up steps is multiplied by (i + 1) / w.
///   constant  1
///   cosine    final + (1 - final) * (1 + cos(pi * (step - w) / (total - w))) / 2 behind the warm-up
///             (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts)
///   step      gamma^(number of milestones, in epochs, that have been reached)
struct ScheduleFactory {
  /// All options written out. Throws ConfigError for unknown or impossible ones.
  config::Node (*resolve)(const config::Node& options);
  Schedule (*make)(const config::Node& options);
  /// A Markdown table of the options.
  std::string (*docs)();
};

Registry<ScheduleFactory>& schedules();

}  // namespace qat::trainers
