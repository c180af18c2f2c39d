// Requantization of parts of a matrix by one thread. Internal to core/ops.
#pragma once

#include <cstdint>

#include "core/ops/periods.h"
#include "core/ops/types.h"

namespace qat::ops::kernels {

/// What the loops need; the per-channel pointers hold a whole period.
struct Requantization {
  const int32_t* bias = nullptr;
  const float* multiplier = nullptr;
  const float* offset = nullptr;  // of the affine form
  float lo = 0, hi = 0;           // of t
  int32_t zero_point = 0;
  float below = 0;  // what lies in the range exceeds it, and 0 where a ReLU decides
  int64_t period = 0;
};

/// requantize() with its parameters made ready. Throws qat::Error if the range is not one of Code.
template <class Code>
class Requantizer {
 public:
  Requantizer(int64_t channels, const int32_t* bias, const float* multiplier, CodeRange range);

  /// All channels of `rows` rows.
  void rows(const int32_t* acc, int64_t rows, Code* codes) const;
  /// `count` channels of one row from `channel`, a multiple of kStep.
  void part(const int32_t* acc, int64_t channel, int64_t count, Code* codes) const;

  /// The parameters themselves; the per-channel ones hold whole steps.
  const Requantization& parameters() const { return q_; }

 private:
  int64_t channels_;
  Periodic<int32_t> bias_;
  Periodic<float> multiplier_;
  Requantization q_;
};

}  // namespace qat::ops::kernels
