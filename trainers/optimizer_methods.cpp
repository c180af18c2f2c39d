// The optimizers that a config can name. Formulas: trainers/optimizer.h.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "core/base/error.h"
#include "core/config/config.h"
#include "core/ops/sgd.h"
#include "trainers/optimizer.h"

namespace qat::trainers {
namespace {

struct SgdOptions : OptimizerOptions {
  double momentum = 0.9;
  bool nesterov = false;
};

struct AdamOptions : OptimizerOptions {
  AdamOptions() { lr = 1e-3; }
  std::vector<double> betas{0.9, 0.999};
  double eps = 1e-8;
};

struct AdamwOptions : AdamOptions {
  AdamwOptions() { weight_decay = 0.01; }
};

struct LambOptions : AdamOptions {
  LambOptions() {
    weight_decay = 0.01;
    eps = 1e-6;
  }
};

struct RmspropOptions : OptimizerOptions {
  RmspropOptions() { lr = 1e-2; }
  double alpha = 0.99;
  double eps = 1e-8;
  double momentum = 0;
  bool centered = false;
};

template <class T>
void describe_common(config::Fields<T>& f) {
  f.template field<double>("lr", &T::lr).doc("learning rate").minimum(0);
  f.template field<double>("weight_decay", &T::weight_decay).doc("of weights: two or more dimensions").minimum(0);
  f.template field<double>("vector_weight_decay", &T::vector_weight_decay).doc("of biases and norms").minimum(0);
  f.template field<double>("quantizer_weight_decay", &T::quantizer_weight_decay)
      .doc("of quantizers' parameters")
      .minimum(0);
  f.template field<std::optional<double>>("quantizer_lr", &T::quantizer_lr)
      .doc("learning rate of quantizers' parameters, under the same schedule; null: lr")
      .minimum(0);
}

template <class T>
void describe_adam(config::Fields<T>& f) {
  describe_common(f);
  f.template field<std::vector<double>>("betas", &T::betas)
      .doc("factors on the earlier averages of the gradient and of its square")
      .minimum(0)
      .below(1);
  f.template field<double>("eps", &T::eps).doc("added to the square root").minimum(0);
  f.check([](const T& o) -> std::string {
    return o.betas.size() == 2 ? "" : fmt::format("betas: expected 2 values, found {}", o.betas.size());
  });
}

}  // namespace
}  // namespace qat::trainers

namespace qat::config {

template <>
struct Schema<trainers::SgdOptions> {
  static void describe(Fields<trainers::SgdOptions>& f) {
    using T = trainers::SgdOptions;
    trainers::describe_common(f);
    f.field("momentum", &T::momentum).doc("factor on the earlier update").minimum(0).below(1);
    f.field("nesterov", &T::nesterov).doc("Nesterov's momentum");
    f.check([](const T& o) -> std::string {
      return o.nesterov && o.momentum == 0 ? "nesterov: expected a momentum above 0" : "";
    });
  }
};

template <>
struct Schema<trainers::AdamOptions> {
  static void describe(Fields<trainers::AdamOptions>& f) { trainers::describe_adam(f); }
};

template <>
struct Schema<trainers::AdamwOptions> {
  static void describe(Fields<trainers::AdamwOptions>& f) { trainers::describe_adam(f); }
};

template <>
struct Schema<trainers::LambOptions> {
  static void describe(Fields<trainers::LambOptions>& f) { trainers::describe_adam(f); }
};

template <>
struct Schema<trainers::RmspropOptions> {
  static void describe(Fields<trainers::RmspropOptions>& f) {
    using T = trainers::RmspropOptions;
    trainers::describe_common(f);
    f.field("alpha", &T::alpha).doc("factor on the earlier average of the gradient's square").minimum(0).below(1);
    f.field("eps", &T::eps).doc("added to the square root").minimum(0);
    f.field("momentum", &T::momentum).doc("factor on the earlier update").minimum(0).below(1);
    f.field("centered", &T::centered).doc("by the gradient's variance in place of its square");
  }
};

}  // namespace qat::config

