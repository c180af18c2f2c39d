// Rounding and clipping that vectorize on every target without changing a bit.
#pragma once

namespace qat::ops {

/// lo <= result <= hi; NaN gives lo.
inline float clip(float t, float lo, float hi) {
  const float v = t > lo ? t : lo;
  return v < hi ? v : hi;
}

/// Nearest integer, ties to even, of |t| <= 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline float round_even(float t) { return (t + 12582912.0f) - 12582912.0f; }

}  // namespace qat::ops
