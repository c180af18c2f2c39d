// Float networks as plain torch::nn modules. Quantization is unknown here.
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/config/config.h"
#include "core/registry/registry.h"

namespace qat::models {

/// The output of one head: "logits", or the name of an auxiliary head.
struct HeadOutput {
  std::string name;
  at::Tensor logits;  // [N, num_classes]
};

/// A network behind one signature: images [N, C, H, W] float32 -> logits [N, num_classes].
struct Model {
  std::shared_ptr<torch::nn::Module> module;
  std::function<at::Tensor(const at::Tensor&)> forward;
  /// The sides H = W of the smallest square images that it takes; fixed sizes stand in the model's description.
  int64_t smallest_image = 32;
  /// Empty unless the network has auxiliary classifiers for training. Returns "logits" and, in training mode, what the
  /// auxiliary heads say. `forward` never runs those heads: they get no gradients from it.
  std::function<std::vector<HeadOutput>(const at::Tensor&)> forward_heads;
  /// loss = CE(logits) + auxiliary_weight * (sum of the CE of the auxiliary heads).
  double auxiliary_weight = 0.0;
};

/// Wraps any torch::nn module with `at::Tensor forward(at::Tensor)`.
template <class Net>
Model wrap(std::shared_ptr<Net> net, int64_t smallest_image = 32) {
  Net* raw = net.get();
  return {std::move(net), [raw](const at::Tensor& x) { return raw->forward(x); }, smallest_image};
}

/// Options that every model takes; a model may have more of its own.
struct ClassifierOptions {
  int64_t num_classes = 10;
  int64_t in_channels = 3;
};

/// The same with ImageNet's number of classes.
struct ImagenetOptions {
  int64_t num_classes = 1000;
  int64_t in_channels = 3;
};

/// The rows of num_classes and in_channels.
template <class Options>
void describe_classifier(config::Fields<Options>& f) {
  f.field("num_classes", &Options::num_classes).doc("size of the output").minimum(1).maximum(1000000);
  f.field("in_channels", &Options::in_channels).doc("channels of the input").minimum(1).maximum(4096);
}

/// Makes a network with freshly initialised weights (LibTorch's default generator) from the `model:` section without
/// `name` and `weights`. Throws ConfigError for unknown or impossible options.
using ModelFactory = std::function<Model(const config::Node& options)>;

/// The networks that a config can name.
Registry<ModelFactory>& registry();

/// Registers a network: make(options) -> shared_ptr to a torch::nn module with forward(at::Tensor).
template <class Options = ImagenetOptions, class Make>
void add_model(Registry<ModelFactory>& models, const std::string& name, const std::string& description, Make make,
               int64_t smallest_image = 32) {
  models.add(name, description, [make, smallest_image](const config::Node& options) {
    return wrap(make(config::parse<Options>(options)), smallest_image);
  });
}

/// Parameters of a registered network with default options. Weights are not initialised for it, so that even the
/// largest network is counted in milliseconds and takes no memory. Throws Error for an unknown name.
int64_t parameter_count(const std::string& name);

/// The parameters and buffers whose sizes depend on num_classes: the classifier, with those of auxiliary heads. The
/// options are those that a factory takes. Throws ConfigError for a network without the option num_classes.
std::set<std::string> classifier_tensors(const std::string& name, const config::Node& options);

}  // namespace qat::models

template <>
struct qat::config::Schema<qat::models::ClassifierOptions> {
  static void describe(Fields<qat::models::ClassifierOptions>& f) { qat::models::describe_classifier(f); }
};

template <>
struct qat::config::Schema<qat::models::ImagenetOptions> {
  static void describe(Fields<qat::models::ImagenetOptions>& f) { qat::models::describe_classifier(f); }
};
