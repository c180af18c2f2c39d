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

/// The closed forms of torch.optim.lr_scheduler, t the step of T, e the epoch of t:
///   constant     1
///   step         gamma^floor(e / step_size)
///   multistep    gamma^(number of milestones <= e)
///   exponential  gamma^e
///   polynomial   (1 - t / T)^power
///   cosine       final + (1 - final) (1 + cos(pi t / T)) / 2   (Loshchilov and Hutter 2017, arXiv:1608.03983, no
///   restarts) one_cycle    from 1 / div_factor up to 1 at t = pct_start T - 1, then down to 1 / (div_factor
///   final_div_factor) at
///                T - 1, along half a cosine or a line   (Smith and Topin 2018, arXiv:1708.07120; momentum stays)
/// All take a warm-up of w steps, `warmup_epochs` (may be a fraction) or `warmup_steps`. It multiplies the schedule's
/// first factor by s + (1 - s) t / w, s = `warmup_start`; t, e and T of the formulas count what is left behind it.
struct ScheduleFactory {
  /// All options written out. Throws ConfigError for unknown or impossible ones.
  config::Node (*resolve)(const config::Node& options);
  Schedule (*make)(const config::Node& options);
  /// A Markdown table of the options.
  std::string (*docs)();
};

Registry<ScheduleFactory>& schedules();

}  // namespace qat::trainers
