#include "quantizers/bnn.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>

#include "core/autograd/fake_quantize.h"
#include "core/base/error.h"

namespace qat::quantizers {

at::Tensor sign_of(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  return (x.detach() >= 0).to(at::kFloat).mul_(2).sub_(1);
}

Bnn::Bnn(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) : Quantizer(spec) {
  options.options.as<quant::NoOptions>();
  QAT_CHECK(
      spec.is_weight() || spec.is_signed,
      "bnn takes the sign of values that can be negative; these cannot (behind a ReLU): choose another quantizer");
}

at::Tensor Bnn::fake_quantize(const at::Tensor& x) {
  if (spec().is_weight()) return autograd::straight_through(sign_of(x), x);
  return autograd::straight_through(sign_of(x), x, x.detach().abs() <= 1);
}

quant::QParams Bnn::parameters_now() const {
  return {at::ones({spec().scales()}, at::kFloat),
          at::full({spec().scales()}, spec().symmetric_zero_point(), at::kInt)};
}

void Bnn::project_weight(at::Tensor& weight) {
  const at::NoGradGuard no_grad;
  weight.clamp_(-1, 1);
}

}  // namespace qat::quantizers
