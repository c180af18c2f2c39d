// Block floating point: neighbouring values share one exponent (Drumond et al., NeurIPS 2018, arXiv:1804.01526; OCP
// Microscaling formats' MXINT8 is bits 8, block 32).
//
//   blocks of `block` values along dimension 1 (input channels of a weight, channels of an activation; the last block
//   of a row may be shorter): e = floor(log2 max|x|), step = 2^(e - (b - 2)) y = step * clip(rne(x / step), -(2^(b-1) -
//   1), 2^(b-1) - 1) gradient  dy/dx = 1; nothing is learned, nothing is calibrated
// One step a block is no scale a channel: layers compute in float, lowering refuses them.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Bfp final : public quant::Quantizer {
 public:
  Bfp(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "bfp"; }
  quant::Traits traits() const override { return {.affine = false, .integer_levels = false, .code_bits = spec().bits}; }
  void observe(const at::Tensor&) override {}

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}

  int64_t block_ = 16;
};

}  // namespace qat::quantizers
