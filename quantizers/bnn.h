// Binarized neural networks (Courbariaux et al. 2016, arXiv:1602.02830).
//
//   y = sign(x), sign(+-0) = 1
//   weights      dy/dw = 1; the latent weight is clipped to [-1, 1] after each step (algorithm 1)
//   activations  dy/dx = 1 where |x| <= 1, else 0 (eq. 4). Only for tensors that can be negative: behind a ReLU every
//                sign is 1
// Weights are the codes -1 and 1. Activations are the codes 0 and 2 around the zero point 1; a padded pixel is the code
// 1, the value 0. Requantization would give 1 too, so such an activation takes its codes from the sign of the exact
// accumulator; lowering makes that accumulator odd (core/lower), and refuses signs of what has none.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

/// 1 where x >= 0 (-0.0 too), else -1 (NaN too); no history.
at::Tensor sign_of(const at::Tensor& x);

class Bnn final : public quant::Quantizer {
 public:
  Bnn(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "bnn"; }
  /// A clip around [-1, 1] (hardtanh) changes no sign, and passes every gradient that bnn passes.
  quant::Traits traits() const override {
    return {.integer_levels = false,
            .is_sign = true,
            .code_bits = 2,
            .normalizes = spec().is_weight(),
            .keeps_limits = spec().lowest <= -1 && spec().highest >= 1};
  }
  void observe(const at::Tensor&) override {}
  void project_weight(at::Tensor& weight) override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}
  quant::QParams parameters_now() const override;
};

}  // namespace qat::quantizers
