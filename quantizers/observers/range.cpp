#include "quantizers/observers/range.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "core/config/config.h"

template <>
struct qat::config::Schema<qat::quantizers::MovingAverageOptions> {
  static void describe(Fields<qat::quantizers::MovingAverageOptions>& f) {
    using T = qat::quantizers::MovingAverageOptions;
    f.field("averaging", &T::averaging).doc("weight of a new batch").above(0).maximum(1);
    f.field("start", &T::start)
        .doc("what the average starts from; debiased: zero, corrected")
        .one_of({"first_batch", "zero", "debiased"});
    f.field("per_sample", &T::per_sample).doc("a batch counts as the mean of its samples' ranges");
  }
};

template <>
struct qat::config::Schema<qat::quantizers::BatchesOptions> {
  static void describe(Fields<qat::quantizers::BatchesOptions>& f) {
    using T = qat::quantizers::BatchesOptions;
    f.field("statistic", &T::statistic).doc("over the batches' ranges").one_of({"mode", "mean", "median", "max"});
  }
};

namespace qat::quantizers {
namespace {

constexpr int64_t kKeptBatches = 1024;

/// A buffer of a smallest and a largest value.
double* ends(at::Tensor& range) { return range.mutable_data_ptr<double>(); }

std::pair<double, double> pair_of(const at::Tensor& range) {
  const double* r = range.const_data_ptr<double>();
  return {r[0], r[1]};
}

void extend(at::Tensor& range, bool first, double min, double max) {
  double* r = ends(range);
  r[0] = first ? min : std::min(r[0], min);
  r[1] = first ? max : std::max(r[1], max);
}

double median_of(std::vector<double> values) {
  const size_t half = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + half, values.end());
  const double upper = values[half];
  if (values.size() % 2 == 1) return upper;
  return (*std::max_element(values.begin(), values.begin() + half) + upper) / 2;
}

/// The most frequent value on a grid of 16 values an octave; the mean of its members.
double mode_of(const std::vector<double>& values) {
  struct Cell {
    int64_t count = 0;
    double sum = 0;
  };
  std::map<double, Cell> cells;  // in the order of the values
  for (const double v : values) {
    const double key = v == 0 ? 0 : std::copysign(std::exp2(std::nearbyint(16 * std::log2(std::abs(v))) / 16), v);
    ++cells[key].count;
    cells[key].sum += v;
  }
  Cell best;
  for (const auto& [key, cell] : cells) {
    if (cell.count > best.count) best = cell;
  }
  return best.sum / static_cast<double>(best.count);
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

}  // namespace

MinMaxObserver::MinMaxObserver(const quant::ObserverOptions& options)
    : range_(register_buffer("range", at::zeros({2}, at::kDouble))) {
  options.options.as<quant::NoOptions>();
}
void MinMaxObserver::add(const at::Tensor&, double min, double max) { add_range(min, max); }
void MinMaxObserver::add_range(double min, double max) { extend(range_, batches() == 0, min, max); }
std::pair<double, double> MinMaxObserver::range_now() const { return pair_of(range_); }
std::optional<quant::RangeForm> MinMaxObserver::range_form() const {
  return quant::RangeForm{.rule = device::FollowRule::kExtremes, .range = range_, .batches = {}};
}

RunningMaxObserver::RunningMaxObserver(const quant::ObserverOptions& options)
    : range_(register_buffer("range", at::zeros({2}, at::kDouble))) {
  options.options.as<quant::NoOptions>();
}
void RunningMaxObserver::add(const at::Tensor&, double min, double max) { add_range(min, max); }
void RunningMaxObserver::add_range(double min, double max) { extend(range_, batches() == 0, min, max); }
std::pair<double, double> RunningMaxObserver::range_now() const {
  const auto [min, max] = pair_of(range_);
  const double largest = std::max(std::abs(min), std::abs(max));
  return {min < 0 ? -largest : 0.0, largest};
}

OnlineObserver::OnlineObserver(const quant::ObserverOptions& options)
    : range_(register_buffer("range", at::zeros({2}, at::kDouble))) {
  options.options.as<quant::NoOptions>();
}
void OnlineObserver::add(const at::Tensor&, double min, double max) { add_range(min, max); }
void OnlineObserver::add_range(double min, double max) { extend(range_, true, min, max); }
std::pair<double, double> OnlineObserver::range_now() const { return pair_of(range_); }
std::optional<quant::RangeForm> OnlineObserver::range_form() const {
  return quant::RangeForm{.rule = device::FollowRule::kLast, .range = range_, .batches = {}};
}

MovingAverageObserver::MovingAverageObserver(const quant::ObserverOptions& options)
    : options_(options.options.as<MovingAverageOptions>()),
      range_(register_buffer("range", at::zeros({2}, at::kDouble))) {}

void MovingAverageObserver::add(const at::Tensor& values, double min, double max) {
  if (!options_.per_sample || values.dim() < 2) return add_range(min, max);
  const auto [low, high] = at::aminmax(values.flatten(1), 1);
  add_range(low.to(at::kDouble).mean().item<double>(), high.to(at::kDouble).mean().item<double>());
}

void MovingAverageObserver::add_range(double min, double max) {
  double* r = ends(range_);
  const bool copy = batches() == 0 && options_.start == "first_batch";
  r[0] += (copy ? 1.0 : options_.averaging) * (min - r[0]);
  r[1] += (copy ? 1.0 : options_.averaging) * (max - r[1]);
}

std::pair<double, double> MovingAverageObserver::range_now() const {
  auto [min, max] = pair_of(range_);
  if (options_.start == "debiased") {
    const double seen = 1.0 - std::pow(1.0 - options_.averaging, static_cast<double>(batches()));
    min /= seen, max /= seen;
  }
  return {min, max};
}

std::optional<quant::RangeForm> MovingAverageObserver::range_form() const {
  if (options_.start == "debiased") return std::nullopt;  // a power, whose last bit is the library's
  return quant::RangeForm{
      .averaging = options_.averaging, .starts_here = options_.start == "first_batch", .range = range_, .batches = {}};
}

BatchesObserver::BatchesObserver(const quant::ObserverOptions& options)
    : options_(options.options.as<BatchesOptions>()),
      ranges_(register_buffer("ranges", at::zeros({kKeptBatches, 2}, at::kDouble))) {}

void BatchesObserver::add(const at::Tensor&, double min, double max) { add_range(min, max); }

void BatchesObserver::add_range(double min, double max) {
  double* r = ends(ranges_) + 2 * (batches() % kKeptBatches);
  r[0] = min, r[1] = max;
}

std::pair<double, double> BatchesObserver::range_now() const {
  const int64_t n = std::min(batches(), kKeptBatches);
  const double* r = ranges_.const_data_ptr<double>();
  std::vector<double> min(n), max(n);
  for (int64_t i = 0; i < n; ++i) min[i] = r[2 * i], max[i] = r[2 * i + 1];
  if (options_.statistic == "mean") return {mean_of(min), mean_of(max)};
  if (options_.statistic == "median") return {median_of(min), median_of(max)};
  if (options_.statistic == "mode") return {mode_of(min), mode_of(max)};
  return {*std::min_element(min.begin(), min.end()), *std::max_element(max.begin(), max.end())};
}

}  // namespace qat::quantizers
