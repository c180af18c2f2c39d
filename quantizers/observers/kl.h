// The clip threshold whose quantized histogram is nearest to the values' own, by Kullback-Leibler divergence.
//
// Histogram of |x| without zeros, `bins` (2048) over [0, largest |x| of the first batch]; later values beyond it count
// in the last bin. levels = 2^b, or 2^(b-1) for signed tensors. For i in [levels, bins):
//   P = counts[:i], the tail counts[i:] added to the last; G = counts[:i] summed in groups floor(j * levels / i)
//   form mxnet     Q_j = G interpolated at j * levels / i, 0 where P is 0    (Quantization.MXNet,
//   distribution_calibrate) form tensorrt  Q_j = G / (bins with values in the group), 0 where counts is 0  (Migacz, GTC
//   2017) D = sum of P ln(P / Q) over Q > 0, both normalized; the first smallest D wins; threshold = (i + 0.5) * max /
//   bins
// MXNet's search has a defect: where the last bin's group is empty, Q is 0 in the bin that holds the whole tail, the
// tail falls out of D, and a threshold far too small can win. `guarded` (default) skips those candidates; with
// guarded: false the result is the published one. The tensorrt form is always guarded.
//
// Only for tensors whose codes start at zero or are symmetric: the range is [0, t] or [-t, t].
#pragma once

#include <cstdint>
#include <string>

#include "core/quant/observer.h"

namespace qat::quantizers {

struct KlOptions {
  int64_t bins = 2048;
  std::string form = "mxnet";
  bool guarded = true;
};

struct KlResult {
  int64_t bins = 0;  // of the histogram, that stay below the threshold
  double divergence = 0;
};

/// The search on a histogram of `bins` counts. bins = 0 where every candidate was skipped.
KlResult search_kl(const double* counts, int64_t bins, int64_t levels, const KlOptions& options);

class KlObserver final : public quant::Observer {
 public:
  explicit KlObserver(const quant::ObserverOptions& options);

  KlResult search() const;
  double largest() const;

 private:
  void add(const at::Tensor& values, double min, double max) override;
  std::pair<double, double> range_now() const override;

  quant::QuantSpec spec_;
  KlOptions options_;
  at::Tensor counts_;   // float64 [bins]
  at::Tensor largest_;  // float64 [1]: of the first batch
};

}  // namespace qat::quantizers
