// Accumulators as they were kept for backward. Internal to core/ops/cuda.
#pragma once

#include <type_traits>

#include "core/ops/cuda/launch.h"
#include "core/ops/cuda/requantize.h"

namespace qat::ops::cuda {

enum class Keeping { kNothing, kCompact, kExact };

/// a of KeptAccumulators in one channel; both roundings of the compact form are made.
template <Keeping kKeeping>
struct KeptChannel {
  __device__ KeptChannel(const KeptAccumulators& kept, int64_t c) {
    if constexpr (kKeeping == Keeping::kCompact) middle = static_cast<float>(kept.middle[c]), step = kept.step[c];
  }
  __device__ float operator()(const KeptAccumulators& kept, int64_t i) const {
    if constexpr (kKeeping == Keeping::kCompact) return middle + static_cast<float>(kept.compact[i]) * step;
    if constexpr (kKeeping == Keeping::kExact) return static_cast<float>(kept.exact[i]);
    return 0.0f;
  }
  float middle = 0, step = 0;
};

template <Keeping kKeeping>
using KeepingConstant = std::integral_constant<Keeping, kKeeping>;

/// Calls run(KeepingConstant).
template <class Run>
void with_keeping(const char* kernel, const KeptAccumulators& kept, const Run& run) {
  require(kept.compact == nullptr || kept.exact == nullptr, kernel,
          "accumulators are kept either as int16 or as int32; found both");
  require(kept.compact == nullptr || (kept.middle != nullptr && kept.step != nullptr), kernel,
          "accumulators kept as int16 need the middle and the step of each channel");
  if (kept.compact != nullptr) {
    run(KeepingConstant<Keeping::kCompact>());
  } else if (kept.exact != nullptr) {
    run(KeepingConstant<Keeping::kExact>());
  } else {
    run(KeepingConstant<Keeping::kNothing>());
  }
}

}  // namespace qat::ops::cuda
