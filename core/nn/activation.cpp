#include "core/nn/activation.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/hardsigmoid.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <fmt/format.h>

#include <cmath>

#include "core/ops/table.h"

namespace qat::nn {

bool Activation::is_non_negative() const {
  return (kind == Kind::kClip && lowest >= 0) || kind == Kind::kSigmoid || kind == Kind::kHardsigmoid;
}

std::optional<autograd::TableFunction> Activation::table() const {
  const auto sigmoid = [](double v) { return 1.0 / (1.0 + std::exp(-v)); };
  switch (kind) {
    case Kind::kNone:
    case Kind::kClip:
    case Kind::kGelu:
      return std::nullopt;
    case Kind::kLeakyRelu: {
      const auto alpha = static_cast<float>(slope);
      return autograd::TableFunction{"leaky_relu", [alpha](float v) { return ops::leaky_relu(v, alpha); },
                                     [alpha](double v) { return v > 0 ? 1.0 : static_cast<double>(alpha); }};
    }
    case Kind::kSigmoid:
      return autograd::TableFunction{"sigmoid", ops::sigmoid, [sigmoid](double v) {
                                       const double y = sigmoid(v);
                                       return y * (1.0 - y);
                                     }};
    case Kind::kSilu:
      return autograd::TableFunction{"silu", ops::silu, [sigmoid](double v) {
                                       const double y = sigmoid(v);
                                       return y * (1.0 + v * (1.0 - y));
                                     }};
    case Kind::kHardsigmoid:
      return autograd::TableFunction{"hardsigmoid", ops::hardsigmoid,
                                     [](double v) { return v > -3 && v < 3 ? 1.0 / 6.0 : 0.0; }};
    case Kind::kHardswish:
      return autograd::TableFunction{"hardswish", ops::hardswish, [](double v) {
                                       if (v <= -3) return 0.0;
                                       return v < 3 ? (2.0 * v + 3.0) / 6.0 : 1.0;
                                     }};
  }
  return std::nullopt;
}

std::string Activation::name() const {
  switch (kind) {
    case Kind::kNone:
      return "none";
    case Kind::kClip:
      if (is_relu()) return "relu";
      if (lowest == 0.0 && highest == 6.0) return "relu6";
      return fmt::format("clip({}, {})", lowest, highest);
    case Kind::kLeakyRelu:
      return fmt::format("leaky_relu({})", slope);
    case Kind::kSigmoid:
      return "sigmoid";
    case Kind::kHardsigmoid:
      return "hardsigmoid";
    case Kind::kHardswish:
      return "hardswish";
    case Kind::kSilu:
      return "silu";
    case Kind::kGelu:
      return "gelu";
  }
  return "?";
}

at::Tensor Activation::operator()(const at::Tensor& x) const {
  switch (kind) {
    case Kind::kNone:
      return x;
    case Kind::kClip:
      if (is_relu()) return at::relu(x);
      return closed ? at::clamp(x, lowest, highest) : at::hardtanh(x, lowest, highest);
    case Kind::kLeakyRelu:
      return at::leaky_relu(x, slope);
    case Kind::kSigmoid:
      return at::sigmoid(x);
    case Kind::kHardsigmoid:
      return at::hardsigmoid(x);
    case Kind::kHardswish:
      return at::hardswish(x);
    case Kind::kSilu:
      return at::silu(x);
    case Kind::kGelu:
      return at::gelu(x, tanh_approximation ? "tanh" : "none");
  }
  return x;
}

}  // namespace qat::nn
