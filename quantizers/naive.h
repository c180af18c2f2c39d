// Naive: NNI's post-training weight quantizer (microsoft/nni v2.10, NaiveQuantizer), as it behaves.
//
//   s = max(s so far, max|w| / (2^(b-1) - 1)); q = w / s truncated toward zero; y = s * q
//   gradient  identity; nothing is learned
// The scale never shrinks. Truncation loses up to a whole step and is not idempotent: minmax is the better choice; this
// one is for comparisons.
#pragma once

#include "core/quant/uniform.h"

namespace qat::quantizers {

class Naive final : public quant::UniformQuantizer {
 public:
  Naive(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "naive"; }
  void observe(const at::Tensor& values) override { refresh(values); }
  void refresh(const at::Tensor& weight) override;

 private:
  void initialize_parameters() override {}
  quant::QParams parameters_now() const override;

  at::Tensor scale_;       // float32 [scales]
  at::Tensor zero_point_;  // int32 [scales]
};

}  // namespace qat::quantizers
