// XNOR-Net's binary weights (Rastegari et al., ECCV 2016, arXiv:1603.05279, section 3.1).
//
//   y = alpha * sign(w), alpha = mean|w| of the channel (group, tensor), sign(0) = 1                   (eq. 4, 6)
//   dy/dw_i = 1 / n + alpha * [|w_i| <= 1], n the values that share alpha                               (algorithm 1)
//   the latent weight is clipped to [-1, 1] after each step
// Weights only: the paper's input scaling K = |A| * k is a map of its own and no quantizer. Codes are -1 and 1.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Xnor final : public quant::Quantizer {
 public:
  Xnor(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "xnor"; }
  quant::Traits traits() const override { return {.integer_levels = false, .code_bits = 2}; }
  void observe(const at::Tensor& values) override { refresh(values); }
  void refresh(const at::Tensor& weight) override;
  void project_weight(at::Tensor& weight) override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}
  quant::QParams parameters_now() const override;

  at::Tensor scale_;  // float32 [scales]: alpha
};

}  // namespace qat::quantizers