namespace qat::trainers {
namespace {

using Strings = std::vector<std::string>;

at::Tensor decayed(const at::Tensor& gradient, const at::Tensor& parameter, double weight_decay) {
  return weight_decay != 0 ? gradient.add(parameter, weight_decay) : gradient;
}

/// Whether one loop over the memory of both goes through the same elements. The strides of dimensions of one element,
/// as of 1x1 kernels, mean nothing.
bool lie_alike(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != at::kFloat || b.scalar_type() != at::kFloat || !a.is_cpu() || !b.is_cpu() ||
      a.sizes() != b.sizes() || !a.is_non_overlapping_and_dense()) {
    return false;
  }
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

class Sgd final : public Optimizer {
 public:
  Sgd(const SgdOptions& options, std::vector<NamedParameter> parameters)
      : Optimizer(options, std::move(parameters), options.momentum != 0 ? Strings{"momentum"} : Strings{}, false),
        options_(options) {}

  bool describe(device::Options& options) const override {
    options.optimizer = device::Options::Optimizer::kSgd;
    options.momentum = options_.momentum, options.nesterov = options_.nesterov;
    return true;
  }

 private:
  void update(Entry& entry, const at::Tensor& gradient, const Rates& rates) override {
    at::Tensor& p = entry.parameter;
    const bool has_momentum = options_.momentum != 0, first = has_momentum && !entry.slots[0].defined();
    if (lie_alike(p, gradient) && (!has_momentum || first || lie_alike(p, entry.slots[0]))) {
      if (first) entry.slots[0] = at::empty_like(p);
      ops::sgd_step({.learning_rate = static_cast<float>(rates.learning_rate),
                     .momentum = static_cast<float>(options_.momentum),
                     .weight_decay = static_cast<float>(rates.weight_decay),
                     .nesterov = options_.nesterov},
                    gradient.const_data_ptr<float>(), p.numel(), first,
                    has_momentum ? entry.slots[0].mutable_data_ptr<float>() : nullptr, p.mutable_data_ptr<float>());
      p.unsafeGetTensorImpl()->bump_version();  // as every write in place
      return;
    }
    at::Tensor g = decayed(gradient, entry.parameter, rates.weight_decay);
    if (options_.momentum != 0) {
      at::Tensor& v = entry.slots[0];
      if (v.defined()) {
        v.mul_(options_.momentum).add_(g);
      } else {
        v = g.clone();
      }
      g = options_.nesterov ? g.add(v, options_.momentum) : v;
    }
    entry.parameter.add_(g, -rates.learning_rate);
  }

  SgdOptions options_;
};

// The averages that adam, adamw and lamb share.
class Moments : public Optimizer {
 public:
  Moments(const AdamOptions& options, std::vector<NamedParameter> parameters)
      : Optimizer(options, std::move(parameters), {"exp_avg", "exp_avg_sq"}, true), options_(options) {}

 protected:
  const AdamOptions& adam_options() const { return options_; }
  // Takes the gradient into the averages; returns sqrt(v^) + eps. m^ is exp_avg / *correction.
  at::Tensor advance(Entry& entry, const at::Tensor& gradient, double* correction) const {
    const double beta1 = options_.betas[0], beta2 = options_.betas[1];
    at::Tensor &m = entry.slots[0], &v = entry.slots[1];
    if (!m.defined()) {
      m = at::zeros_like(entry.parameter);
      v = at::zeros_like(entry.parameter);
    }
    m.lerp_(gradient, 1 - beta1);
    v.mul_(beta2).addcmul_(gradient, gradient, 1 - beta2);
    const auto t = static_cast<double>(entry.steps);
    *correction = 1 - std::pow(beta1, t);
    return v.sqrt().div_(std::sqrt(1 - std::pow(beta2, t))).add_(options_.eps);
  }

 private:
  AdamOptions options_;
};

template <bool kDecoupled>
class Adam final : public Moments {
 public:
  using Moments::Moments;

  bool describe(device::Options& options) const override {
    options.optimizer = kDecoupled ? device::Options::Optimizer::kAdamw : device::Options::Optimizer::kAdam;
    options.beta1 = adam_options().betas[0], options.beta2 = adam_options().betas[1];
    options.eps = adam_options().eps;
    return true;
  }

