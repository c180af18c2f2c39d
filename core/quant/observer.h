// Observers watch values and answer with a range.
#pragma once

#include <torch/nn/module.h>

#include <utility>

namespace qat::quant {

/// State lives in buffers, so a checkpoint holds it. Not thread-safe.
class Observer : public torch::nn::Module {
 public:
  Observer();

  /// One batch whose smallest and largest value are given. Throws qat::Error if either is not finite.
  void observe(double min, double max);
  void observe(const at::Tensor& values);

  /// Smallest and largest value to represent. Throws qat::Error before any batch.
  std::pair<double, double> range() const;
  bool has_data() const;

 protected:
  /// Combines the range so far with that of a batch; called from the second batch on.
  virtual std::pair<double, double> combine(std::pair<double, double> range, std::pair<double, double> batch) const = 0;

 private:
  at::Tensor range_;    // float64 [2]
  at::Tensor batches_;  // int64 [1]
};

}  // namespace qat::quant
