#include "trainers/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/config/config.h"

namespace qat::trainers {
namespace {

struct Warmup {
  double warmup_epochs = 0;
  int64_t warmup_steps = 0;
  double warmup_start = 0.01;
};

struct ConstantOptions : Warmup {};

struct StepOptions : Warmup {
  int64_t step_size = 1;
  double gamma = 0.1;
};

struct MultistepOptions : Warmup {
  std::vector<int64_t> milestones;
  double gamma = 0.1;
};

struct ExponentialOptions : Warmup {
  double gamma = 0.9;
};

struct PolynomialOptions : Warmup {
  double power = 1;
};

struct CosineOptions : Warmup {
  double final = 0;
};

struct OneCycleOptions : Warmup {
  double pct_start = 0.3;
  std::string anneal_strategy = "cos";
  double div_factor = 25;
  double final_div_factor = 1e4;
};

template <class T>
void describe_warmup(config::Fields<T>& f) {
  f.template field<double>("warmup_epochs", &T::warmup_epochs).doc("epochs of linear warm-up").minimum(0).maximum(1e6);
  f.template field<int64_t>("warmup_steps", &T::warmup_steps)
      .doc("the same in optimizer steps")
      .minimum(0)
      .maximum(1e12);
  f.template field<double>("warmup_start", &T::warmup_start)
      .doc("factor that the warm-up starts at")
      .above(0)
      .maximum(1);
  f.check([](const T& o) -> std::string {
    const bool both = o.warmup_epochs != 0 && o.warmup_steps != 0;
    return both ? "expected either warmup_epochs or warmup_steps" : "";
  });
}

template <class T>
config::Field& describe_gamma(config::Fields<T>& f) {
  return f.field("gamma", &T::gamma).doc("factor of each drop").above(0).maximum(1);
}

}  // namespace
}  // namespace qat::trainers

namespace qat::config {

template <>
struct Schema<trainers::ConstantOptions> {
  static void describe(Fields<trainers::ConstantOptions>& f) { trainers::describe_warmup(f); }
};

template <>
struct Schema<trainers::StepOptions> {
  static void describe(Fields<trainers::StepOptions>& f) {
    f.field("step_size", &trainers::StepOptions::step_size).doc("epochs from drop to drop").required().minimum(1);
    trainers::describe_gamma(f);
    trainers::describe_warmup(f);
  }
};

template <>
struct Schema<trainers::MultistepOptions> {
  static void describe(Fields<trainers::MultistepOptions>& f) {
    using T = trainers::MultistepOptions;
    f.field("milestones", &T::milestones).doc("epochs at which the learning rate drops").required().minimum(0);
    trainers::describe_gamma(f);
    trainers::describe_warmup(f);
  }
};

template <>
struct Schema<trainers::ExponentialOptions> {
  static void describe(Fields<trainers::ExponentialOptions>& f) {
    trainers::describe_gamma(f).doc("factor of each epoch");
    trainers::describe_warmup(f);
  }
};

template <>
struct Schema<trainers::PolynomialOptions> {
  static void describe(Fields<trainers::PolynomialOptions>& f) {
    f.field("power", &trainers::PolynomialOptions::power).doc("of the part that is left").above(0).maximum(100);
    trainers::describe_warmup(f);
  }
};

template <>
struct Schema<trainers::CosineOptions> {
  static void describe(Fields<trainers::CosineOptions>& f) {
    f.field("final", &trainers::CosineOptions::final).doc("factor that the curve ends at").minimum(0).maximum(1);
    trainers::describe_warmup(f);
  }
};

template <>
struct Schema<trainers::OneCycleOptions> {
  static void describe(Fields<trainers::OneCycleOptions>& f) {
    using T = trainers::OneCycleOptions;
    f.field("pct_start", &T::pct_start).doc("share of the steps that goes up").minimum(0).maximum(1);
    f.field("anneal_strategy", &T::anneal_strategy).doc("form of both ways").one_of({"cos", "linear"});
    f.field("div_factor", &T::div_factor).doc("the top over the start").minimum(1).maximum(1e12);
    f.field("final_div_factor", &T::final_div_factor).doc("the start over the end").minimum(1).maximum(1e12);
    trainers::describe_warmup(f);
  }
};

}  // namespace qat::config

