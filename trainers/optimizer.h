// Optimizers. State is kept by parameter name: LibTorch's own archives map it back by the order of the parameters,
// which a changed graph would silently mix up.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "core/config/node.h"
#include "core/io/checkpoint.h"
#include "core/registry/registry.h"

namespace qat::trainers {

struct NamedParameter {
  std::string name;
  at::Tensor tensor;
};

class Optimizer {
 public:
  /// Throws qat::Error if two of the parameters are one tensor.
  explicit Optimizer(std::vector<NamedParameter> parameters);
  virtual ~Optimizer() = default;

  /// The learning rate of the options, before the schedule's factor.
  virtual double base_learning_rate() const = 0;

  /// One update with this learning rate; parameters without a gradient stay as they are.
  virtual void step(double learning_rate) = 0;

  void zero_grad();

  /// What the optimizer remembers, "<parameter>.<what>": the tensors themselves, not copies.
  virtual io::TensorMap state() const = 0;
  /// Takes a state back. Throws CheckpointError for names or shapes that do not fit the parameters.
  virtual void load_state(const io::TensorMap& state, const std::string& source) = 0;

 protected:
  std::vector<NamedParameter> parameters_;
};

struct OptimizerFactory {
  /// All options written out. Throws ConfigError for unknown or impossible ones.
  config::Node (*resolve)(const config::Node& options);
  std::unique_ptr<Optimizer> (*make)(const config::Node& options, std::vector<NamedParameter> parameters);
  /// A Markdown table of the options.
  std::string (*docs)();
};

/// Built in: sgd. With torch.optim.SGD's arithmetic, g the gradient and v the momentum:
///   g += weight_decay * p          (only for weights: parameters with two or more dimensions)
///   v  = g at the first step, then momentum * v + g
///   p -= lr * (nesterov ? g + momentum * v : v)
Registry<OptimizerFactory>& optimizers();

}  // namespace qat::trainers
