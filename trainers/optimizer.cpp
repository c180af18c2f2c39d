#include "trainers/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/config/config.h"

namespace qat::trainers {

struct SgdOptions {
  double lr = 0.1;
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0;
};

}  // namespace qat::trainers

template <>
struct qat::config::Schema<qat::trainers::SgdOptions> {
  static void describe(Fields<qat::trainers::SgdOptions>& f) {
    using T = qat::trainers::SgdOptions;
    f.field("lr", &T::lr).doc("learning rate").minimum(0);
    f.field("momentum", &T::momentum).doc("factor on the earlier update").minimum(0).below(1);
    f.field("nesterov", &T::nesterov).doc("Nesterov's momentum");
    f.field("weight_decay", &T::weight_decay).doc("of weights; biases, batch norm and scales have none").minimum(0);
    f.check([](const T& o) -> std::string {
      return o.nesterov && o.momentum == 0 ? "nesterov: expected a momentum above 0" : "";
    });
  }
};

namespace qat::trainers {
namespace {

constexpr const char* kMomentum = ".momentum";

class Sgd final : public Optimizer {
 public:
  Sgd(const SgdOptions& options, std::vector<NamedParameter> parameters)
      : Optimizer(std::move(parameters)), options_(options), momentum_(parameters_.size()) {}

  double base_learning_rate() const override { return options_.lr; }

  void step(double learning_rate) override {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      at::Tensor& p = parameters_[i].tensor;
      at::Tensor g = p.grad();
      if (!g.defined()) continue;
      if (options_.weight_decay != 0 && p.dim() >= 2) g = g.add(p, options_.weight_decay);
      if (options_.momentum != 0) {
        at::Tensor& v = momentum_[i];
        if (v.defined()) {
          v.mul_(options_.momentum).add_(g);
        } else {
          v = g.clone();
        }
        g = options_.nesterov ? g.add(v, options_.momentum) : v;
      }
      p.add_(g, -learning_rate);
    }
  }

  io::TensorMap state() const override {
    io::TensorMap state;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (momentum_[i].defined()) state.emplace(parameters_[i].name + kMomentum, momentum_[i]);
    }
    return state;
  }

  void load_state(const io::TensorMap& state, const std::string& source) override {
    io::TensorMap into;
    std::vector<at::Tensor> loaded(parameters_.size());
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const std::string name = parameters_[i].name + kMomentum;
      // A parameter that has had no gradient yet has no momentum.
      if (state.count(name) != 0) into.emplace(name, loaded[i] = at::zeros_like(parameters_[i].tensor));
    }
    io::copy_state(into, state, source);
    momentum_ = std::move(loaded);
  }

 private:
  SgdOptions options_;
  std::vector<at::Tensor> momentum_;
};

}  // namespace

Optimizer::Optimizer(std::vector<NamedParameter> parameters) : parameters_(std::move(parameters)) {
  std::set<const void*> seen;
  for (const NamedParameter& p : parameters_) {
    QAT_CHECK(seen.insert(p.tensor.unsafeGetTensorImpl()).second, "{}: the parameter is in the list twice", p.name);
  }
}

void Optimizer::zero_grad() {
  for (NamedParameter& p : parameters_) p.tensor.mutable_grad() = at::Tensor();
}

Registry<OptimizerFactory>& optimizers() {
  static Registry<OptimizerFactory> registry = [] {
    Registry<OptimizerFactory> r("optimizer");
    r.add("sgd", "gradient descent with momentum",
          {
              [](const config::Node& options) { return config::to_node(config::parse<SgdOptions>(options)); },
              [](const config::Node& options, std::vector<NamedParameter> parameters) -> std::unique_ptr<Optimizer> {
                return std::make_unique<Sgd>(config::parse<SgdOptions>(options), std::move(parameters));
              },
              [] { return config::docs<SgdOptions>(); },
          });
    return r;
  }();
  return registry;
}

}  // namespace qat::trainers