 private:
  void update(Entry& entry, const at::Tensor& gradient, const Rates& rates) override {
    if (kDecoupled) entry.parameter.mul_(1 - rates.learning_rate * rates.weight_decay);
    const at::Tensor g = kDecoupled ? gradient : decayed(gradient, entry.parameter, rates.weight_decay);
    double correction = 1;
    const at::Tensor denominator = advance(entry, g, &correction);
    entry.parameter.addcdiv_(entry.slots[0], denominator, -rates.learning_rate / correction);
  }
};

class Lamb final : public Moments {
 public:
  using Moments::Moments;

 private:
  void update(Entry& entry, const at::Tensor& gradient, const Rates& rates) override {
    double correction = 1;
    const at::Tensor denominator = advance(entry, gradient, &correction);
    const at::Tensor u = entry.slots[0].div(correction).div_(denominator);
    if (rates.weight_decay != 0) u.add_(entry.parameter, rates.weight_decay);
    double ratio = 1;
    if (entry.group == Group::kWeight) {
      const double length = entry.parameter.norm().item<double>(), step = u.norm().item<double>();
      if (length > 0 && step > 0) ratio = length / step;
    }
    entry.parameter.add_(u, -rates.learning_rate * ratio);
  }
};

class Rmsprop final : public Optimizer {
 public:
  Rmsprop(const RmspropOptions& options, std::vector<NamedParameter> parameters)
      : Optimizer(options, std::move(parameters), slot_names(options), false), options_(options) {}

 private:
  static Strings slot_names(const RmspropOptions& options) {
    Strings names{"square_avg"};
    if (options.centered) names.emplace_back("grad_avg");
    if (options.momentum != 0) names.emplace_back("momentum");
    return names;
  }

  void update(Entry& entry, const at::Tensor& gradient, const Rates& rates) override {
    for (at::Tensor& slot : entry.slots) {
      if (!slot.defined()) slot = at::zeros_like(entry.parameter);
    }
    const at::Tensor g = decayed(gradient, entry.parameter, rates.weight_decay);
    at::Tensor& square = entry.slots.front();
    square.mul_(options_.alpha).addcmul_(g, g, 1 - options_.alpha);
    at::Tensor spread = square;
    if (options_.centered) {
      at::Tensor& mean = entry.slots[1];
      mean.lerp_(g, 1 - options_.alpha);
      spread = square.addcmul(mean, mean, -1);
    }
    const at::Tensor denominator = spread.sqrt().add_(options_.eps);
    if (options_.momentum != 0) {
      at::Tensor& v = entry.slots.back();
      v.mul_(options_.momentum).addcdiv_(g, denominator);
      entry.parameter.add_(v, -rates.learning_rate);
    } else {
      entry.parameter.addcdiv_(g, denominator, -rates.learning_rate);
    }
  }

  RmspropOptions options_;
};

template <class Method, class Options>
OptimizerFactory factory() {
  return {
      [](const config::Node& options) { return config::to_node(config::parse<Options>(options)); },
      [](const config::Node& options, std::vector<NamedParameter> parameters) -> std::unique_ptr<Optimizer> {
        return std::make_unique<Method>(config::parse<Options>(options), std::move(parameters));
      },
      [] { return config::docs<Options>(); },
  };
}

}  // namespace

Registry<OptimizerFactory>& optimizers() {
  static Registry<OptimizerFactory> registry = [] {
    Registry<OptimizerFactory> r("optimizer");
    r.add("sgd", "gradient descent with momentum", factory<Sgd, SgdOptions>());
    r.add("adam", "steps scaled by the gradient's moments (Kingma and Ba 2015)", factory<Adam<false>, AdamOptions>());
    r.add("adamw", "adam with decay apart from the gradient (Loshchilov and Hutter 2019)",
          factory<Adam<true>, AdamwOptions>());
    r.add("rmsprop", "steps scaled by the gradient's running size (Hinton 2012)", factory<Rmsprop, RmspropOptions>());
    r.add("lamb", "adamw with one step length a layer, for large batches (You et al. 2020)",
          factory<Lamb, LambOptions>());
    return r;
  }();
  return registry;
}

}  // namespace qat::trainers
