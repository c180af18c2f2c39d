// Ranges that follow the data, and the scale and zero point that they give, without asking the CPU: the observers
// moving_average, minmax and online (quantizers/observers/range.h), and MinMax's parameters (quantizers/minmax.cpp),
// bit for bit.
#pragma once

#include <limits>

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// What a quantizer of activations makes of a batch's smallest and largest value.
struct FollowedRange {
  enum class Rule { kMovingAverage, kExtremes, kLast };
  Rule rule = Rule::kMovingAverage;
  double averaging = 0.01;  // kMovingAverage: the weight of a new batch
  bool starts_here = true;  // kMovingAverage: the first batch counts whole (batches is 0)
  bool is_signed = false;   // otherwise a range starts at 0
  bool affine = false;      // signed: the zero point follows, quant::Scheme::kAffine; else kSymmetric
  int32_t lo = 0, hi = 255;
  int32_t symmetric_zero_point = 0;
  double lowest = -std::numeric_limits<double>::infinity(), highest = std::numeric_limits<double>::infinity();

  double* range = nullptr;        // [2], the observer's
  int64_t* batches = nullptr;     // [1], seen before this one
  float* scale = nullptr;         // [1]
  int32_t* zero_point = nullptr;  // [1]
};

/// Takes ends [2] (min, max) into the range, then the scale and zero point from it. relu: ends below 0 count as 0.
/// Where an end is not finite, or min > max, or the scale is beyond float's, failed [1] is set to 1 and nothing else
/// changes.
void follow_range(const double* ends, bool relu, const FollowedRange& range, int32_t* failed, cudaStream_t stream);

/// ends [2] = smallest and largest of n > 0 values; NaN both where one is. scratch: values_range_scratch(n) bytes,
/// aligned to 16.
size_t values_range_scratch(int64_t n);
void values_range(const float* x, int64_t n, double* ends, void* scratch, cudaStream_t stream);

}  // namespace qat::ops::cuda
