// Layers without weights: the network's input, add, ReLU, pools, flatten, and operators that stay in float.
#pragma once

#include <functional>
#include <string>

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

/// a + b (+ ReLU). The first operand is the traced add's first: their order is part of the integers.
class QAdd final : public QLayer {
 public:
  QAdd(std::string label, bool relu) : QLayer(std::move(label)), relu_(relu) {}
  std::string type() const override { return "add"; }
  bool has_relu() const { return relu_; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return output_quantizer() != nullptr; }

 private:
  bool relu_;
};

/// ReLU by itself. On codes: max(q, z) with the input's parameters. Behind a float layer: floats.
class ReLULayer : public QLayer {
 public:
  using QLayer::QLayer;
  std::string type() const override { return "relu"; }
  bool passes_through() const override { return true; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return true; }
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

/// [N, C, H, W] -> [N, C * H * W].
class QFlatten final : public QLayer {
 public:
  using QLayer::QLayer;
  std::string type() const override { return "flatten"; }
  bool passes_through() const override { return true; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return true; }
};

/// Active in training only; codes keep their parameters but for the scale (ARITHMETIC section 3).
class QDropout final : public QLayer {
 public:
  QDropout(std::string label, double probability) : QLayer(std::move(label)), probability_(probability) {}
  std::string type() const override { return "dropout"; }
  bool passes_through() const override { return true; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override;
  Value run_quantized(const std::vector<Value>& inputs) override;
  bool has_integer_form() const override { return true; }

 private:
  double probability_;
};

/// Any other operator: an island of floats. `call` must be differentiable where training passes through it.
class FloatLayer final : public QLayer {
 public:
  using Call = std::function<at::Tensor(const std::vector<at::Tensor>&)>;
  FloatLayer(std::string label, std::string type, Call call)
      : QLayer(std::move(label)), type_(std::move(type)), call_(std::move(call)) {}
  std::string type() const override { return type_; }

 protected:
  at::Tensor run_float(const std::vector<at::Tensor>& inputs) override { return call_(inputs); }
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
