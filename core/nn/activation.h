// Activation: a function of one value that a layer applies to its output.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>
#include <optional>
#include <string>

#include "core/autograd/functions.h"

namespace qat::nn {

struct Activation {
  enum class Kind { kNone, kClip, kLeakyRelu, kSigmoid, kHardsigmoid, kHardswish, kSilu, kGelu };
  Kind kind = Kind::kNone;
  /// kClip: max(lowest, min(x, highest)). ReLU is [0, inf), ReLU6 [0, 6], hardtanh [-1, 1].
  double lowest = -std::numeric_limits<double>::infinity();
  double highest = std::numeric_limits<double>::infinity();
  /// kClip: whether gradients pass at the limits themselves (clamp: yes; ReLU, ReLU6, hardtanh: no).
  bool closed = false;
  double slope = 0.0;               // kLeakyRelu, below zero
  bool tanh_approximation = false;  // kGelu

  static Activation relu() { return {.kind = Kind::kClip, .lowest = 0.0}; }
  static Activation clip(double lowest, double highest) {
    return {.kind = Kind::kClip, .lowest = lowest, .highest = highest};
  }

  explicit operator bool() const { return kind != Kind::kNone; }
  bool operator==(const Activation&) const = default;

  bool is_relu() const { return *this == relu(); }
  /// Whether quantizing the output does the same: a clip around zero, whose limits are the range's or lie outside.
  bool folds_into_range() const { return kind == Kind::kNone || (kind == Kind::kClip && lowest <= 0 && highest > 0); }
  /// The function as a table of all codes computes it: sigmoid, SiLU, leaky ReLU, hardsigmoid, hardswish.
  std::optional<autograd::TableFunction> table() const;
  /// Whether no output is below zero.
  bool is_non_negative() const;

  /// "relu", "relu6", "clip(-1, 1)", "leaky_relu(0.01)", "silu", ...
  std::string name() const;
  at::Tensor operator()(const at::Tensor& x) const;
};

}  // namespace qat::nn
