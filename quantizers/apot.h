// APoT: additive powers of two (Li et al., ICLR 2020, arXiv:1909.13144), and plain powers of two.
//
//   y = alpha * Q(clip(x / alpha)), Q the nearest level (linear distance) of gamma * sums of one member of each term,
//   term i of n = B / k: {0, 2^-i, 2^-(i+n), ..., 2^-(i+(2^k-2)n)}, gamma makes the largest sum 1               (eq. 5)
//   B = bits - 1 and both signs for weights and signed activations, B = bits otherwise; k = `base_bits`, 2 unless B is
//   odd; B = 3 has the authors' terms {0, 1/2, 1/4, 1/16} + {0, 1/8}; k = B is one term: powers of two
//   dy/dx = 1 where |x| <= alpha, else 0
//   dy/dalpha = Q(x / alpha) - x / alpha inside, sign(x) outside                                           (eq. 6, RCF)
//   weights are normalized first, (w - mean) / std over the tensor, both constants (sec. 2.3; `normalize`)
//   so their magnitude is no longer the float network's: batch norm must follow the layer, or normalize: false
//   init  alpha = 3 (weights), 8 (activations), the authors' values (`alpha`)
//
// All levels are multiples of the smallest power: weights whose multiples stay within 127 (3 to 5 bits by default) are
// codes and reach the integer engine; more bits, and activations, are a level table and compute in float.
#pragma once

#include <vector>

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Apot final : public quant::Quantizer {
 public:
  Apot(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "apot"; }
  quant::Traits traits() const override;
  void observe(const at::Tensor&) override {}
  void project() override;

  /// The levels that are not negative, ascending, in units of the smallest power: the codes of a weight.
  const std::vector<int64_t>& levels() const { return levels_; }

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}
  quant::QParams parameters_now() const override;

  bool normalize_ = true;
  std::vector<int64_t> levels_;
  at::Tensor alpha_;  // float32 [scales], trained
};

}  // namespace qat::quantizers
