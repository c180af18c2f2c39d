// Min-max: the range of the data decides the scale (Jacob et al., CVPR 2018, arXiv:1712.05877, section 3).
//
//   weights      s = max|w_c| / qmax per channel (group, tensor), remade from the weight at every step
//   activations  not signed: s = max / qmax, z = 0
//                signed, affine: s = (max - min) / qmax with min <= 0 <= max, z = -min / s rounded to an even code
//                signed, symmetric: s = max(|min|, |max|) / (qmax - z), z = 2^(b-1)
//   gradient     straight through inside the clip range (`clip: false`: everywhere); nothing is learned
//   init         the observer's range
//
// z is even because operators that add it before rounding differ at exact ties from those that add it afterwards when
// it is odd. Activation ranges follow the data until the freeze (torch.ao's behaviour in training) where the observer
// takes ranges; those that need the values stand still after calibration.
#pragma once

#include <memory>

#include "core/quant/uniform.h"

namespace qat::quantizers {

/// Largest |x| of each scale's values as a float32 scale for `levels`, at least quant::kSmallestScale. x [scales, n].
/// Throws qat::Error if a value is not finite.
at::Tensor largest_scale(const at::Tensor& x, double levels);

class MinMax final : public quant::UniformQuantizer {
 public:
  MinMax(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "minmax"; }
  quant::Traits traits() const override {
    quant::Traits traits = UniformQuantizer::traits();
    traits.keeps_limits = true;
    return traits;
  }
  void observe(const at::Tensor& values) override;
  void refresh(const at::Tensor& weight) override;
  bool follows_data() const override { return observer_ && observer_->takes_ranges(); }
  void observe_range(double min, double max) override;
  std::optional<quant::DeviceForm> device_form() const override;

 private:
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;

  std::shared_ptr<quant::Observer> observer_;  // activations
  at::Tensor scale_;                           // float32 [scales]
  at::Tensor zero_point_;                      // int32 [scales]
};

}  // namespace qat::quantizers
