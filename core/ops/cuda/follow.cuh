// A range that follows the data, inside a kernel. Internal to core/ops/cuda.
#pragma once

#include <limits>

#include "core/ops/cuda/follow.h"
#include "core/ops/cuda/launch.cuh"

namespace qat::ops::cuda {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

__device__ inline bool is_finite(double x) { return fabs(x) < kInfinity; }

struct RangeEnds {
  static __device__ RangeEnds none() { return {kInfinity, -kInfinity}; }
  /// Of equal ends, which zeros of both signs are, the earlier one stays; NaN stays too.
  __device__ void join(const RangeEnds& later) {
    if (later.min < min || later.min != later.min) min = later.min;
    if (later.max > max || later.max != later.max) max = later.max;
  }
  double min, max;
};

/// Those of all threads of a block of whole warps, for its first thread, joined in the order of the threads. All
/// threads call it.
__device__ inline RangeEnds block_ends(RangeEnds ends) {
  __shared__ double least[32], most[32];  // of each warp
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  // A lane whose number is a multiple of 2 * bit joins its own and its neighbour's; what the others get is not used.
  const auto join_warp = [&] {
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
      ends.join({__shfl_xor_sync(0xffffffff, ends.min, bit), __shfl_xor_sync(0xffffffff, ends.max, bit)});
    }
  };
  join_warp();
  if (lane == 0) least[warp] = ends.min, most[warp] = ends.max;
  __syncthreads();
  if (warp > 0) return ends;
  ends = lane < static_cast<int>(blockDim.x) / 32 ? RangeEnds{least[lane], most[lane]} : RangeEnds::none();
  join_warp();
  return ends;
}

/// quant::ScaleZero, the scale at most what the range's limits allow. As in the C++ library, the comparisons take the
/// first of equals.
struct ScaleZero {
  double scale;
  int32_t zero_point;
};

/// quant::choose_params() of kSymmetric or kAffine, then QuantSpec::largest_scale().
__device__ inline ScaleZero scale_of(const FollowedRange& f, double min, double max) {
  constexpr double kSmallestScale = 1.1920928955078125e-07, kScaleOfZeros = 1;  // core/quant/uniform.h
  const auto larger = [](double a, double b) { return a < b ? b : a; };
  const auto smaller = [](double a, double b) { return b < a ? b : a; };
  min = smaller(f.is_signed ? min : 0.0, 0.0);
  max = larger(max, 0.0);
  const bool affine = f.is_signed && f.affine;
  const double width = static_cast<double>(f.hi) - f.lo;
  ScaleZero result{(max - min) / width, f.symmetric_zero_point};
  if (!affine) result.scale = larger(-min, max) / (f.hi - f.symmetric_zero_point);
  if (result.scale == 0) {
    result.scale = kScaleOfZeros;
  } else {
    result.scale = larger(result.scale, kSmallestScale);
    if (affine) {
      const double below = smaller(larger(2 * rint(-min / result.scale / 2), 0.0), width - 1);
      result.scale = larger(larger(result.scale, -min / (below + 0.5)), max / (width - below + 0.5));
      result.zero_point = f.lo + static_cast<int32_t>(below);
    }
  }
  double largest = kInfinity;
  if (f.hi > result.zero_point) largest = f.highest / (f.hi - result.zero_point);
  if (f.lo < result.zero_point) largest = smaller(largest, f.lowest / (f.lo - result.zero_point));
  result.scale = smaller(result.scale, largest);
  return result;
}

/// follow_range(), by one thread.
__device__ inline void follow(RangeEnds ends, bool relu, const FollowedRange& f, int32_t* failed) {
  if (relu && ends.min < 0) ends.min = 0;
  if (relu && ends.max < 0) ends.max = 0;
  const int64_t batches = *f.batches;
  double min = f.range[0], max = f.range[1];
  switch (f.rule) {
    case FollowedRange::Rule::kMovingAverage: {
      const double weight = batches == 0 && f.starts_here ? 1.0 : f.averaging;
      min += weight * (ends.min - min);
      max += weight * (ends.max - max);
      break;
    }
    case FollowedRange::Rule::kExtremes:
      if (batches == 0 || ends.min < min) min = ends.min;
      if (batches == 0 || ends.max > max) max = ends.max;
      break;
    case FollowedRange::Rule::kLast:
      min = ends.min, max = ends.max;
      break;
  }
  const bool is_range = is_finite(ends.min) && is_finite(ends.max) && ends.min <= ends.max;
  const ScaleZero result =
      is_range && is_finite(min) && is_finite(max) ? scale_of(f, min, max) : ScaleZero{kInfinity, 0};
  const auto scale = static_cast<float>(result.scale);
  if (!is_finite(scale)) {
    *failed = 1;
    return;
  }
  f.range[0] = min, f.range[1] = max;
  *f.batches = batches + 1;
  *f.scale = scale;
  *f.zero_point = result.zero_point;
}

inline void require_followed(const FollowedRange& f, const char* kernel) {
  require(f.lo <= f.symmetric_zero_point && f.symmetric_zero_point < f.hi, kernel,
          "the zero point of a range that follows must be one of its codes, and not the last");
  require(f.range != nullptr && f.batches != nullptr && f.scale != nullptr && f.zero_point != nullptr, kernel,
          "a range that follows needs a place for all that it changes");
}

}  // namespace qat::ops::cuda
