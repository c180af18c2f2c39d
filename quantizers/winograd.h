// Weights quantized where a Winograd convolution uses them (Quantization.MXNet, wino_quantize; Lavin & Gray 2016,
// arXiv:1509.09308, for the transforms).
//
//   U = G W G^T for every 3x3 kernel; U_q = s rne(U / s), s = max|U_c| / (2^(b-1) - 1) per output channel (group,
//   tensor); y = P U_q P^T, P the pseudo-inverse of G
//   `tile`: F23 (G 4x3), F43 (6x3), F63 (8x3); weights that are not 3x3 are quantized as they are, with the same scales
//   gradient  dy/dW = 1; nothing is learned
// U_q is on the grid, y is not, and G y G^T is not U_q (U has more numbers than W): not idempotent, no codes.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Winograd final : public quant::Quantizer {
 public:
  Winograd(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "winograd"; }
  quant::Traits traits() const override {
    return {.affine = false, .idempotent = false, .integer_levels = false, .code_bits = spec().bits};
  }
  void observe(const at::Tensor&) override {}

  /// U_q of a weight [O, I, 3, 3]: float32 [O, I, t, t], every value s_c * integer.
  at::Tensor transformed(const at::Tensor& weight) const;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}
  at::Tensor quantize_rows(const at::Tensor& x) const;

  at::Tensor g_, inverse_;  // float64 [t, 3], [3, t]
};

}  // namespace qat::quantizers
