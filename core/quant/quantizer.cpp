#include "core/quant/quantizer.h"

#include <ATen/ops/zeros.h>

#include "core/base/error.h"

namespace qat::quant {

Quantizer::Quantizer(QuantSpec spec)
    : spec_(spec), initialized_(register_buffer("initialized", at::zeros({1}, at::kBool))) {
  spec_.check();
}

void Quantizer::initialize() {
  initialize_parameters();
  initialized_.fill_(true);
}

bool Quantizer::initialized() const { return *initialized_.const_data_ptr<bool>(); }

QParams Quantizer::qparams() const {
  QAT_CHECK(initialized(), "a {} quantizer was used before it was initialized: run the calibrate stage first",
            method());
  return parameters_now();
}

at::Tensor Quantizer::forward(const at::Tensor& x) {
  if (spec_.role == Role::kWeight) return autograd::dequantize(quantize_weight(x));
  return autograd::encode(x, output(is_training())).dequantize();
}

autograd::OutputQuantizer Quantizer::output(bool learning) {
  autograd::OutputQuantizer result;
  if (learning && follows_data()) {
    result.observe = [this](double min, double max) { observe_range(min, max); };
  }
  const QParams params = qparams();
  result.scale = params.scale;
  result.zero_point = params.zero_point;
  result.lo = spec_.lo();
  result.hi = spec_.hi();
  result.rule = rule();
  result.learn = learning;
  result.gradient_scale = [this](int64_t elements) { return gradient_scale(elements); };
  return result;
}

autograd::QuantizedWeight Quantizer::quantize_weight(const at::Tensor& weight) {
  refresh(weight);
  const int64_t per_scale = weight.numel() / std::max<int64_t>(spec_.scales(), 1);
  return autograd::quantize_weight(weight, qparams().scale, spec_.lo(), spec_.hi(), rule(), gradient_scale(per_scale));
}

Registry<QuantizerFactory>& quantizers() {
  static Registry<QuantizerFactory> instance("quantizer");
  return instance;
}

Registry<ObserverFactory>& observers() {
  static Registry<ObserverFactory> instance("observer");
  return instance;
}

}  // namespace qat::quant
