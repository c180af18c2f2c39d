// PACT: a trained clip level for activations (Choi et al. 2018, arXiv:1805.06085).
//
//   y = round(clip(x, 0, alpha) * (2^k - 1) / alpha) * alpha / (2^k - 1)                             (eq. 1, 2)
//   dy/dx = 1 where 0 <= x < alpha, else 0;  dy/dalpha = 1 where x >= alpha, else 0                   (eq. 3)
//   with `rounding_term` the step's own gradient counts inside too: (round(t) - t) / (2^k - 1), as in LSQ
//   init  alpha = 6 (`alpha`). The paper keeps alpha small by weight decay: `decay` adds decay / 2 * alpha^2 to the
//   loss
//
// A signed tensor (the paper has none) is clipped at both ends of its symmetric range [-z, hi - z] * s with
// s = alpha / (hi - z); x below then gives dy/dalpha = -z / (hi - z).
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Pact final : public quant::Quantizer {
 public:
  Pact(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "pact"; }
  void observe(const at::Tensor&) override {}
  void project() override;
  at::Tensor penalty() const override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}
  quant::QParams parameters_now() const override;

  bool rounding_term_ = false;
  double decay_ = 0, ewgs_ = 0;
  at::Tensor alpha_;  // float32 [1], trained
};

}  // namespace qat::quantizers
