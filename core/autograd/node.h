// The one bridge to LibTorch's autograd engine: an operator's backward as an object that owns what it kept.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

namespace qat::autograd {

/// Backward of one operator. Implementations keep codes, masks and constants; they are freed with the graph.
class Backward {
 public:
  virtual ~Backward() = default;

  /// The operator's name in error messages and graph dumps.
  virtual std::string name() const = 0;

  /// grad: the gradient at the output, in kernel_layout. needed[i]: whether input i wants one; the result has one entry
  /// an input (undefined where not needed).
  virtual std::vector<at::Tensor> apply(const at::Tensor& grad, const std::vector<bool>& needed) = 0;
};

/// The identity: what a conversion between codes and floats has.
class PassThrough final : public Backward {
 public:
  std::string name() const override { return "qat::dequantize"; }
  std::vector<at::Tensor> apply(const at::Tensor& grad, const std::vector<bool>&) override { return {grad}; }
};

/// Connects `output` (fresh, without history) to `inputs` where gradients are enabled and one of them needs one.
at::Tensor connect(at::Tensor output, const std::vector<at::Tensor>& inputs, std::unique_ptr<Backward> backward);

/// Whether connect() would record: operators keep nothing otherwise.
bool needs_gradient(const std::vector<at::Tensor>& inputs);

}  // namespace qat::autograd
