// The layer with a quantized weight, and the batch norms and activation that are fused to it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "core/nn/activation.h"
#include "core/nn/layer.h"
#include "core/nn/oscillation.h"

namespace qat::nn {

using autograd::ConvGeometry;

/// The tensors of a layer, shared with the network they come from. Undefined: absent.
struct LayerTensors {
  at::Tensor
      weight;       // float32 [out, in / groups, kernel...], transposed [in, out / groups, kernel...], linear [out, in]
  at::Tensor bias;  // [out]
  std::optional<autograd::BatchNorm> batch_norm;  // of the output
  /// The output is channels [norm_begin, norm_begin + out) of what batch_norm normalizes (it stood behind a
  /// concatenation).
  std::optional<int64_t> norm_begin;
  std::optional<autograd::BatchNorm> input_norm;  // of the input; only without padding
};

/// What batch norm does while a quantized network trains, until the freeze (RECIPES, strategies; ARITHMETIC section 1).
enum class BatchNormMode {
  kLive,            // statistics of the batch, from accumulators; the scale of per-channel weights is multiplied by the
                    // gain afterwards, weights of one scale (or of powers of two) are multiplied before they are
                    // quantized and corrected afterwards
  kBatchCorrected,  // always the latter (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2)
  kEma,             // the running statistics, which follow the batches; constants to the gradients
  kFolded,          // merged into weight and beta when calibration starts (merge_batch_norm)
};

/// Convolution (one to three dimensions, transposed too) or linear layer (+ batch norm) (+ activation), with one weight
/// quantizer and the output's. In quantized phases the statistics of input_norm are constants.
class WeightedLayer : public QLayer {
 public:
  /// A weight of two dimensions is a linear layer's (geometry unused): the last dimension of its input are features.
  WeightedLayer(std::string label, LayerTensors tensors, ConvGeometry geometry, Activation activation);

  /// "linear", "conv2d", "conv_transpose2d", ...
  std::string type() const override;
  const LayerTensors& tensors() const { return tensors_; }
  const ConvGeometry& geometry() const { return geometry_; }
  const Activation& activation() const { return activation_; }
  bool is_linear() const { return tensors_.weight.dim() == 2; }
  int64_t out_channels() const;
  void set_memory(autograd::Memory memory) { memory_ = memory; }
  /// Sums of products saturate: ops/convolve_saturating.h.
  void set_saturates(bool saturates) { saturates_ = saturates; }
  bool saturates() const { return saturates_; }
  void set_batch_norm_mode(BatchNormMode mode) { mode_ = mode; }

  /// Moves batch norm into the weight; what is left of it is the addition of beta. The function in evaluation stays,
  /// and so do the names of all tensors.
  void merge_batch_norm();

  /// The weight's codes, and the layer as the operators want it, without its output quantizer.
  std::pair<autograd::QuantizedWeight, autograd::ConvCall> quantized() const;

  const std::shared_ptr<quant::Quantizer>& weight_quantizer() const override { return weight_quantizer_; }
  const std::shared_ptr<quant::Quantizer>& bias_quantizer() const override { return bias_quantizer_; }
  /// For the bias that fold() makes int32, batch norm folded in; not while that has the batch's statistics, and not
  /// where the layer computes on real values. A quantizer of weights ([out_channels] values).
  void set_bias_quantizer(std::shared_ptr<quant::Quantizer> quantizer) { bias_quantizer_ = std::move(quantizer); }

  /// The weight that is quantized: output channels first, multiplied by the gain of batch norm where that comes before.
  at::Tensor weight_to_quantize() const { return weight_for(call()); }
  /// Changes the latent weight so that this one is quantized.
  void set_weight_to_quantize(const at::Tensor& weight);
  /// The layer's function in evaluation of real values, with this weight_to_quantize().
  at::Tensor evaluate(const at::Tensor& input, const at::Tensor& weight) const;
  void set_weight_quantizer(std::shared_ptr<quant::Quantizer> quantizer) override;
  /// Why the weight's oscillations cannot be tracked, or "": needs evenly spaced levels that quantizing again does
  /// not change, and codes.
  std::string oscillation_obstacle() const;
  /// Weights that oscillate are frozen from now on, as the step's settings say.
  void track_oscillations();
  /// Null without track_oscillations().
  const std::shared_ptr<OscillationTracker>& oscillations() const { return oscillations_; }
  /// Whether the dampening loss has a meaning: evenly spaced levels.
  bool can_be_dampened() const;
  void initialize_quantizers() override;
  void project() override;
  at::Tensor penalty() const override;

 protected:
  /// Hand-written layers (modules.h): tensors are set and registered by the derived class.
  explicit WeightedLayer(std::string label) : QLayer(std::move(label)) {}
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  at::Tensor run_values(const std::vector<Value>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return weight_quantizer_ != nullptr; }
  bool computes_on_values() const override { return QLayer::computes_on_values() || noisy(); }

  LayerTensors tensors_;
  ConvGeometry geometry_;
  Activation activation_;

 private:
  std::optional<autograd::BatchNorm> batch_norm() const;
  autograd::ConvCall call() const;
  /// What is quantized: output channels first, multiplied by input_norm and, where the call says so, by the gain.
  at::Tensor weight_for(const autograd::ConvCall& call) const;
  /// The latent weight whose weight_for() is `quantized`.
  at::Tensor latent_of(at::Tensor quantized, const autograd::ConvCall& call) const;
  /// Only a part of the weights is quantized in this step.
  bool noisy() const { return learning() && weight_quantizer_ && step().noise_probability < 1; }
  at::Tensor evaluate_latent(const at::Tensor& input, const at::Tensor& weight) const;
  /// beta + (bias - running_mean) * gamma / sigma, or the bias; gamma and statistics are constants.
  at::Tensor folded_bias(const autograd::ConvCall& call) const;
  void quantize_bias(autograd::ConvCall& call) const;
  void freeze_oscillating();
  /// lambda * |Q(w) - clip(w)|^2, Q(w) a constant (arXiv:2203.11086, section 4.1).
  at::Tensor dampening_loss() const;
  /// The weight by its quantizer's forward, for a layer that computes on real values.
  at::Tensor quantized_values() const;
  /// to_codes: by the output quantizer; otherwise real values.
  Value run_codes(const std::vector<Value>& inputs, bool to_codes);

  autograd::Memory memory_ = autograd::Memory::kCompact;
  bool saturates_ = false;
  BatchNormMode mode_ = BatchNormMode::kLive;
  std::shared_ptr<quant::Quantizer> weight_quantizer_, bias_quantizer_;
  std::shared_ptr<OscillationTracker> oscillations_;
};

}  // namespace qat::nn
