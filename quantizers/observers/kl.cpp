#include "quantizers/observers/kl.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/base/error.h"
#include "core/config/config.h"

template <>
struct qat::config::Schema<qat::quantizers::KlOptions> {
  static void describe(Fields<qat::quantizers::KlOptions>& f) {
    using T = qat::quantizers::KlOptions;
    f.field("bins", &T::bins).doc("of the histogram; more than there are levels").minimum(16).maximum(65536);
    f.field("form", &T::form).doc("how groups are spread over their bins").one_of({"mxnet", "tensorrt"});
    f.field("guarded", &T::guarded).doc("skip candidates whose divergence misses the tail");
  }
};

namespace qat::quantizers {
namespace {

/// Q, not normalized: the group sums spread over the first `bins` bins again.
std::vector<double> spread(const double* counts, const std::vector<double>& p, int64_t bins, int64_t levels,
                           bool interpolate) {
  std::vector<double> groups(levels, 0.0), used(levels, 0.0), q(bins, 0.0);
  for (int64_t j = 0; j < bins; ++j) {
    groups[j * levels / bins] += counts[j];
    used[j * levels / bins] += counts[j] != 0 ? 1 : 0;
  }
  for (int64_t j = 0; j < bins; ++j) {
    const int64_t group = j * levels / bins;
    if (!interpolate) {
      if (counts[j] != 0) q[j] = groups[group] / used[group];
      continue;
    }
    if (p[j] == 0) continue;
    const double position = static_cast<double>(j) * static_cast<double>(levels) / static_cast<double>(bins);
    const double floor = std::floor(position);
    const auto below = static_cast<int64_t>(floor);
    const int64_t above = std::min(static_cast<int64_t>(std::ceil(position)), levels - 1);
    q[j] = groups[below] + (groups[above] - groups[below]) * (position - floor);
  }
  return q;
}

}  // namespace

KlResult search_kl(const double* counts, int64_t bins, int64_t levels, const KlOptions& options) {
  const bool interpolate = options.form == "mxnet", guarded = options.guarded || !interpolate;
  const double total = std::accumulate(counts, counts + bins, 0.0);
  double tail = total - std::accumulate(counts, counts + levels, 0.0);
  KlResult best{0, std::numeric_limits<double>::infinity()};
  for (int64_t i = levels; i < bins; ++i) {
    std::vector<double> p(counts, counts + i);
    p[i - 1] += tail;
    tail -= counts[i];
    const std::vector<double> q = spread(counts, p, i, levels, interpolate);
    if (guarded && q[i - 1] == 0 && p[i - 1] != 0) continue;
    const double sum = std::accumulate(q.begin(), q.end(), 0.0);
    double divergence = 0;
    for (int64_t j = 0; j < i; ++j) {
      if (q[j] != 0 && p[j] != 0) divergence += p[j] / total * std::log((p[j] / total) / (q[j] / sum));
    }
    if (divergence < best.divergence) best = {i, divergence};
  }
  return best;
}

KlObserver::KlObserver(const quant::ObserverOptions& options)
    : spec_(options.spec),
      options_(options.options.as<KlOptions>()),
      counts_(register_buffer("counts", at::zeros({options_.bins}, at::kDouble))),
      largest_(register_buffer("largest", at::zeros({1}, at::kDouble))) {
  QAT_CHECK(options_.bins > spec_.hi() + 1, "a kl observer for {} bits needs more than {} bins, found {}", spec_.bits,
            spec_.hi() + 1, options_.bins);
}

double KlObserver::largest() const { return *largest_.const_data_ptr<double>(); }

void KlObserver::add(const at::Tensor& values, double min, double max) {
  double& largest = *largest_.mutable_data_ptr<double>();
  if (largest == 0) largest = std::max(std::abs(min), std::abs(max));
  if (largest == 0) return;
  const double per_bin = static_cast<double>(options_.bins) / (largest + 1e-5);
  double* counts = counts_.mutable_data_ptr<double>();
  const float* x = values.const_data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    const double v = std::min(std::abs(static_cast<double>(x[i])), largest);
    if (v != 0) counts[static_cast<int64_t>(v * per_bin)] += 1;
  }
}

KlResult KlObserver::search() const {
  return search_kl(counts_.const_data_ptr<double>(), options_.bins, int64_t{1} << spec_.magnitude_bits(), options_);
}

std::pair<double, double> KlObserver::range_now() const {
  const KlResult best = search();
  const double threshold =
      best.bins == 0 ? largest()
                     : (static_cast<double>(best.bins) + 0.5) * largest() / static_cast<double>(options_.bins);
  return {spec_.is_signed ? -threshold : 0.0, threshold};
}

}  // namespace qat::quantizers