namespace qat::trainers {
namespace {

// The schedules without their warm-up; a stage that is all warm-up asks for step 0 of 0.

double epoch_of(const Position& at) { return static_cast<double>(at.step / at.steps_per_epoch); }

double done(const Position& at) {
  return at.total > 0 ? static_cast<double>(at.step) / static_cast<double>(at.total) : 0.0;
}

double curve(const ConstantOptions&, const Position&) { return 1; }

double curve(const StepOptions& o, const Position& at) {
  return std::pow(o.gamma, std::floor(epoch_of(at) / static_cast<double>(o.step_size)));
}

double curve(const MultistepOptions& o, const Position& at) {
  const auto reached = std::count_if(o.milestones.begin(), o.milestones.end(),
                                     [&](int64_t milestone) { return epoch_of(at) >= static_cast<double>(milestone); });
  return std::pow(o.gamma, static_cast<double>(reached));
}

double curve(const ExponentialOptions& o, const Position& at) { return std::pow(o.gamma, epoch_of(at)); }

double curve(const PolynomialOptions& o, const Position& at) { return std::pow(1 - done(at), o.power); }

// 1 at part 0, 0 at part 1.
double half_cosine(double part) { return (1 + std::cos(std::numbers::pi * part)) / 2; }

double curve(const CosineOptions& o, const Position& at) { return o.final + (1 - o.final) * half_cosine(done(at)); }

double curve(const OneCycleOptions& o, const Position& at) {
  const auto anneal = [&](double from, double to, double part) {
    return to + (from - to) * (o.anneal_strategy == "cos" ? half_cosine(part) : 1 - part);
  };
  const double step = static_cast<double>(at.step), last = std::max(0.0, static_cast<double>(at.total - 1));
  const double top = std::max(0.0, o.pct_start * static_cast<double>(at.total) - 1);
  const double start = 1 / o.div_factor;
  if (step < top) return anneal(start, 1, step / top);
  return top < last ? anneal(1, start / o.final_div_factor, (step - top) / (last - top)) : 1.0;
}

int64_t warmup_of(const Warmup& o, const Position& at) {
  const double steps = o.warmup_epochs * static_cast<double>(at.steps_per_epoch) + static_cast<double>(o.warmup_steps);
  return std::min(at.total, static_cast<int64_t>(std::llround(std::min(steps, 1e15))));
}

template <class Options>
double factor(const Options& options, const Position& at) {
  const int64_t warmup = warmup_of(options, at);
  const Position rest{std::max<int64_t>(0, at.step - warmup), at.total - warmup, at.steps_per_epoch};
  const double value = curve(options, rest);
  if (at.step >= warmup) return value;
  const double part = static_cast<double>(at.step) / static_cast<double>(warmup);
  return value * (options.warmup_start + (1 - options.warmup_start) * part);
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
    r.add("step", "drops by `gamma` every `step_size` epochs", factory<StepOptions>());
    r.add("multistep", "drops by `gamma` at each of `milestones`", factory<MultistepOptions>());
    r.add("exponential", "drops by `gamma` every epoch", factory<ExponentialOptions>());
    r.add("polynomial", "a power of the part that is left; 1: a line", factory<PolynomialOptions>());
    r.add("cosine", "half a cosine down to `final` (Loshchilov and Hutter 2017)", factory<CosineOptions>());
    r.add("one_cycle", "up and down once (Smith and Topin 2018)", factory<OneCycleOptions>());
    return r;
  }();
  return registry;
}

}  // namespace qat::trainers
