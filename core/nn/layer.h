// QLayer: one executable node of a quantized network, and what travels between nodes.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/autograd/functions.h"
#include "core/quant/quantizer.h"
#include "core/quant/schedule.h"

namespace qat::nn {

using autograd::QuantizedTensor;

/// Codes, or float32 values (in float phases, behind float layers, and for logits).
using Value = std::variant<at::Tensor, QuantizedTensor>;

/// The values themselves; codes are dequantized.
at::Tensor to_float(const Value& value);

enum class Phase {
  kFloat,      // no quantizer runs
  kCalibrate,  // as kFloat, batch norm in evaluation; quantizers observe
  kLive,       // quantized; training uses batch statistics, scales and ranges adapt
  kFrozen,     // quantized; the forward is the integer graph, in training too
};

/// A node. Parameters are the original network's tensors; quantizers are the layer's own.
///
/// In kLive and kFrozen evaluation is always the integer graph (fold() with running statistics).
class QLayer : public torch::nn::Module {
 public:
  explicit QLayer(std::string label);

  /// The layer's name in the network, as in errors, rules and exported files.
  const std::string& label() const { return label_; }
  /// The registered type that rules match: "conv2d", "linear", ...
  virtual std::string type() const = 0;

  Phase phase() const { return phase_; }
  void set_phase(Phase phase);
  void train(bool on = true) override;

  /// The quantizer of the output tensor; null: the output is float, or keeps its input's parameters.
  const std::shared_ptr<quant::Quantizer>& output_quantizer() const { return output_quantizer_; }
  virtual const std::shared_ptr<quant::Quantizer>& weight_quantizer() const;
  virtual const std::shared_ptr<quant::Quantizer>& bias_quantizer() const;
  void set_output_quantizer(std::shared_ptr<quant::Quantizer> quantizer);
  virtual void set_weight_quantizer(std::shared_ptr<quant::Quantizer> quantizer);

  /// Leaves the layer in float: it computes on real values, even where its inputs are codes.
  void exclude() { excluded_ = true; }
  bool excluded() const { return excluded_; }

  /// Evaluation with statistics of the batch, which the running statistics of every batch norm follow with this
  /// momentum (1 / n for the n-th batch: their mean); unset: off.
  void set_reestimation(std::optional<double> momentum) { reestimation_ = momentum; }
  /// What the next training steps do beside the plain thing.
  void set_step(const quant::StepSettings& settings) { step_ = settings; }
  /// Computes on real values, with the quantizers' forward: for methods whose levels are no codes of the integer path.
  /// `reason` stands in the refusal to lower the layer.
  void compute_on_values(std::string reason) { on_values_ = std::move(reason); }
  /// "" where the layer computes on codes.
  const std::string& values_reason() const { return on_values_; }

  /// Whether the output passes the input's scale and zero point on (max pool, flatten, ReLU on codes) unless excluded.
  virtual bool passes_through() const { return false; }
  /// Whether evaluation passes the input itself on (dropout).
  virtual bool is_identity_in_evaluation() const { return false; }

  /// Errors are rethrown with the layer's name. batch: samples in this run, for layers that ask for it.
  Value run(const std::vector<Value>& inputs, int64_t batch = 0);

  /// After calibration: scales of the output and of the weight get their first values.
  virtual void initialize_quantizers();

  /// After an optimizer step: quantizer parameters, and the weight, go back into their domains.
  virtual void project();
  /// The quantizers' terms of the loss, or undefined.
  virtual at::Tensor penalty() const;

 protected:
  virtual at::Tensor run_float(const std::vector<at::Tensor>& inputs) = 0;
  /// The output before its quantizer, on quantized inputs and weight; differentiable.
  virtual at::Tensor run_values(const std::vector<Value>& inputs);
  /// Layers without integer arithmetic of their own run in float and quantize the result.
  virtual Value run_quantized(const std::vector<Value>& inputs);
  /// Whether run_quantized computes on codes; otherwise the layer is an island of floats.
  virtual bool has_integer_form() const = 0;

  int64_t batch() const { return batch_; }
  const quant::StepSettings& step() const { return step_; }
  /// Whether a quantized layer computes on real values now.
  virtual bool computes_on_values() const { return !on_values_.empty(); }
  bool reestimating() const { return reestimation_.has_value(); }
  double reestimation_momentum() const { return *reestimation_; }
  /// Real values as the quantizer leaves them: codes, or floats where it has none.
  Value quantize_values(quant::Quantizer& quantizer, const at::Tensor& values) const;
  bool is_quantized() const { return phase_ == Phase::kLive || phase_ == Phase::kFrozen; }
  bool learning() const { return is_training() && phase_ == Phase::kLive; }
  autograd::OutputQuantizer output_call() const { return call_of(*output_quantizer_); }
  const QuantizedTensor& codes_of(const Value& value) const;
  /// float32 batch norm as this phase has it.
  at::Tensor run_batch_norm(const at::Tensor& x, const autograd::BatchNorm& norm) const;

 private:
  bool observing(const quant::Quantizer& quantizer) const {
    return learning() && step_.observe && quantizer.follows_data();
  }
  autograd::OutputQuantizer call_of(quant::Quantizer& quantizer) const;
  /// After the freeze training computes what evaluation does: quantizers stay in evaluation (no random rounding).
  void set_quantizer_modes();
  /// For an output quantizer without a rule on codes: its forward supplies the gradient.
  Value run_with_forward(const std::vector<Value>& inputs);

  std::string label_;
  Phase phase_ = Phase::kFloat;
  bool excluded_ = false;
  int64_t batch_ = 0;
  std::optional<double> reestimation_;
  std::string on_values_;
  quant::StepSettings step_;
  std::shared_ptr<quant::Quantizer> output_quantizer_;
};

}  // namespace qat::nn
