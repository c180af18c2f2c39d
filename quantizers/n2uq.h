// N2UQ: nonuniform-to-uniform quantization (Liu et al., CVPR 2022, arXiv:2111.14826).
//
// Activations:
//   learned intervals a_1 .. a_n, n = 2^b - 1, starting at d_1: d_{i+1} = d_i + a_i; thresholds T_i = d_i + a_i / 2
//   q = number of T_i <= x; y = s * (q - z), s learned                                                     (eq. 1, 8)
//   gradient: generalized straight-through, that of the expected stochastic code E(x) = (i - 1) + (x - d_i) / a_i in
//   segment i, constant outside (eq. 7, 9):
//     dy/dx = s / a_i;  dy/da_i = -s (x - d_i) / a_i^2;  dy/da_j = -s / a_i for j < i;  dy/ds = q - z
//   those of a and s times LSQ's 1 / sqrt(elements of a sample * Qp): to the paper's Adam a factor is nothing, but SGD
//   diverges on sums over a whole map
//   init  uniform: a_i = s = the step of the observer's range, d_1 = -s * z, fixed
//
// Weights are quantized uniformly, after a scaling that spreads them over the levels (section 3.3, entropy preserving):
//   a = (2^b - 1) / 2^(b-1) * mean|w|, one a tensor, channel or group, remade from the weight at every step
//   y = a * (2 rne((clip(w / a, -1, 1) + 1) / 2 * (2^b - 1)) / (2^b - 1) - 1), the odd multiples of a / (2^b - 1)
//   gradient: straight through everywhere, a constant
//
// Outputs are uniform codes, but a code follows from learned thresholds, which the target's requantization does not
// have: lowering refuses the layer. Weights are odd codes, of one more bit than asked for.
#pragma once

#include <memory>

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class N2uq final : public quant::Quantizer {
 public:
  N2uq(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "n2uq"; }
  quant::Traits traits() const override {
    return {.idempotent = false, .integer_levels = false, .code_bits = spec().bits + (spec().is_weight() ? 1 : 0)};
  }
  void observe(const at::Tensor& values) override;
  void refresh(const at::Tensor& weight) override;
  void project() override;
  double gradient_scale(int64_t elements) const override;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  at::Tensor quantize_weights(const at::Tensor& w) const;
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;

  std::shared_ptr<quant::Observer> observer_;
  at::Tensor intervals_;  // activations: float32 [2^b - 1], trained
  at::Tensor scale_;      // activations: float32 [1], trained; weights: a / (2^b - 1), [scales]
  at::Tensor start_;      // activations: float32 [1], d_1
};

}  // namespace qat::quantizers
