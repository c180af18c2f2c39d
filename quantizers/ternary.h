// Ternary weights: TWN (Li & Liu 2016, arXiv:1605.04711) and TTQ (Zhu et al., ICLR 2017, arXiv:1612.01064).
//
//   twn  delta = 0.7 mean|w|; y = alpha * {1 where w > delta, -1 where w < -delta, else 0},
//        alpha = mean|w| over |w| > delta (eq. 5, 6); dy/dw = 1
//   ttq  delta = 0.05 max|w|; y = Wp where w > delta, -Wn where w < -delta, else 0 (eq. 6)
//        dWp = sum of g over w > delta, dWn = -sum of g over w < -delta (eq. 7, with the sign of -Wn);
//        dw = g * {Wp, 1, Wn}                                                                          (eq. 8)
//        Wp and Wn start at alpha of TWN; they stay positive by projection
//   `levels: twn | ttq`, `threshold` replaces 0.7 or 0.05; one delta and alpha a tensor, channel or group
// TWN's weights are the codes -1, 0, 1. TTQ's two magnitudes differ and are no codes.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Ternary final : public quant::Quantizer {
 public:
  Ternary(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "ternary"; }
  quant::Traits traits() const override;
  void observe(const at::Tensor& values) override { refresh(values); }
  void refresh(const at::Tensor& weight) override;
  void project() override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;
  /// 1, 0 or -1 for each value of w [scales, n].
  at::Tensor signs(const at::Tensor& w) const;

  bool trained_ = false;
  double threshold_ = 0.7;
  at::Tensor scale_;                // float32 [scales]: TWN's alpha
  at::Tensor positive_, negative_;  // float32 [scales], trained: Wp and Wn
};

}  // namespace qat::quantizers
