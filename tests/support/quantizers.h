// What the tests of this folder share.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "core/quant/quantizer.h"
#include "quantizers/builtin.h"

namespace qat::quantizers {

using quant::Granularity;
using quant::QuantSpec;
using quant::Role;

/// options: the method's own, as YAML.
inline std::shared_ptr<quant::Quantizer> make(const std::string& method, const QuantSpec& spec,
                                              const std::string& options = "{}",
                                              const std::string& observer = "minmax") {
  register_builtin();
  return quant::quantizers().get(method)(
      spec, {.observer = observer, .options = config::load_text(options, "options.yaml").root()});
}

inline std::shared_ptr<quant::Observer> make_observer(const std::string& name, const QuantSpec& spec = {},
                                                      const std::string& options = "{}") {
  register_builtin();
  return quant::observers().get(name)({spec, config::load_text(options, "options.yaml").root()});
}

/// Observed, initialized, and its ranges stand still.
inline std::shared_ptr<quant::Quantizer> started(std::shared_ptr<quant::Quantizer> q, const at::Tensor& values) {
  q->observe(values);
  q->initialize();
  q->eval();
  return q;
}

/// A parameter or buffer by name.
inline at::Tensor state(const quant::Quantizer& q, const std::string& name) {
  for (const auto& item : q.named_parameters()) {
    if (item.key() == name) return item.value();
  }
  for (const auto& item : q.named_buffers()) {
    if (item.key() == name) return item.value();
  }
  throw Error(q.method() + " has no " + name);
}

/// Sets one and says that the quantizer is initialized.
inline void set_state(quant::Quantizer& q, const std::string& name, const at::Tensor& value) {
  const at::NoGradGuard no_grad;
  state(q, name).copy_(value);
  state(q, "initialized").fill_(true);
}

inline float scale_of(const quant::Quantizer& q) { return *q.qparams().scale.const_data_ptr<float>(); }
inline int zero_of(const quant::Quantizer& q) { return *q.qparams().zero_point.const_data_ptr<int32_t>(); }

/// Values and the gradient of x for the incoming gradient dy.
struct Passed {
  at::Tensor y, dx;
};
inline Passed pass(quant::Quantizer& q, const at::Tensor& x, const at::Tensor& dy) {
  const at::Tensor leaf = x.detach().clone().set_requires_grad(true);
  for (at::Tensor& p : q.parameters()) p.mutable_grad() = at::Tensor();
  const at::Tensor y = q.forward(leaf);
  y.backward(dy);
  return {y.detach(), leaf.grad()};
}

}  // namespace qat::quantizers
