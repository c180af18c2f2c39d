// Float networks as plain torch::nn modules. Quantization is unknown here.
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "core/config/config.h"
#include "core/registry/registry.h"

namespace qat::models {

/// A network behind one signature: images [N, C, H, W] float32 -> logits [N, num_classes].
struct Model {
  std::shared_ptr<torch::nn::Module> module;
  std::function<at::Tensor(const at::Tensor&)> forward;
};

/// Wraps any torch::nn module with `at::Tensor forward(at::Tensor)`.
template <class Net>
Model wrap(std::shared_ptr<Net> net) {
  Net* raw = net.get();
  return {std::move(net), [raw](const at::Tensor& x) { return raw->forward(x); }};
}

/// Options that every model takes; a model may have more of its own.
struct ClassifierOptions {
  int64_t num_classes = 10;
  int64_t in_channels = 3;
};

/// Makes a network with freshly initialised weights (LibTorch's default generator) from the `model:` section without
/// `name` and `weights`. Throws ConfigError for unknown or impossible options.
using ModelFactory = std::function<Model(const config::Node& options)>;

/// The networks that a config can name.
Registry<ModelFactory>& registry();

}  // namespace qat::models

template <>
struct qat::config::Schema<qat::models::ClassifierOptions> {
  static void describe(Fields<qat::models::ClassifierOptions>& f) {
    f.field("num_classes", &qat::models::ClassifierOptions::num_classes).doc("size of the output").minimum(1).maximum(1000000);
    f.field("in_channels", &qat::models::ClassifierOptions::in_channels).doc("channels of the input").minimum(1).maximum(4096);
  }
};
