// Sums of int32 values as whole numbers. They do not depend on the order in which values are added, and become doubles
// once. Knows neither vectors nor CUDA: the CPU's kernels and the GPU's share it. Internal to core/ops.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define QAT_ON_BOTH __host__ __device__
#else
#define QAT_ON_BOTH
#endif

namespace qat::ops {

/// The double next to high * 2^32 + low; ties to even.
QAT_ON_BOTH inline double nearest_double(uint64_t high, uint64_t low) {
  uint64_t bits = (high << 32) + low, above = (high >> 32) + (bits < low ? 1 : 0);
  double unit = 1.0;
  // The last bit of 64 keeps whether any behind it was set: more, rounding does not ask.
  for (; above != 0; above >>= 1, unit += unit) bits = above << 63 | bits >> 1 | (bits & 1);
  return static_cast<double>(bits) * unit;
}

/// Sums and bounds of fewer than 2^32 values.
struct IntegerSums {
  QAT_ON_BOTH static IntegerSums none() { return {0, 0, 0, INT32_MAX, INT32_MIN}; }
  QAT_ON_BOTH void add(int32_t value) {
    const auto square = static_cast<uint64_t>(static_cast<int64_t>(value) * value);
    sum += value;
    low += static_cast<uint32_t>(square);
    high += square >> 32;
    min = value < min ? value : min;
    max = value > max ? value : max;
  }
  QAT_ON_BOTH void join(const IntegerSums& other) {
    sum += other.sum;
    low += other.low;
    high += other.high;
    min = other.min < min ? other.min : min;
    max = other.max > max ? other.max : max;
  }
  QAT_ON_BOTH double sum_squares() const { return nearest_double(high, low); }

  int64_t sum;
  uint64_t low, high;  // of the squares' lower and upper 32 bits
  int32_t min, max;
};

}  // namespace qat::ops
