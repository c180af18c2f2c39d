// Quantizer: the plug-in interface of every quantization method (one file pair in quantizers/, one registration line).
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>

#include "core/autograd/functions.h"
#include "core/quant/observer.h"
#include "core/quant/spec.h"
#include "core/registry/registry.h"

namespace qat::quant {

/// Supplies scale and zero point of one tensor and says which gradient passes; the target supplies the arithmetic
/// (core/ops): encode at float edges, requantize between quantized layers, fold for weights.
///
/// Life: observe() on calibration data (a weight quantizer: on its weight), initialize(), then qparams(). State lives
/// in parameters and buffers, so a checkpoint holds it.
class Quantizer : public torch::nn::Module {
 public:
  /// Throws qat::Error if the request is impossible for the method.
  explicit Quantizer(QuantSpec spec);

  const QuantSpec& spec() const { return spec_; }

  /// The registered name.
  virtual std::string method() const = 0;
  virtual Traits traits() const { return {}; }
  virtual GradientRule rule() const = 0;

  /// Calibration data of an activation; a weight quantizer sees its weight here once, before initialize().
  virtual void observe(const at::Tensor& values) = 0;

  /// Ends calibration. Throws qat::Error if nothing was observed.
  void initialize();
  bool initialized() const;

  /// Weights whose scale follows the weight itself remake it here; called at every forward, before qparams().
  virtual void refresh(const at::Tensor& /*weight*/) {}

  /// Whether the scale of an activation follows the data while batch norm is live; then observe_range() is called with
  /// each batch's smallest and largest value.
  virtual bool follows_data() const { return false; }
  virtual void observe_range(double /*min*/, double /*max*/) {}

  /// Scale and zero point. Throws qat::Error before initialize().
  QParams qparams() const;

  /// LSQ-like methods: the factor on the scale's gradient for `elements` values that share one scale.
  virtual double gradient_scale(int64_t /*elements*/) const { return 1.0; }

  /// After an optimizer step: puts learned parameters back into their domain.
  virtual void project() {}

  /// Plain fake-quantization: float values in, values on the quantizer's grid out, with the method's gradient.
  at::Tensor forward(const at::Tensor& x);

  /// What the operators in core/autograd need. `learning`: before the freeze, in training.
  autograd::OutputQuantizer output(bool learning);
  autograd::QuantizedWeight quantize_weight(const at::Tensor& weight);

 protected:
  virtual void initialize_parameters() = 0;
  virtual QParams parameters_now() const = 0;

 private:
  QuantSpec spec_;
  at::Tensor initialized_;  // bool [1]
};

/// Everything a factory may use beside the request.
struct QuantizerOptions {
  std::string observer = "moving_average";  // for methods whose range is observed
};

using QuantizerFactory = std::shared_ptr<Quantizer> (*)(const QuantSpec&, const QuantizerOptions&);
using ObserverFactory = std::shared_ptr<Observer> (*)();

/// Named methods; quantizers/builtin.h fills both with what is built in.
Registry<QuantizerFactory>& quantizers();
Registry<ObserverFactory>& observers();

}  // namespace qat::quant
