// LSQ+ (Bhalgat et al., CVPR Workshops 2020, arXiv:2004.09576): learned step and learned offset.
//
//   weights      symmetric, LSQ; s starts at max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1)               (eq. 10)
//   activations  q = rne(clamp((x - beta) / s, 0, Qp)), y = s * q + beta                                 (eq. 7, 8)
//                dy/dx = 1 inside, else 0; dy/ds = q - (x - beta) / s inside, 0 below, Qp above;
//                dy/dbeta = 0 inside, 1 outside; both times g = 1 / sqrt(N * Qp)
//   init         of s and beta: the range with the least squared error on the calibration data (sec. 4.2), by the mse
//                observer
//
// Codes need an integer zero point: `offset: integer` (default) uses z = rne(-beta / s), y = s * (q - z), in training
// as in the lowered network, with the gradients above (those of y = s * q + beta at beta = -s * z). `offset: real` is
// the paper's; its values are no codes, so such layers compute in float. A tensor without negative values has beta = 0,
// fixed. s stays positive by projection.
#pragma once

#include <memory>

#include "core/quant/uniform.h"

namespace qat::quantizers {

class LsqPlus final : public quant::Quantizer {
 public:
  LsqPlus(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "lsq_plus"; }
  quant::Traits traits() const override;
  void observe(const at::Tensor& values) override;
  double gradient_scale(int64_t elements) const override;
  void project() override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;
  bool has_offset() const { return offset_.defined(); }

  bool real_offset_ = false;
  std::shared_ptr<quant::Observer> observer_;  // activations
  at::Tensor scale_;                           // float32 [scales], trained
  at::Tensor offset_;                          // float32 [1], trained; undefined: 0
};

}  // namespace qat::quantizers
