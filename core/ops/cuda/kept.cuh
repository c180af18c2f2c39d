// Accumulators as they were kept for backward. Internal to core/ops/cuda.
#pragma once

#include <type_traits>

#include "core/ops/cuda/launch.h"
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

}  // namespace qat::ops::cuda
