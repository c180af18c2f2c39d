// TQT: trained power-of-two thresholds (Jain et al., MLSys 2020, arXiv:1903.08066).
//
//   s = 2^ceil(log2 t) / 2^(b-1) signed, / 2^b not signed; q = rne(x / s) clipped to [n, p]; y = s * q       (eq. 1-5)
//   dy/dx = 1 where n <= rne(x / s) <= p, else 0
//   dy/dlog2 t = s * ln 2 * (rne(x / s) - x / s inside, n below, p above)                                     (eq. 7)
//   init  weights: t = |mean| + 3 standard deviations; activations: the largest |x| of the observer's range (the paper
//         calibrates with KL: `calibration: {observer: kl}`)
//
// log2 t is trained, one a tensor, channel or group; ceil passes straight through. On codes the mask is that of the
// value, half a step narrower. The gradient is not normalized: give log2 t a small learning rate or an optimizer that
// normalizes.
#pragma once

#include <memory>

#include "core/quant/uniform.h"

namespace qat::quantizers {

class Tqt final : public quant::UniformQuantizer {
 public:
  Tqt(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "tqt"; }
  quant::Traits traits() const override {
    quant::Traits traits = UniformQuantizer::traits();
    traits.scale_folds = false;
    return traits;
  }
  void observe(const at::Tensor& values) override;
  void project() override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;
  void set_threshold(const at::Tensor& t);

  std::shared_ptr<quant::Observer> observer_;  // activations
  at::Tensor log2_t_;                          // float32 [scales], trained
};

}  // namespace qat::quantizers
