// Affine quantization of floats to floats: the plain form of every uniform quantizer, any width, one scale for all
// values or one a channel. Encode (encode.h) gives the codes of the same values for 8 bits.
#pragma once

#include <cstdint>

#include "core/ops/rounding.h"

namespace qat::ops {

/// x has [outer][channels][inner] values; a channel has one scale and zero point.
struct Grid {
  int64_t outer = 1, channels = 1, inner = 1;
  const float* scale = nullptr;         // [channels]
  const int32_t* zero_point = nullptr;  // [channels]
  int32_t lo = 0, hi = 255;             // of the codes; |lo|, |hi| < 2^22
  Rounding rounding = Rounding::kHalfEven;
  uint64_t seed = 0;        // kStochastic
  bool reciprocal = false;  // t = x * fl32(1 / scale), torch's fake-quantize, instead of x / scale
};

/// Which gradient reaches x.
struct GridGradient {
  enum class Mask {
    kValue,  // where lo - z <= t <= hi - z
    kCode,   // where lo - z <= round(t) <= hi - z: half a step wider (torch, TQT)
    kNone,   // everywhere: plain straight-through
  };
  Mask mask = Mask::kValue;
  /// EWGS (Lee et al., CVPR 2021, arXiv:2104.00903, eq. 5): g * (1 + ewgs * sign(g) * (t - code) / (hi - lo)), the
  /// discretization error in units of the whole range; 0: off.
  double ewgs = 0;
};

/// y = fl32(scale * (clip(round(t) + z, lo, hi) - z)), t = x / scale. Infinities saturate, NaN gives lo.
void fake_quantize(const float* x, const Grid& grid, float* y);

/// Any of dx [same as x], dscale and doffset [channels] may be null.
///   dscale   sum of g * (code - z - t) inside, g * (lo - z) below, g * (hi - z) above (LSQ)
///   doffset  sum of g outside: the gradient of an offset that shifts the whole grid
/// "Inside" follows the mask (kNone: as kValue). Sums are double, in the order of the values.
void fake_quantize_gradient(const float* x, const float* g, const Grid& grid, const GridGradient& rule, float* dx,
                            double* dscale, double* doffset);

}  // namespace qat::ops
