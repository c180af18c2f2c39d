#include "trainers/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/config/config.h"

namespace qat::trainers {
namespace {

struct ConstantOptions {
  double warmup = 0;
};

struct CosineOptions {
  double warmup = 0;
  double final = 0;
};

struct StepOptions {
  double warmup = 0;
  std::vector<int64_t> milestones;
  double gamma = 0.1;
};

}  // namespace
}  // namespace qat::trainers

template <>
struct qat::config::Schema<qat::trainers::ConstantOptions> {
  static void describe(Fields<qat::trainers::ConstantOptions>& f) {
    f.field("warmup", &qat::trainers::ConstantOptions::warmup).doc("epochs of linear warm-up").minimum(0).maximum(1e6);
  }
};

template <>
struct qat::config::Schema<qat::trainers::CosineOptions> {
  static void describe(Fields<qat::trainers::CosineOptions>& f) {
    using T = qat::trainers::CosineOptions;
    f.field("warmup", &T::warmup).doc("epochs of linear warm-up").minimum(0).maximum(1e6);
    f.field("final", &T::final).doc("factor that the curve ends at").minimum(0).maximum(1);
  }
};

template <>
struct qat::config::Schema<qat::trainers::StepOptions> {
  static void describe(Fields<qat::trainers::StepOptions>& f) {
    using T = qat::trainers::StepOptions;
    f.field("warmup", &T::warmup).doc("epochs of linear warm-up").minimum(0).maximum(1e6);
    f.field("milestones", &T::milestones).doc("epochs at which the learning rate drops").minimum(0);
    f.field("gamma", &T::gamma).doc("factor of each drop").above(0).maximum(1);
  }
};

namespace qat::trainers {
namespace {

int64_t warmup_steps(double epochs, const Position& at) {
  const double steps = epochs * static_cast<double>(at.steps_per_epoch);
  return std::min(at.total, static_cast<int64_t>(std::llround(steps)));
}

double warmup_factor(double epochs, const Position& at) {
  const int64_t steps = warmup_steps(epochs, at);
  return at.step < steps ? static_cast<double>(at.step + 1) / static_cast<double>(steps) : 1.0;
}

double factor(const ConstantOptions& options, const Position& at) { return warmup_factor(options.warmup, at); }

double factor(const CosineOptions& options, const Position& at) {
  const int64_t warmup = warmup_steps(options.warmup, at);
  if (at.step < warmup) return warmup_factor(options.warmup, at);
  const double done = static_cast<double>(at.step - warmup) / static_cast<double>(at.total - warmup);
  return options.final + (1 - options.final) * (1 + std::cos(std::numbers::pi * done)) / 2;
}

double factor(const StepOptions& options, const Position& at) {
  const int64_t epoch = at.step / at.steps_per_epoch;
  const auto reached = std::count_if(options.milestones.begin(), options.milestones.end(),
                                     [epoch](int64_t milestone) { return epoch >= milestone; });
  return warmup_factor(options.warmup, at) * std::pow(options.gamma, static_cast<double>(reached));
}

template <class Options>
ScheduleFactory factory() {
  return {
      [](const config::Node& options) { return config::to_node(config::parse<Options>(options)); },
      [](const config::Node& node) -> Schedule {
        return [options = config::parse<Options>(node)](const Position& at) { return factor(options, at); };
      },
      [] { return config::docs<Options>(); },
  };
}

}  // namespace

Registry<ScheduleFactory>& schedules() {
  static Registry<ScheduleFactory> registry = [] {
    Registry<ScheduleFactory> r("schedule");
    r.add("constant", "one learning rate", factory<ConstantOptions>());
    r.add("cosine", "half a cosine down to `final` (Loshchilov and Hutter 2017)", factory<CosineOptions>());
    r.add("step", "drops by `gamma` at each of `milestones`", factory<StepOptions>());
    return r;
  }();
  return registry;
}

}  // namespace qat::trainers
