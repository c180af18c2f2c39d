// Accumulators as they were kept for backward. Internal to core/ops/cuda.
#pragma once

#include <type_traits>

#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/requantize.h"

namespace qat::ops::cuda {

enum class Keeping { kNothing, kCompact, kExact };

template <Keeping kKeeping>
using KeepingConstant = std::integral_constant<Keeping, kKeeping>;

inline void require_consistent(const char* kernel, const KeptAccumulators& kept) {
  require(kept.compact == nullptr || kept.exact == nullptr, kernel,
          "accumulators are kept either as int16 or as int32; found both");
  require(kept.compact == nullptr || (kept.middle != nullptr && kept.step != nullptr), kernel,
          "accumulators kept as int16 need the middle and the step of each channel");
}

/// Calls run(KeepingConstant).
template <class Run>
void with_keeping(const char* kernel, const KeptAccumulators& kept, const Run& run) {
  require_consistent(kernel, kept);
  if (kept.compact != nullptr) {
    run(KeepingConstant<Keeping::kCompact>());
  } else if (kept.exact != nullptr) {
    run(KeepingConstant<Keeping::kExact>());
  } else {
    run(KeepingConstant<Keeping::kNothing>());
  }
}

/// Of the channels of kept accumulators.
struct KeptNumbers {
  Eight<float> middle, step;
};
template <Keeping kKeeping>
__device__ KeptNumbers load_numbers(const KeptAccumulators& kept, const PartChannels& channel) {
  KeptNumbers numbers = {};
  if constexpr (kKeeping == Keeping::kCompact) {
    const Eight<int32_t> middle = channel.load(kept.middle);
#pragma unroll
    for (int k = 0; k < kEight; ++k) numbers.middle.at[k] = static_cast<float>(middle.at[k]);
    numbers.step = channel.load(kept.step);
  }
  return numbers;
}

/// The accumulators of a part; none were kept: zeros.
template <Keeping kKeeping>
__device__ Eight<float> load_kept(const KeptAccumulators& kept, const Part& part, const KeptNumbers& numbers) {
  Eight<float> a = {};
  if constexpr (kKeeping == Keeping::kCompact) {
    const Eight<int16_t> values = load(kept.compact, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      a.at[k] = numbers.middle.at[k] + static_cast<float>(values.at[k]) * numbers.step.at[k];
    }
  } else if constexpr (kKeeping == Keeping::kExact) {
    const Eight<int32_t> values = load(kept.exact, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) a.at[k] = static_cast<float>(values.at[k]);
  }
  return a;
}

}  // namespace qat::ops::cuda
