// Optimizers. State is kept by parameter name: LibTorch's own archives map it back by the order of the parameters,
// which a changed graph would silently mix up.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/config/node.h"
#include "core/device/training_step.h"
#include "core/io/checkpoint.h"
#include "core/registry/registry.h"

namespace qat::trainers {

struct NamedParameter {
  std::string name;
  at::Tensor tensor;
};

/// Whether a parameter or buffer of the network is a quantizer's: its name has "_quantizer." in it.
bool is_quantizer_state(const std::string& name);

/// What all optimizers take. Parameters fall into three groups: quantizers', vectors (fewer than two dimensions: biases
/// and norms), and weights.
struct OptimizerOptions {
  double lr = 0.1;
  double weight_decay = 0;             // of weights
  double vector_weight_decay = 0;      // of vectors
  double quantizer_weight_decay = 0;   // of quantizers' parameters
  std::optional<double> quantizer_lr;  // of quantizers' parameters; absent: lr
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// The learning rate of the options, before the schedule's factor.
  double base_learning_rate() const { return options_.lr; }

  /// One update with every learning rate times `factor`; parameters without a gradient stay as they are.
  void step(double factor);

  void zero_grad();

  /// The first parameter whose gradient is not finite, or "".
  std::string find_non_finite_gradient() const;

  /// As torch.nn.utils.clip_grad_norm_: gradients times max_norm / (norm + 1e-6) where that is below 1, norm the 2-norm
  /// of all of them together, which is returned. Throws qat::Error if it is not finite.
  double clip_grad_norm(double max_norm);
  /// Every gradient's values to [-limit, limit].
  void clip_grad_value(double limit);

  /// One parameter as a GPU updates it: with what is remembered of it, zeros where that is nothing yet.
  struct Shared {
    std::string name;
    at::Tensor parameter;
    std::vector<at::Tensor> slots;
    double weight_decay = 0;
    bool is_quantizers = false;
    int64_t steps = 0;
  };
  std::vector<Shared> share();
  /// Counts updates of a parameter that were made with what share() gave.
  void count_updates(const std::string& name, int64_t updates);
  double quantizer_learning_rate() const { return options_.quantizer_lr.value_or(options_.lr); }
  /// Sets the options of the same rule on a GPU; false where there is none.
  virtual bool describe(device::Options&) const { return false; }

  /// What the optimizer remembers, "<parameter>.<what>": the tensors themselves, and copies of the step counts.
  io::TensorMap state() const;
  /// Takes a state back. Throws CheckpointError for names or shapes that do not fit the parameters.
  void load_state(const io::TensorMap& state, const std::string& source);

 protected:
  enum class Group { kWeight, kVector, kQuantizer };

  struct Entry {
    std::string name;
    at::Tensor parameter;
    Group group = Group::kWeight;
    std::vector<at::Tensor> slots;  // undefined before the first update
    int64_t steps = 0;              // updates so far, this one included
  };

  struct Rates {
    double learning_rate = 0, weight_decay = 0;
  };

  /// `slots`: what is remembered of each parameter, tensors of its shape; `counts_steps`: and the number of its
  /// updates. Throws qat::Error if two of the parameters are one tensor.
  Optimizer(const OptimizerOptions& options, std::vector<NamedParameter> parameters, std::vector<std::string> slots,
            bool counts_steps);

  virtual void update(Entry& entry, const at::Tensor& gradient, const Rates& rates) = 0;

 private:
  /// Before the schedule's factor.
  Rates rates_of(const Entry& entry) const;
  std::vector<std::string> state_names(const Entry& entry) const;

  OptimizerOptions options_;
  std::vector<Entry> entries_;
  std::vector<std::string> slots_;
  bool counts_steps_;
};

struct OptimizerFactory {
  /// All options written out. Throws ConfigError for unknown or impossible ones.
  config::Node (*resolve)(const config::Node& options);
  std::unique_ptr<Optimizer> (*make)(const config::Node& options, std::vector<NamedParameter> parameters);
  /// A Markdown table of the options.
  std::string (*docs)();
};

/// Built in, with torch.optim's arithmetic; g the gradient, p the parameter, d the weight decay of its group:
///   sgd      g += d p;  v = momentum v + g (v = g at first);  p -= lr (nesterov ? g + momentum v : v)
///   adam     g += d p;  m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;  p -= lr m^ / (sqrt(v^) + eps),
///            m^ = m / (1 - b1^t), v^ = v / (1 - b2^t) at the parameter's update number t (Kingma and Ba 2015)
///   adamw    p -= lr d p, then adam without decay (Loshchilov and Hutter 2019)
///   rmsprop  g += d p;  s = alpha s + (1 - alpha) g^2;  u = g / (sqrt(s) + eps), s less the square of g's running mean
///            if centered;  p -= lr (momentum > 0 ? (v = momentum v + u) : u)
///   lamb     u = m^ / (sqrt(v^) + eps) + d p;  p -= lr r u, with r = |p| / |u| for weights, 1 for other groups and
///            where a norm is 0 (You et al. 2020, arXiv:1904.00962, algorithm 2, phi the identity)
Registry<OptimizerFactory>& optimizers();

}  // namespace qat::trainers
