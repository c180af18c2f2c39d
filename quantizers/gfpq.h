// GFPQ: HiSilicon NNIE's logarithmic codes (nnieqat-pytorch, MIT re-implementation; MQBench's description of the
// format).
//
//   8 bits   z = floor(16 log2 max|x|) - 127; levels 0, +2^((z+q)/16) for q = 0..127, -2^((z+q)/16) for q = 1..127
//            x >=  2^(z/16 - 1):      +2^((z + clamp(round(16 log2  x) - z, 0, 127)) / 16)
//            x <  -2^((z+1)/16 - 1):  -2^((z + clamp(round(16 log2 -x) - z, 1, 127)) / 16)
//            otherwise 0: the zero band is half the smallest magnitude of each sign
//            code bytes: 0x00..0x7f = +q, 0x81..0xff = -q, 0x80 = 0.0
//   16 bits  the same with 2048 codes an octave, q to 32767 and z = 16 (floor(128 log2 max|x|) + 1) - 32768. Its zero
//            band follows the 8-bit rule; the published fallback kernel has errors there, and no vector exists
//   gradient identity; nothing is learned
//
// The maximum is floored to a level with a tolerance of float32's last bits, so quantizing twice is quantizing once.
// max|x| < 1e-15 gives all zeros. Weights: z follows the weight. Activations: the largest value so far, it never
// decays; z is carried in the state.
#pragma once

#include "core/quant/quantizer.h"

namespace qat::quantizers {

class Gfpq final : public quant::Quantizer {
 public:
  Gfpq(const quant::QuantSpec& spec, const quant::QuantizerOptions& options);

  std::string method() const override { return "gfpq"; }
  quant::Traits traits() const override;
  void observe(const at::Tensor& values) override;
  void refresh(const at::Tensor& weight) override;
  bool follows_data() const override { return !spec().is_weight(); }
  void observe_range(double min, double max) override;

  /// The code of every value as int32 (bytes, or 16-bit words with the same layout).
  at::Tensor codes(const at::Tensor& x) const;

 private:
  at::Tensor fake_quantize(const at::Tensor& x) override;
  void initialize_parameters() override {}
  void set_largest(double largest);
  /// z, or nothing where every value is 0.
  std::optional<int64_t> offset() const;

  at::Tensor largest_;  // float64 [1]
  at::Tensor z_;        // int64 [1]
};

}  // namespace qat::quantizers
