#include "core/quant/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qat::quant {

double Ramp::at(int64_t step, int64_t total) const {
  const double end = final.value_or(initial);
  const double done =
      std::clamp(static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, total)), 0.0, 1.0);
  return end + (initial - end) * (1 + std::cos(std::numbers::pi * done)) / 2;
}

StepSettings settings_at(const ScheduleConfig& schedule, int64_t step, int64_t total, uint64_t key) {
  StepSettings s;
  s.observe = step % schedule.observe_every == 0;
  s.noise_probability = schedule.noise_probability;
  s.noise_key = key;
  s.dampening = schedule.dampening.at(step, total);
  const WeightFreezing& freezing = schedule.weight_freezing;
  if (freezing.initial) s.freezing_threshold = Ramp{*freezing.initial, freezing.final}.at(step, total);
  s.freezing_momentum = freezing.momentum;
  return s;
}

}  // namespace qat::quant

namespace qat::config {

using quant::Ramp;
using quant::ScheduleConfig;
using quant::WeightFreezing;
using quant::WidthPhase;

void Schema<WidthPhase>::describe(Fields<WidthPhase>& f) {
  f.field("until", &WidthPhase::until).doc("75% of the stage's steps, {epoch: 3} or {step: 1000}").required();
  f.field("weight", &WidthPhase::weight).doc("instead of weight.bits").minimum(1).maximum(16);
  f.field("activation", &WidthPhase::activation).doc("instead of activation.bits").minimum(1).maximum(16);
}

void Schema<Ramp>::describe(Fields<Ramp>& f) {
  f.field("initial", &Ramp::initial).doc("at the first step").minimum(0);
  f.field("final", &Ramp::final).doc("at the last step, along half a cosine; null: initial").minimum(0);
}

void Schema<WeightFreezing>::describe(Fields<WeightFreezing>& f) {
  f.field("initial", &WeightFreezing::initial)
      .doc("oscillation frequency above which a weight is frozen, at the first step; null: off")
      .above(0);
  f.field("final", &WeightFreezing::final).doc("at the last step, along half a cosine; null: initial").above(0);
  f.field("momentum", &WeightFreezing::momentum).doc("of the moving averages").above(0).maximum(1);
}

void Schema<ScheduleConfig>::describe(Fields<ScheduleConfig>& f) {
  f.field("start_at", &ScheduleConfig::start_at)
      .doc(
          "where quantization starts, ranges being measured anew: 25% of the finetune stage's steps, {epoch: 1} or "
          "{step: 100}; until then it trains in float");
  f.field("observe_every", &ScheduleConfig::observe_every)
      .doc("ranges that follow the data see every n-th batch")
      .minimum(1);
  f.field("bits", &ScheduleConfig::bits)
      .doc("list of {until, weight, activation}: other widths at first; ranges are measured anew at every change");
  f.field("noise_probability", &ScheduleConfig::noise_probability)
      .doc("of each weight to be quantized in a step, until the freeze (Fan et al. 2021, arXiv:2004.07320); 1: all are")
      .above(0)
      .maximum(1);
  f.field("dampening", &ScheduleConfig::dampening)
      .doc("factor of the loss that pulls weights to their level (Nagel et al. 2022, arXiv:2203.11086); 0: off");
  f.field("weight_freezing", &ScheduleConfig::weight_freezing)
      .doc("weights that oscillate keep their code (arXiv:2203.11086)");
}

}  // namespace qat::config
