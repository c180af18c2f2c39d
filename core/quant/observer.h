// Observers watch values and answer with a range.
#pragma once

#include <torch/nn/module.h>

#include <optional>
#include <utility>

#include "core/config/node.h"
#include "core/quant/device_form.h"
#include "core/quant/spec.h"

namespace qat::quant {

/// What a factory gets: the tensor that is observed, and the `options:` of the config.
struct ObserverOptions {
  QuantSpec spec;
  config::Node options;
};

/// Streaming: memory does not grow with the number of values. State lives in buffers, so a checkpoint holds it. Not
/// thread-safe.
class Observer : public torch::nn::Module {
 public:
  Observer();

  /// One batch. Throws qat::Error if a value is not finite. An empty tensor is no batch.
  void observe(const at::Tensor& values);

  /// Smallest and largest value to represent. Throws qat::Error before any batch.
  std::pair<double, double> range() const;
  bool has_data() const { return batches() > 0; }

  /// Whether a batch may be given as its smallest and largest value: then a range can follow the data during training.
  virtual bool takes_ranges() const { return false; }
  /// Throws qat::Error where takes_ranges() is false, or a bound is not finite.
  void observe(double min, double max);

  /// None: a GPU cannot follow the data as this observer does.
  std::optional<RangeForm> device_form() const;

 protected:
  int64_t batches() const;
  /// values: float32, contiguous, not empty, all within [min, max].
  virtual void add(const at::Tensor& values, double min, double max) = 0;
  virtual void add_range(double min, double max);
  /// Without the number of batches.
  virtual std::optional<RangeForm> range_form() const { return std::nullopt; }
  virtual std::pair<double, double> range_now() const = 0;

 private:
  at::Tensor batches_;  // int64 [1]
};

}  // namespace qat::quant
