// All ways to round, in one place. On codes only half_even runs: it is the target's; the others are for weights and for
// quantization in floats.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/random.h"

namespace qat::ops {

enum class Rounding {
  kHalfEven,    // nearest, ties to the even integer (IEEE 754's default)
  kHalfUp,      // nearest, ties toward +infinity
  kHalfDown,    // nearest, ties toward zero
  kHalfAway,    // nearest, ties away from zero (C's round)
  kFloor,       // toward -infinity
  kCeil,        // toward +infinity
  kTowardZero,  // truncation
  kStochastic,  // floor(t + u), u uniform in [0, 1): the mean over many is t (Gupta et al. 2015, arXiv:1502.02551)
};

/// "half_even", ... "stochastic"; throws qat::Error for another name.
Rounding rounding_from(const std::string& name);
/// The names of all but stochastic, and of all.
std::vector<std::string> deterministic_roundings();
std::vector<std::string> roundings();

/// Exact for every finite float or double: fractions are compared, nothing is added before rounding. NaN and
/// infinities stay. Not for kStochastic.
template <class T>
T round_to(T t, Rounding mode) {
  const T whole = std::trunc(t), fraction = std::abs(t - whole);  // exact; t - floor(t) would not be
  bool away = false;                                              // from zero
  switch (mode) {
    case Rounding::kHalfEven:
      return std::nearbyint(t);
    case Rounding::kHalfUp:
      away = fraction > T(0.5) || (fraction == T(0.5) && t > 0);
      break;
    case Rounding::kHalfDown:
      away = fraction > T(0.5);
      break;
    case Rounding::kHalfAway:
      away = fraction >= T(0.5);
      break;
    case Rounding::kCeil:
      return std::ceil(t);
    case Rounding::kTowardZero:
      break;
    case Rounding::kFloor:
    case Rounding::kStochastic:
      return std::floor(t);
  }
  return away ? whole + std::copysign(T(1), t) : whole;
}

/// kStochastic for element `index` of a tensor: a pure function of its arguments, so that threads and vector widths
/// change nothing.
inline float round_stochastic(float t, uint64_t seed, uint64_t index) {
  const float below = std::floor(t);
  const float u = static_cast<float>(split_mix64(seed, index) >> 40) * 0x1p-24f;
  return t - below > u ? below + 1.0f : below;
}

/// Adaptive rounding (AdaRound, Nagel et al., ICML 2020, arXiv:2004.10568): floor(t) + up, where up in [0, 1] is
/// learned for every weight and ends as 0 or 1.
template <class T>
T round_adaptive(T t, T up) {
  return std::floor(t) + up;
}

/// up as a function of the variable that is learned, the rectified sigmoid (eq. 23):
///   clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1)
inline constexpr double kAdaptiveZeta = 1.1, kAdaptiveGamma = -0.1;
inline double adaptive_up(double v) {
  return std::clamp((kAdaptiveZeta - kAdaptiveGamma) / (1 + std::exp(-v)) + kAdaptiveGamma, 0.0, 1.0);
}
/// The variable for 0 < up < 1: its inverse.
inline double adaptive_variable(double up) {
  return -std::log((kAdaptiveZeta - kAdaptiveGamma) / (up - kAdaptiveGamma) - 1);
}

}  // namespace qat::ops
