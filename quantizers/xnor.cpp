#include "quantizers/xnor.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "core/autograd/fake_quantize.h"
#include "core/quant/uniform.h"
#include "quantizers/bnn.h"

namespace qat::quantizers {

Xnor::Xnor(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : Quantizer(spec), scale_(register_buffer("scale", at::ones({spec.scales()}, at::kFloat))) {
  options.options.as<quant::NoOptions>();
}

void Xnor::refresh(const at::Tensor& weight) {
  if (weight.numel() == 0) return;
  const at::NoGradGuard no_grad;
  scale_.copy_(rows(weight.detach()).to(at::kDouble).abs().mean(1).clamp_min(quant::kSmallestScale));
}

at::Tensor Xnor::fake_quantize(const at::Tensor& x) {
  const at::Tensor w = rows(x.detach()), alpha = scale_.view({-1, 1});
  const double share = 1.0 / static_cast<double>(std::max<int64_t>(w.size(1), 1));
  const at::Tensor slope = (w.abs() <= 1) * alpha + share;
  return autograd::straight_through((sign_of(w) * alpha).view(x.sizes()), x, slope.view(x.sizes()));
}

quant::QParams Xnor::parameters_now() const { return {scale_, at::zeros({spec().scales()}, at::kInt)}; }

void Xnor::project_weight(at::Tensor& weight) {
  const at::NoGradGuard no_grad;
  weight.clamp_(-1, 1);
}

}  // namespace qat::quantizers
