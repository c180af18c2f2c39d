#include "quantizers/observers/histogram.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/config/config.h"

template <>
struct qat::config::Schema<qat::quantizers::HistogramOptions> {
  static void describe(Fields<qat::quantizers::HistogramOptions>& f) {
    f.field("bins", &qat::quantizers::HistogramOptions::bins).doc("of the histogram").minimum(16).maximum(65536);
  }
};

template <>
struct qat::config::Schema<qat::quantizers::PercentileOptions> {
  static void describe(Fields<qat::quantizers::PercentileOptions>& f) {
    using T = qat::quantizers::PercentileOptions;
    f.field("bins", &T::bins).doc("of the histogram").minimum(16).maximum(65536);
    f.field("percentage", &T::percentage).doc("of the values that stay in the range").above(0).maximum(100);
  }
};

namespace qat::quantizers {
namespace {

constexpr int kPointsPerBin = 16;

size_t bin_of(double value, double min, double max, size_t bins) {
  const double position = (value - min) / (max - min) * static_cast<double>(bins);
  return std::min(bins - 1, static_cast<size_t>(std::max(0.0, position)));
}

std::vector<double> moved(const Histogram& old, double min, double max) {
  std::vector<double> counts(old.counts.size(), 0.0);
  if (old.max == old.min) {
    counts[bin_of(old.min, min, max, counts.size())] = std::accumulate(old.counts.begin(), old.counts.end(), 0.0);
    return counts;
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    if (old.counts[i] == 0) continue;
    for (int k = 0; k < kPointsPerBin; ++k) {
      const double point = old.min + (static_cast<double>(i) + (k + 0.5) / kPointsPerBin) * old.width();
      counts[bin_of(point, min, max, counts.size())] += old.counts[i] / kPointsPerBin;
    }
  }
  return counts;
}

/// The squared error of values spread evenly over each bin, when bins first..last are quantized to `levels` cells.
double density_error(const Histogram& h, size_t first, size_t last, int levels) {
  const double width = h.width();
  const double cell = width * static_cast<double>(last - first + 1) / levels;
  if (cell == 0) return 0;
  const auto cube = [](double v) { return v * v * v; };
  double error = 0;
  for (size_t i = 0; i < h.counts.size(); ++i) {
    if (h.counts[i] == 0) continue;
    const double begin = (static_cast<double>(i) - static_cast<double>(first)) * width, end = begin + width;
    const double cell_of_begin = std::clamp(std::floor(begin / cell), 0.0, levels - 1.0);
    const double cell_of_end = std::clamp(std::floor(end / cell), 0.0, levels - 1.0);
    // From `begin` to its cell's end, whole cells, and from the last cell's start to `end`: integrals of (x -
    // centre)^2.
    const double head = cube(cell / 2) - cube(begin - (cell_of_begin + 0.5) * cell);
    const double body = (cell_of_end - cell_of_begin - 1) * 2 * cube(cell / 2);
    const double tail = cube(end - (cell_of_end + 0.5) * cell) + cube(cell / 2);
    error += h.counts[i] / width * (head + body + tail) / 3;
  }
  return error;
}

}  // namespace

HistogramBase::HistogramBase(const quant::QuantSpec& spec, int64_t bins)
    : spec_(spec),
      counts_(register_buffer("counts", at::zeros({bins}, at::kDouble))),
      range_(register_buffer("range", at::zeros({2}, at::kDouble))) {}

Histogram HistogramBase::histogram() const {
  const double* counts = counts_.const_data_ptr<double>();
  const double* range = range_.const_data_ptr<double>();
  return {.min = range[0], .max = range[1], .counts = {counts, counts + counts_.numel()}};
}

void HistogramBase::add(const at::Tensor& values, double min, double max) {
  Histogram h = histogram();
  if (batches() > 0) {
    min = std::min(min, h.min), max = std::max(max, h.max);
    if ((min < h.min || max > h.max)) h.counts = moved(h, min, max);
  }
  const float* x = values.const_data_ptr<float>();
  const double per_bin = max > min ? static_cast<double>(h.counts.size()) / (max - min) : 0.0;
  for (int64_t i = 0; i < values.numel(); ++i) {
    const auto bin = static_cast<size_t>((x[i] - min) * per_bin);
    h.counts[std::min(bin, h.counts.size() - 1)] += 1;
  }
  std::copy(h.counts.begin(), h.counts.end(), counts_.mutable_data_ptr<double>());
  double* range = range_.mutable_data_ptr<double>();
  range[0] = min, range[1] = max;
}

HistogramObserver::HistogramObserver(const quant::ObserverOptions& options)
    : HistogramBase(options.spec, options.options.as<HistogramOptions>().bins) {}

std::pair<double, double> HistogramObserver::range_now() const {
  const Histogram h = histogram();
  if (h.min == h.max) return {h.min, h.max};
  std::vector<double> below(h.counts.size());
  std::partial_sum(h.counts.begin(), h.counts.end(), below.begin());
  const double total = below.back();
  constexpr double kStep = 1e-5;
  const int levels = 1 << (spec().reduce_range ? spec().bits - 1 : spec().bits);
  size_t first = 0, last = h.counts.size() - 1;
  double alpha = 0, beta = 1, least = std::numeric_limits<double>::infinity();
  while (alpha < beta) {
    const double next_alpha = alpha + kStep, next_beta = beta - kStep;
    size_t left = first, right = last;
    while (left < last && below[left] < next_alpha * total) ++left;
    while (right > first && below[right] > next_beta * total) --right;
    size_t next_first = first, next_last = last;
    if (left - first > last - right) {
      next_first = left;
      alpha = next_alpha;
    } else {
      next_last = right;
      beta = next_beta;
    }
    if (next_first == first && next_last == last) continue;
    const double error = density_error(h, next_first, next_last, levels);
    if (error > least) break;
    least = error;
    first = next_first, last = next_last;
  }
  return {h.min + h.width() * static_cast<double>(first), h.min + h.width() * static_cast<double>(last + 1)};
}

PercentileObserver::PercentileObserver(const quant::ObserverOptions& options)
    : HistogramBase(options.spec, options.options.as<PercentileOptions>().bins),
      options_(options.options.as<PercentileOptions>()) {}

std::pair<double, double> PercentileObserver::range_now() const {
  const Histogram h = histogram();
  if (h.min == h.max) return {h.min, h.max};
  const double total = std::accumulate(h.counts.begin(), h.counts.end(), 0.0);
  const double share = options_.percentage / 100;
  if (spec().affine || !spec().is_signed) {
    // A tensor without negative values is cut at its upper end only.
    const double cut = spec().affine && h.min < 0 ? (1 - share) / 2 : 1 - share;
    double sum = 0, high = h.max, low = h.min;
    for (size_t i = 0; i < h.counts.size(); ++i) {
      sum += h.counts[i];
      if (sum >= (1 - cut) * total) {
        high = h.min + h.width() * static_cast<double>(i + 1);
        break;
      }
    }
    sum = 0;
    for (size_t i = h.counts.size(); h.min < 0 && i-- > 0;) {
      sum += h.counts[i];
      if (sum >= (1 - cut) * total) {
        low = h.min + h.width() * static_cast<double>(i);
        break;
      }
    }
    return {low, high};
  }
  // Of |x|: both signs of one distance are one bin.
  const double largest = std::max(std::abs(h.min), std::abs(h.max));
  std::vector<double> distance(h.counts.size(), 0.0);
  for (size_t i = 0; i < h.counts.size(); ++i) {
    distance[bin_of(std::abs(h.center(i)), 0, largest, distance.size())] += h.counts[i];
  }
  double sum = 0;
  for (size_t i = 0; i < distance.size(); ++i) {
    sum += distance[i];
    if (sum < share * total) continue;
    const double edge = largest * static_cast<double>(i + 1) / static_cast<double>(distance.size());
    return {-edge, edge};
  }
  return {-largest, largest};
}

MseObserver::MseObserver(const quant::ObserverOptions& options)
    : HistogramBase(options.spec, options.options.as<HistogramOptions>().bins) {}

std::pair<double, double> MseObserver::range_now() const {
  const Histogram h = histogram();
  if (h.min == h.max) return {h.min, h.max};
  double low = std::min(0.0, h.min), high = std::max(0.0, h.max);
  const bool symmetric = spec().is_signed && !spec().affine;
  if (symmetric) high = std::max(high, -low), low = -high;
  if (!spec().is_signed) low = 0;
  const double levels = symmetric ? 2.0 * spec().positive_levels() : spec().hi() - spec().lo();
  const auto error = [&](double from, double to) {
    const double step = (to - from) / levels;
    if (step <= 0) return std::numeric_limits<double>::infinity();
    double sum = 0;
    for (size_t i = 0; i < h.counts.size(); ++i) {
      const double x = h.center(i), code = std::nearbyint((std::clamp(x, from, to) - from) / step);
      const double difference = from + code * step - x;
      sum += h.counts[i] * difference * difference;
    }
    return sum;
  };
  double from = low, to = high, least = error(from, to);
  const auto try_range = [&](double a, double b) {
    const double e = error(a, b);
    if (e < least) least = e, from = a, to = b;
  };
  for (int percent = 99; percent > 0; --percent) try_range(low * percent / 100, high * percent / 100);
  if (!symmetric && low < 0) {
    for (int percent = 100; percent > 0; --percent) try_range(low * percent / 100, to);
    for (int percent = 100; percent > 0; --percent) try_range(from, high * percent / 100);
  }
  return {from, to};
}

}  // namespace qat::quantizers
