// Learned Step Size Quantization (Esser et al., ICLR 2020, arXiv:1902.08153).
//
//   q = rne(clamp(x / s, Qn, Qp)), y = s * q, s a trained parameter (one a tensor, channel or group)
//   dy/dx = 1 inside the clip range, else 0
//   dy/ds = rne(x / s) - x / s inside, Qn or Qp outside; times g = 1 / sqrt(N * Qp)                (eq. 3, sec. 2.2)
//   s starts at 2 * mean|x| / sqrt(Qp): of the weight, or averaged over the calibration batches    (sec. 2.1)
//
// N is the number of values that share s: of the channel or tensor for weights, per sample for activations. Signed
// activations are symmetric around the code z = 2^(b-1). s stays positive by projection after each optimizer step.
// Activation scales learn until the freeze; weight scales learn to the end.
#pragma once

#include "core/quant/uniform.h"

namespace qat::quantizers {

class Lsq final : public quant::UniformQuantizer {
 public:
  Lsq(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "lsq"; }
  quant::Traits traits() const override {
    quant::Traits traits = UniformQuantizer::traits();
    traits.keeps_limits = true;
    return traits;
  }
  void observe(const at::Tensor& values) override;
  double gradient_scale(int64_t elements) const override;
  void project() override;
  std::optional<quant::DeviceForm> device_form() const override;

 private:
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;

  at::Tensor scale_;       // float32 [scales], trained
  at::Tensor zero_point_;  // int32 [scales]
  at::Tensor mean_abs_;    // float64 [scales]: sum over batches of mean|x|
  at::Tensor batches_;     // int64 [1]
};

}  // namespace qat::quantizers
