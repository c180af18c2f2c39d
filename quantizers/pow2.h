// Power-of-two steps by search (Vitis AI 3.5 vai_q_pytorch, "fix positions").
//
//   s = 2^-fp; q = round(x / s) clipped to the range; y = s * q; nothing is learned (tqt is the trained form)
//   search: diffs     fp with the least squared error of fp0 .. fp0 + 4 (quantizers/observers/diffs.h)
//           overflow  fp0: no value is clipped
//           ceil      s = 2^ceil(log2(max|x| / qmax)), the smallest power of two that holds every value
//   gradient          straight through inside the clip range
//   init              weights: once, on the weight; activations: the most frequent fp of the calibration batches (ceil:
//                     the largest value of all)
// Vitis rounds weights half_away (`round`), and searches its network inputs with overflow.
#pragma once

#include <memory>

#include "core/quant/uniform.h"

namespace qat::quantizers {

class Pow2 final : public quant::UniformQuantizer {
 public:
  Pow2(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "pow2"; }
  quant::Traits traits() const override {
    quant::Traits traits = UniformQuantizer::traits();
    traits.scale_folds = false;
    return traits;
  }
  void observe(const at::Tensor& values) override;

 private:
  void initialize_parameters() override;
  quant::QParams parameters_now() const override;
  double step_of(const quant::Observer& observer) const;
  std::shared_ptr<quant::Observer> make_observer() const;

  std::string search_;
  std::string round_;
  std::shared_ptr<quant::Observer> observer_;  // activations
  at::Tensor scale_;                           // float32 [scales]
  at::Tensor zero_point_;                      // int32 [scales]
};

}  // namespace qat::quantizers
