// Narrow floating point: a cast to the format and back (IEEE 754 binary16; bfloat16; FP8 of Micikevicius et al. 2022,
// arXiv:2209.05433).
//
//   float16   1 + 5 + 10 bits, largest 65504        bfloat16  1 + 8 + 7 bits, largest 3.39e38
//   fp8       `format: e4m3` largest 448, or `e5m2` largest 57344
//   y = s * cast(clip(x / s)), to nearest, ties to even; values beyond the largest saturate
//   gradient  dy/dx = 1 inside the largest value, else 0; nothing is learned
//   s is 1; fp8: the power of two that brings the largest |x| just below the format's largest (`scaled: false`: 1),
//   from the weight itself or the observer's range
// Levels are no integers: layers compute in float, lowering refuses them.
#pragma once

#include <memory>

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class FloatingPoint : public quant::Quantizer {
 public:
  quant::Traits traits() const override { return {.affine = false, .integer_levels = false, .code_bits = spec().bits}; }
  void observe(const at::Tensor& values) override;
  void refresh(const at::Tensor& weight) override;

 protected:
  FloatingPoint(const quant::QuantSpec& spec, const quant::QuantizerOptions& options, at::ScalarType type,
                double largest, bool scaled);

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override;
  void set_scale(double largest);

  at::ScalarType type_;
  double largest_;
  std::shared_ptr<quant::Observer> observer_;  // scaled activations
  bool scaled_;
  at::Tensor scale_;  // float32 [1]
};

class Float16 final : public FloatingPoint {
 public:
  Float16(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);
  std::string method() const override { return "float16"; }
};

class Bfloat16 final : public FloatingPoint {
 public:
  Bfloat16(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);
  std::string method() const override { return "bfloat16"; }
};

class Fp8 final : public FloatingPoint {
 public:
  Fp8(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);
  std::string method() const override { return "fp8"; }
};

}  // namespace qat::quantizers
