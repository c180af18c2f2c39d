#include "quantizers/observers/diffs.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/config/config.h"

template <>
struct qat::config::Schema<qat::quantizers::DiffsOptions> {
  static void describe(Fields<qat::quantizers::DiffsOptions>& f) {
    using T = qat::quantizers::DiffsOptions;
    f.field("search", &T::search).doc("least squared error, or no overflow").one_of({"diffs", "overflow"});
    f.field("round", &T::round).doc("rounding that the search assumes").one_of(qat::ops::deterministic_roundings());
  }
};

namespace qat::quantizers {
namespace {

constexpr int kCandidates = 5;
constexpr int kEmptyPosition = 18;
// Positions are counted from this one: the smallest step of a float32 range is far above 2^-127.
constexpr int kLowestPosition = -150, kPositions = 300;

double squared_error(const float* x, int64_t n, int position, const FixPointFormat& f) {
  const double step = std::exp2(-position);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double code = std::clamp(ops::round_to(x[i] / step, f.rounding), f.lo, f.hi);
    const double difference = x[i] - code * step;
    sum += difference * difference;
  }
  return sum;
}

}  // namespace

FixPosition find_fix_position(const float* x, int64_t n, const FixPointFormat& f) {
  const auto [min, max] = std::minmax_element(x, x + n);
  const double half = std::exp2(f.bits - 1);
  const double highest = f.lo < 0 ? half : 2 * half;  // one more than the largest code
  const double step = std::max(*min / (-half - 0.5), *max / (highest - 0.5));
  const int cap = f.bits <= 8 ? 12 : 15;
  FixPosition result;
  result.no_overflow = step <= FLT_MIN ? kEmptyPosition : static_cast<int>(std::floor(-std::log2(step)));
  int best = result.no_overflow;
  double least = squared_error(x, n, best, f);
  for (int k = 1; k < kCandidates; ++k) {
    const double error = squared_error(x, n, result.no_overflow + k, f);
    if (error < least) least = error, best = result.no_overflow + k;
  }
  result.value = std::min(best, cap);
  return result;
}

DiffsObserver::DiffsObserver(const quant::ObserverOptions& options)
    : options_(options.options.as<DiffsOptions>()), seen_(register_buffer("seen", at::zeros({kPositions}, at::kLong))) {
  const quant::QuantSpec& s = options.spec;
  format_ = {.bits = s.reduce_range ? s.bits - 1 : s.bits,
             .lo = static_cast<double>(s.lo() - s.symmetric_zero_point()),
             .hi = static_cast<double>(s.hi() - s.symmetric_zero_point()),
             .rounding = ops::rounding_from(options_.round)};
}

void DiffsObserver::add(const at::Tensor& values, double, double) {
  const FixPosition found = find_fix_position(values.const_data_ptr<float>(), values.numel(), format_);
  const int cap = format_.bits <= 8 ? 12 : 15;
  const int position = options_.search == "diffs" ? found.value : std::min(found.no_overflow, cap);
  ++seen_.mutable_data_ptr<int64_t>()[std::clamp(position - kLowestPosition, 0, kPositions - 1)];
}

int DiffsObserver::fix_position() const {
  const int64_t* seen = seen_.const_data_ptr<int64_t>();
  return static_cast<int>(std::max_element(seen, seen + kPositions) - seen) + kLowestPosition;
}

std::pair<double, double> DiffsObserver::range_now() const {
  const double step = std::exp2(-fix_position());
  return {format_.lo * step, format_.hi * step};
}

}  // namespace qat::quantizers
