// Observers that search a clip range on a histogram.
//
// All keep counts in double over [min, max] of everything seen (`bins`, default 2048). When the range grows, the old
// counts move to the new bins: each old bin counts as 16 points (torch.ao's HistogramObserver).
//
//   histogram   the range with the least squared quantization error, found by taking quantiles away from both ends
//               (torch.ao's HistogramObserver, its search on the error of a uniform density in each bin)
//   percentile  `percentage` (default 99.99) of the values: of |x| where the tensor is signed and symmetric or not
//               signed (Vitis AI), otherwise (100 - percentage) / 2 percent are cut at each end
//   mse         the scales of 1 to 100 % of the range whose quantized bin centres have the least squared error, first
//               for both ends at once, then for each end
#pragma once

#include <vector>

#include "core/quant/observer.h"

namespace qat::quantizers {

/// Counts over [min, max] in equal bins; bin i holds min + (i + [0, 1)) * width(), the last one its upper edge too.
struct Histogram {
  double min = 0, max = 0;
  std::vector<double> counts;

  double width() const { return (max - min) / static_cast<double>(counts.size()); }
  double center(size_t bin) const { return min + (static_cast<double>(bin) + 0.5) * width(); }
};

class HistogramBase : public quant::Observer {
 public:
  Histogram histogram() const;

 protected:
  HistogramBase(const quant::QuantSpec& spec, int64_t bins);
  const quant::QuantSpec& spec() const { return spec_; }

 private:
  void add(const at::Tensor& values, double min, double max) override;

  quant::QuantSpec spec_;
  at::Tensor counts_;  // float64 [bins]
  at::Tensor range_;   // float64 [2]
};

struct HistogramOptions {
  int64_t bins = 2048;
};

class HistogramObserver final : public HistogramBase {
 public:
  explicit HistogramObserver(const quant::ObserverOptions& options);

 private:
  std::pair<double, double> range_now() const override;
};

struct PercentileOptions {
  int64_t bins = 2048;
  double percentage = 99.99;
};

class PercentileObserver final : public HistogramBase {
 public:
  explicit PercentileObserver(const quant::ObserverOptions& options);

 private:
  std::pair<double, double> range_now() const override;
  PercentileOptions options_;
};

class MseObserver final : public HistogramBase {
 public:
  explicit MseObserver(const quant::ObserverOptions& options);

 private:
  std::pair<double, double> range_now() const override;
};

}  // namespace qat::quantizers
