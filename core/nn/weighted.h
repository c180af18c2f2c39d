// QConv2d and QLinear: layers with a quantized weight, and the batch norm and ReLU that are fused to them.
//
// By hand, in any LibTorch program (floats in, floats out; quantizers start on the first batch):
//   QConv2d conv(QConv2dOptions(16, 32, 3).padding(1).weight(quant::lsq(4)).input(quant::lsq(4)));
// The graph builds the same layers on the parameters of a traced network.
#pragma once

#include <torch/nn/pimpl.h>

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

/// A quantization method and width for one tensor of a hand-written layer.
struct Choice {
  std::string method;
  int bits = 8;
  bool is_signed = true;                                          // activations: can values be negative?
  quant::Granularity granularity = quant::Granularity::kChannel;  // weights
};
inline Choice lsq(int bits) { return {.method = "lsq", .bits = bits}; }
inline Choice minmax(int bits) { return {.method = "minmax", .bits = bits}; }

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

 protected:
  /// Hand-written layers: tensors are set and registered by the derived class.
  explicit WeightedLayer(std::string label) : QLayer(std::move(label)) {}
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return weight_quantizer_ != nullptr; }

  /// forward() of the hand-written layers.
  at::Tensor forward_values(const at::Tensor& x);
  void choose_quantizers(const Choice& weight, const std::optional<Choice>& input, const std::optional<Choice>& output);

  LayerTensors tensors_;
  ConvGeometry2d geometry_;
  bool relu_ = false;

 private:
  autograd::Memory memory_ = autograd::Memory::kCompact;
  std::shared_ptr<quant::Quantizer> weight_quantizer_;
  std::shared_ptr<quant::Quantizer> input_quantizer_;  // hand-written layers only
};

/// Options in LibTorch's style; defaults as torch::nn::Conv2dOptions.
struct QConv2dOptions {
  QConv2dOptions(int64_t in, int64_t out, int64_t kernel)
      : in_channels(in), out_channels(out), kernel_size{kernel, kernel} {}
  QConv2dOptions& stride(int64_t v) {
    geometry.stride = {v, v};
    return *this;
  }
  QConv2dOptions& padding(int64_t v) {
    geometry.padding = {v, v};
    return *this;
  }
  QConv2dOptions& dilation(int64_t v) {
    geometry.dilation = {v, v};
    return *this;
  }
  QConv2dOptions& groups(int64_t v) {
    geometry.groups = v;
    return *this;
  }
  QConv2dOptions& bias(bool v) {
    with_bias = v;
    return *this;
  }
  QConv2dOptions& batch_norm(bool v) {
    with_batch_norm = v;
    return *this;
  }
  QConv2dOptions& relu(bool v) {
    with_relu = v;
    return *this;
  }
  QConv2dOptions& weight(Choice v) {
    weight_choice = std::move(v);
    return *this;
  }
  QConv2dOptions& input(Choice v) {
    input_choice = std::move(v);
    return *this;
  }
  QConv2dOptions& output(Choice v) {
    output_choice = std::move(v);
    return *this;
  }

  int64_t in_channels, out_channels;
  std::array<int64_t, 2> kernel_size;
  ConvGeometry2d geometry;
  bool with_bias = true, with_batch_norm = false, with_relu = false;
  Choice weight_choice = minmax(8);
  std::optional<Choice> input_choice, output_choice;
};

/// x [N, C, H, W] float32 -> float32; parameters weight, bias, bn.* with LibTorch's initial values.
class QConv2dImpl final : public WeightedLayer {
 public:
  explicit QConv2dImpl(const QConv2dOptions& options);
  at::Tensor forward(const at::Tensor& x) { return forward_values(x); }
};
TORCH_MODULE(QConv2d);

struct QLinearOptions {
  QLinearOptions(int64_t in, int64_t out) : in_features(in), out_features(out) {}
  QLinearOptions& bias(bool v) {
    with_bias = v;
    return *this;
  }
  QLinearOptions& relu(bool v) {
    with_relu = v;
    return *this;
  }
  QLinearOptions& weight(Choice v) {
    weight_choice = std::move(v);
    return *this;
  }
  QLinearOptions& input(Choice v) {
    input_choice = std::move(v);
    return *this;
  }
  QLinearOptions& output(Choice v) {
    output_choice = std::move(v);
    return *this;
  }

  int64_t in_features, out_features;
  bool with_bias = true, with_relu = false;
  Choice weight_choice = minmax(8);
  std::optional<Choice> input_choice, output_choice;
};

/// x [N, F] float32 -> float32.
class QLinearImpl final : public WeightedLayer {
 public:
  explicit QLinearImpl(const QLinearOptions& options);
  at::Tensor forward(const at::Tensor& x) { return forward_values(x); }
};
TORCH_MODULE(QLinear);

}  // namespace qat::nn
