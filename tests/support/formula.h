// Weights and images that any language reproduces bit for bit (tests/goldens/torchvision/README.md, section 1).
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "core/base/error.h"

namespace qat::test {

inline uint64_t fnv(const std::string& name) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const unsigned char byte : name) hash = (hash ^ byte) * 0x100000001B3u;
  return hash;
}

inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// The tensor of that name; `rule` as in the README's table.
inline at::Tensor formula(const std::string& name, at::IntArrayRef shape, const std::string& rule, double weight_k) {
  if (rule == "zero") return at::zeros(shape, at::kLong);
  at::Tensor tensor = at::empty(shape, at::kFloat);
  double slope = 0.0, start = 0.0;  // value = start + slope * (u or t)
  bool centred = true;
  if (rule == "weight") {
    double fan_in = 1.0;
    for (const int64_t size : shape.slice(1)) fan_in *= static_cast<double>(size);
    slope = std::sqrt(weight_k / fan_in);
  } else if (rule == "bias" || rule == "embed") {
    slope = 0.1;
  } else if (rule == "norm_bias" || rule == "mean") {
    slope = 0.2;
  } else if (rule == "norm_weight" || rule == "var" || rule == "scale") {
    slope = 1.0, start = 0.5, centred = false;
  } else if (rule == "input") {
    slope = 2.0;
  } else {
    throw Error("unknown rule '" + rule + "' of " + name);
  }
  const uint64_t seed = fnv(name);
  float* values = tensor.data_ptr<float>();
  const auto count = static_cast<uint64_t>(tensor.numel());
  for (uint64_t i = 0; i < count; ++i) {
    const double u = static_cast<double>(mix(seed + i * 0x9E3779B97F4A7C15u) >> 40) * 0x1p-24;
    values[i] = static_cast<float>(start + slope * (centred ? 2.0 * u - 1.0 : u));
  }
  return tensor;
}

/// Gives a convolutional network (convolutions, linear layers, batch norms) the formula's weights.
inline void set_formula_weights(torch::nn::Module& net, double weight_k) {
  const auto set = [&](const std::string& name, at::Tensor tensor, bool is_norm) {
    const std::string kind = name.substr(name.rfind('.') + 1);
    const std::string rule = kind == "num_batches_tracked" ? "zero"
                             : kind == "running_mean"      ? "mean"
                             : kind == "running_var"       ? "var"
                             : kind == "bias"              ? (is_norm ? "norm_bias" : "bias")
                             : is_norm                     ? "norm_weight"
                                                           : "weight";
    const at::NoGradGuard no_grad;
    tensor.copy_(formula(name, tensor.sizes(), rule, weight_k));
  };
  for (const auto& module : net.named_modules("", false)) {
    const auto parameters = module.value()->named_parameters(false);
    const at::Tensor* weight = parameters.find("weight");
    const bool is_norm = weight != nullptr && weight->dim() == 1;
    for (const auto& item : parameters) set(module.key() + "." + item.key(), item.value(), is_norm);
    for (const auto& item : module.value()->named_buffers(false)) {
      set(module.key() + "." + item.key(), item.value(), is_norm);
    }
  }
}

}  // namespace qat::test
