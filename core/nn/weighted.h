// The layer with a quantized weight, and the batch norm and ReLU that are fused to it.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "core/nn/layer.h"

namespace qat::nn {

/// The tensors of a layer, shared with the network they come from. Undefined: absent.
struct LayerTensors {
  at::Tensor weight;  // float32 [out, in / groups, kh, kw] or [out, in]
  at::Tensor bias;    // [out]
  std::optional<autograd::BatchNorm> batch_norm;
};

struct ConvGeometry2d {
  std::array<int64_t, 2> stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
};

/// Convolution or linear layer (+ batch norm) (+ ReLU), with one weight quantizer and the output's.
class WeightedLayer : public QLayer {
 public:
  /// A 4-d weight is a convolution, a 2-d one a linear layer (geometry unused).
  WeightedLayer(std::string label, LayerTensors tensors, ConvGeometry2d geometry, bool relu);

  std::string type() const override { return tensors_.weight.dim() == 4 ? "conv2d" : "linear"; }
  const LayerTensors& tensors() const { return tensors_; }
  const ConvGeometry2d& geometry() const { return geometry_; }
  bool has_relu() const { return relu_; }
  void set_memory(autograd::Memory memory) { memory_ = memory; }
  /// The layer as the operators want it, without its output quantizer.
  autograd::ConvCall call() const;

  const std::shared_ptr<quant::Quantizer>& weight_quantizer() const override { return weight_quantizer_; }
  void set_weight_quantizer(std::shared_ptr<quant::Quantizer> quantizer) override;
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

  LayerTensors tensors_;
  ConvGeometry2d geometry_;
  bool relu_ = false;

 private:
  autograd::Memory memory_ = autograd::Memory::kCompact;
  std::shared_ptr<quant::Quantizer> weight_quantizer_;
};

}  // namespace qat::nn
