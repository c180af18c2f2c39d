// Learned bit width of weights: step and range are trained, their ratio is the width (Uhlich et al., ICLR 2020,
// arXiv:1905.11452, parametrization U3).
//
//   M = rne(q_max / d), y = d * clip(rne(x / d), -M, M); the width is b = ceil(log2(M + 1)) + 1
//   dy/dx = 1 where |x| <= d * M, else 0
//   dy/dd = rne(x / d) - x / d inside, 0 outside; dy/dq_max = 0 inside, sign(x) outside                       (eq. 6)
//   both times g = 1 / sqrt(N * M), LSQ's, where the paper leaves normalization to Adam
//   cost  `cost` * (log2(q_max / d + 1) + 1), summed over the scales of all layers, is added to the loss (sec. 3)
//   init  q_max = max|w|, d = q_max / (2^(bits-1) - 1)
//
// `bits` of the config is the largest width; 2 is the smallest. Both hold by projection after each step.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class LearnedBits final : public quant::Quantizer {
 public:
  LearnedBits(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "learned_bits"; }
  quant::Traits traits() const override { return {.integer_levels = false, .code_bits = spec().bits}; }
  void observe(const at::Tensor& values) override;
  double gradient_scale(int64_t elements) const override;
  void project() override;
  at::Tensor penalty() const override;

  /// The width in use: the largest over the scales.
  int width() const;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}
  quant::QParams parameters_now() const override;
  at::Tensor levels() const;  // float32 [scales]: M

  double cost_ = 0.01;
  at::Tensor step_, q_max_;  // float32 [scales], trained
};

}  // namespace qat::quantizers
