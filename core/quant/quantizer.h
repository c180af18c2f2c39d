// Quantizer: the plug-in interface of every quantization method (one file pair in quantizers/, one registration line).
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <string>

#include "core/autograd/functions.h"
#include "core/quant/device_form.h"
#include "core/quant/observer.h"
#include "core/quant/spec.h"
#include "core/registry/registry.h"

namespace qat::quant {

/// Quantizes one tensor. A method must give fake_quantize() and qparams(); everything else has defaults. What it says
/// in traits() decides where its values go:
///   affine, at most 8 bits   codes in the integer path. Weights: the exact codes of forward(weight). Activations: the
///                            target's formula (core/ops) where every code is a level (integer_levels), otherwise the
///                            codes of forward(), and then lowering refuses the layer
///   otherwise                the layer computes on forward()'s values in float, and lowering refuses it
/// rule() switches the fast path on: gradients from codes and masks, without float maps.
///
/// Life: observe() on calibration data (a weight quantizer: on its weight), initialize(), then the rest. State lives in
/// parameters and buffers, so a checkpoint holds it.
class Quantizer : public torch::nn::Module {
 public:
  /// Throws qat::Error if the request is impossible for the method.
  explicit Quantizer(QuantSpec spec);

  const QuantSpec& spec() const { return spec_; }

  /// The registered name.
  virtual std::string method() const = 0;
  virtual Traits traits() const { return {.code_bits = spec_.bits}; }
  /// The gradient rule of codes, where that is the method's whole gradient. None: forward() supplies the gradient.
  virtual std::optional<GradientRule> rule() const { return std::nullopt; }

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

  /// Scale and zero point of affine methods. Throws qat::Error before initialize().
  QParams qparams() const;

  /// LSQ-like methods: the factor on the scale's gradient for `elements` values that share one scale.
  virtual double gradient_scale(int64_t /*elements*/) const { return 1.0; }

  /// What a GPU needs to train this by itself, where rule() is the whole gradient and observe_range() or the scale's
  /// own gradient all that changes. None: it trains on the CPU only.
  virtual std::optional<DeviceForm> device_form() const { return std::nullopt; }

  /// After an optimizer step: puts learned parameters, and the weight that is quantized, back into their domains.
  virtual void project() {}
  virtual void project_weight(at::Tensor& /*weight*/) {}

  /// A term of the loss, or undefined: called after a training step's forward.
  virtual at::Tensor penalty() const { return {}; }

  /// Plain fake-quantization: float32 values in, values on the method's levels out, with its gradient. Throws
  /// qat::Error before initialize().
  at::Tensor forward(const at::Tensor& x);

  /// Why there are no codes for the integer path; "" where there are.
  std::string obstacle() const;

  /// What the operators in core/autograd need. `learning`: before the freeze, in training.
  autograd::OutputQuantizer output(bool learning);
  autograd::QuantizedWeight quantize_weight(const at::Tensor& weight);

 protected:
  virtual at::Tensor fake_quantize(const at::Tensor& x) = 0;
  virtual void initialize_parameters() = 0;
  /// Methods that are not affine have none.
  virtual QParams parameters_now() const;

  /// One value a scale from a weight's or activation's values: [numel] -> [scales, numel / scales].
  at::Tensor rows(const at::Tensor& x) const;

 private:
  QuantSpec spec_;
  at::Tensor initialized_;  // bool [1]
};

/// Everything a factory may use beside the request.
struct QuantizerOptions {
  std::string observer = "moving_average";  // for methods whose range is observed
  config::Node observer_options;
  config::Node options;  // the method's own; its struct parses them and names the place of a mistake
};

using QuantizerFactory = std::shared_ptr<Quantizer> (*)(const QuantSpec&, const QuantizerOptions&);
using ObserverFactory = std::shared_ptr<Observer> (*)(const ObserverOptions&);

/// What a method can be asked for; `qat list quantizers` shows it.
struct Support {
  bool weights = true, activations = true;
  int min_bits = 2, max_bits = 16;
  bool channels = true;  // weights: one scale a channel or group, not only one a tensor
};

/// A registry entry; calling it checks the request against the method's support (throws qat::Error) and makes one.
class QuantizerMethod {
 public:
  QuantizerMethod(QuantizerFactory make, Support support = {})
      : make_(make), support_(support) {}  // NOLINT(*explicit*)
  std::shared_ptr<Quantizer> operator()(const QuantSpec& spec, const QuantizerOptions& options) const;
  const Support& support() const { return support_; }

 private:
  QuantizerFactory make_;
  Support support_;
};

/// Named methods; quantizers/builtin.h fills both with what is built in.
Registry<QuantizerMethod>& quantizers();
Registry<ObserverFactory>& observers();

/// "weight, activation; 2-16 bits; tensor, channel, group; affine, idempotent, ..." of a registered method.
std::string describe(const std::string& method);

}  // namespace qat::quant
