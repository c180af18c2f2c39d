// Min-max: the range of the data decides the scale (Jacob et al., CVPR 2018, arXiv:1712.05877, section 3).
//
//   weights      s = max|w_c| / qmax per channel (or tensor), remade from the weight at every step
//   activations  not signed: s = max / qmax, z = 0
//                signed, affine: s = (max - min) / qmax with min <= 0 <= max, z = -min / s rounded to an even code
//                signed, symmetric: s = max(|min|, |max|) / (qmax - z), z = 2^(b-1)
//   gradient     straight through inside the clip range; nothing is learned
//
// z is even because operators that add it before rounding differ at exact ties from those that add it afterwards when
// it is odd. Activation ranges follow the data until the freeze (torch.ao's behaviour in training).
#pragma once

#include <memory>

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class MinMax final : public quant::Quantizer {
 public:
  MinMax(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "minmax"; }
  quant::GradientRule rule() const override { return quant::GradientRule::kStraightThrough; }
  void observe(const at::Tensor& values) override;
  void refresh(const at::Tensor& weight) override;
  bool follows_data() const override { return spec().role == quant::Role::kActivation; }
  void observe_range(double min, double max) override;

 private:
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;

  std::shared_ptr<quant::Observer> observer_;  // activations
  at::Tensor scale_;                           // float32 [scales]
  at::Tensor zero_point_;                      // int32 [scales]
};

}  // namespace qat::quantizers
