// DoReFa-Net (Zhou et al. 2016, arXiv:1606.06160).
//
//   weights      v = tanh(w) / (2 max|tanh w|) + 1/2, n = 2^k - 1; y = 2 round(v n) / n - 1               (eq. 9)
//                `gradient`: tanh (default) differentiates tanh and the maximum, rounding passes straight through;
//                tanh_max_constant holds the maximum; identity is NNI's dy/dw = 1
//   1-bit        y = sign(w) * mean|w|, sign(0) = 1, dy/dw = 1 (eq. 7, `scaled_sign`: true); false: eq. 9 with n = 1
//   activations  y = round(clip(x, 0, 1) n) / n, dy/dx = 1 inside (eq. 11); signed ones are clipped to [-1, 1]
//   gradients    `gradient_bits` k of an activation: g -> 2 max|g| (quantize(g / (2 max|g|) + 1/2 + N) - 1/2), the
//                maximum over each sample, N uniform in [-1/2, 1/2] / (2^k - 1)                            (eq. 12)
//
// Weights are odd multiples of 1 / n: codes 2 round(v n) - n need k + 1 bits, so 8-bit weights (codes to 255) have no
// place in the integer path. There is no level 0. One range a tensor, as in the paper.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Dorefa final : public quant::Quantizer {
 public:
  Dorefa(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "dorefa"; }
  quant::Traits traits() const override;
  std::optional<quant::GradientRule> rule() const override;
  void observe(const at::Tensor&) override {}
  void refresh(const at::Tensor& weight) override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  at::Tensor quantize_weights(const at::Tensor& w) const;
  void initialize_parameters() override {}
  quant::QParams parameters_now() const override;
  bool is_sign() const { return spec().is_weight() && spec().bits == 1 && scaled_sign_; }

  std::string gradient_;
  bool scaled_sign_ = true;
  int gradient_bits_ = 0;
  double ewgs_ = 0;
  at::Tensor scale_;  // float32 [1]
};

}  // namespace qat::quantizers
