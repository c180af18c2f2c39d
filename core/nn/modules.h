// QConv2d, QLinear and QReLU by hand, in any LibTorch program: floats in, floats out, integers inside.
//
//   QConv2d conv(QConv2dOptions(16, 32, 3).padding(1).weight(lsq(4)).input(lsq(4)));
//   at::Tensor y = conv(x);
//
// Quantizers start on the first batch. set_phase(Phase::kFrozen) freezes ranges and batch norm. The graph builds the
// same layers on the parameters of a traced network.
#pragma once

#include <torch/nn/pimpl.h>

#include <array>
#include <optional>
#include <string>

#include "core/nn/pointwise.h"
#include "core/nn/weighted.h"

namespace qat::nn {

/// A quantization method and width for one tensor of a hand-written layer.
struct Choice {
  std::string method;
  int bits = 8;
  bool is_signed = true;                                          // activations: can values be negative?
  quant::Granularity granularity = quant::Granularity::kChannel;  // weights
  int64_t groups = 1;                                             // with kGroup
  config::Node options = {};                                      // the method's own
};
inline Choice lsq(int bits) { return {.method = "lsq", .bits = bits}; }
inline Choice minmax(int bits) { return {.method = "minmax", .bits = bits}; }

/// What QConv2d and QLinear share.
class HandWrittenLayer : public WeightedLayer {
 public:
  /// Throws qat::Error without an input quantizer.
  at::Tensor forward(const at::Tensor& x);

 protected:
  using WeightedLayer::WeightedLayer;
  void choose_quantizers(const Choice& weight, const std::optional<Choice>& input, const std::optional<Choice>& output);

 private:
  std::shared_ptr<quant::Quantizer> input_quantizer_;
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
  ConvGeometry geometry{.stride = {1, 1}, .padding = {0, 0}, .dilation = {1, 1}};
  bool with_bias = true, with_batch_norm = false, with_relu = false;
  Choice weight_choice = minmax(8);
  std::optional<Choice> input_choice, output_choice;
};

/// x [N, C, H, W] float32 -> float32; parameters weight, bias, bn.* with LibTorch's initial values.
class QConv2dImpl final : public HandWrittenLayer {
 public:
  explicit QConv2dImpl(const QConv2dOptions& options);
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
class QLinearImpl final : public HandWrittenLayer {
 public:
  explicit QLinearImpl(const QLinearOptions& options);
};
TORCH_MODULE(QLinear);

/// ReLU and the quantizer of its output: x of any sizes, float32 -> float32.
class QReLUImpl final : public ActivationLayer {
 public:
  explicit QReLUImpl(const Choice& output);
  at::Tensor forward(const at::Tensor& x);
};
TORCH_MODULE(QReLU);

}  // namespace qat::nn
