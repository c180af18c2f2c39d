// Layers without weights: the network's input, add, mul, concat, activations, pools, moves, and operators in float.
#pragma once

#include <functional>
#include <string>

#include "core/nn/activation.h"
#include "core/nn/layer.h"

namespace qat::nn {

/// The network's input: floats in, codes out.
class QInput final : public QLayer {
 public:
  using QLayer::QLayer;
  std::string type() const override { return "input"; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override { return inputs[0]; }
  bool has_integer_form() const override { return false; }
};

/// a + b (+ a clip). The first operand is the traced add's first: their order is part of the integers.
class QAdd final : public QLayer {
 public:
  QAdd(std::string label, Activation activation) : QLayer(std::move(label)), activation_(activation) {}
  std::string type() const override { return "add"; }
  const Activation& activation() const { return activation_; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return output_quantizer() != nullptr; }

 private:
  Activation activation_;
};

/// a * b, where one may be [N, C, 1, 1].
class QMul final : public QLayer {
 public:
  using QLayer::QLayer;
  std::string type() const override { return "mul"; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return output_quantizer() != nullptr; }
};

/// Along channels. The output has a quantizer of its own.
class QConcat final : public QLayer {
 public:
  using QLayer::QLayer;
  std::string type() const override { return "concat"; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return output_quantizer() != nullptr; }
};

/// The input's values with a quantizer of their own: what reads this tensor at another width than its other readers.
class QRequantize final : public QLayer {
 public:
  using QLayer::QLayer;
  std::string type() const override { return "requantize"; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override { return inputs[0]; }
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return output_quantizer() != nullptr; }
};

/// An activation by itself. ReLU on codes: max(q, z) with the input's parameters. What Activation::table() has: a table
/// of all codes. Others are islands of floats.
class ActivationLayer : public QLayer {
 public:
  ActivationLayer(std::string label, Activation activation) : QLayer(std::move(label)), activation_(activation) {}
  /// "relu", "relu6", "clip", "leaky_relu", ...
  std::string type() const override;
  const Activation& activation() const { return activation_; }
  bool passes_through() const override { return activation_.is_relu(); }
  bool is_table() const { return activation_.table().has_value(); }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override { return activation_(inputs[0]); }
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return passes_through() || (is_table() && output_quantizer() != nullptr); }

 private:
  Activation activation_;
};

class QMaxPool2d final : public QLayer {
 public:
  QMaxPool2d(std::string label, const autograd::Pool2d& pool) : QLayer(std::move(label)), pool_(pool) {}
  std::string type() const override { return "max_pool2d"; }
  bool passes_through() const override { return true; }
  const autograd::Pool2d& pool() const { return pool_; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return true; }

 private:
  autograd::Pool2d pool_;
};

class QAvgPool2d final : public QLayer {
 public:
  QAvgPool2d(std::string label, const autograd::Pool2d& pool) : QLayer(std::move(label)), pool_(pool) {}
  std::string type() const override { return "avg_pool2d"; }
  const autograd::Pool2d& pool() const { return pool_; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return output_quantizer() != nullptr; }

 private:
  autograd::Pool2d pool_;
};

/// [N, C, H, W] -> [N, C, 1, 1].
class QGlobalAvgPool2d final : public QLayer {
 public:
  using QLayer::QLayer;
  std::string type() const override { return "global_avg_pool2d"; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return output_quantizer() != nullptr; }
};

/// Replays an operator; batch: the number of samples.
using Call = std::function<at::Tensor(const std::vector<at::Tensor>& inputs, int64_t batch)>;

/// Moves elements without changing them: flatten, channel shuffle, slices, view, transpose, ...
class QMove final : public QLayer {
 public:
  /// parameter: channel_shuffle's groups; channel_slice's first channel.
  QMove(std::string label, std::string type, Call call, int64_t parameter = 0)
      : QLayer(std::move(label)), type_(std::move(type)), call_(std::move(call)), parameter_(parameter) {}
  std::string type() const override { return type_; }
  bool passes_through() const override { return true; }
  int64_t parameter() const { return parameter_; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override { return call_(inputs, batch()); }
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return true; }

 private:
  std::string type_;
  Call call_;
  int64_t parameter_;
};

/// Active in training only; codes keep their parameters but for the scale (ARITHMETIC section 3).
class QDropout final : public QLayer {
 public:
  /// per_sample: stochastic depth.
  QDropout(std::string label, double probability, bool per_sample)
      : QLayer(std::move(label)), probability_(probability), per_sample_(per_sample) {}
  double probability() const { return probability_; }
  bool per_sample() const { return per_sample_; }
  std::string type() const override { return per_sample_ ? "stochastic_depth" : "dropout"; }
  bool passes_through() const override { return true; }
  bool is_identity_in_evaluation() const override { return true; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return true; }

 private:
  double probability_;
  bool per_sample_;
};

/// Any other operator: an island of floats. `call` must be differentiable where training passes through it.
class FloatLayer final : public QLayer {
 public:
  FloatLayer(std::string label, std::string type, Call call)
      : QLayer(std::move(label)), type_(std::move(type)), call_(std::move(call)) {}
  std::string type() const override { return type_; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override { return call_(inputs, batch()); }
  bool has_integer_form() const override { return false; }

 private:
  std::string type_;
  Call call_;
};

/// A batch norm that could not be fused: batch statistics in training, until the freeze.
class FloatBatchNorm final : public QLayer {
 public:
  FloatBatchNorm(std::string label, autograd::BatchNorm norm) : QLayer(std::move(label)), norm_(std::move(norm)) {}
  std::string type() const override { return "batch_norm"; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  bool has_integer_form() const override { return false; }

 private:
  autograd::BatchNorm norm_;
};

}  // namespace qat::nn
