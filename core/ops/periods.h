// Matrices [rows][channels] as one long vector: per-channel parameters repeat with a period that is a multiple of every
// machine's vectors, so loops need no remainder per row. Internal to core/ops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>

#include "core/ops/scratch.h"

namespace qat::ops {

/// Elements of a step: the virtual lanes of all sums, a multiple of the lanes of every machine and of 8 mask bits.
inline constexpr int64_t kStep = 32;

/// Rows of a place that are summed in float, one after another, before their sum is added in double.
inline constexpr int64_t kGroup = 8;

/// Period of the channels in a long vector.
inline int64_t period_of(int64_t channels) { return std::lcm(channels, kStep); }

/// Per-channel values over a whole period, converted to T; null stays null.
template <class T>
class Periodic {
 public:
  template <class From>
  Periodic(const From* values, int64_t channels) {
    if (values == nullptr) return;
    if constexpr (std::is_same_v<T, From>) {
      data_ = values;
      if (channels % kStep == 0) return;
    }
    repeated_.resize(static_cast<size_t>(period_of(channels)));
    for (size_t i = 0; i < repeated_.size(); i += static_cast<size_t>(channels)) {
      std::transform(values, values + channels, repeated_.begin() + static_cast<std::ptrdiff_t>(i),
                     [](From v) { return static_cast<T>(v); });
    }
    data_ = repeated_.data();
  }
  Periodic(const Periodic&) = delete;
  Periodic& operator=(const Periodic&) = delete;

  const T* data() const { return data_; }

 private:
  const T* data_ = nullptr;
  ScratchVector<T> repeated_;
};

/// Elements handed to a thread at once: whole periods, whole groups of them where there are as many, about 128 KiB of
/// floats. It does not depend on the machine, nor do the sums that are made per chunk.
inline int64_t chunk_of(int64_t period) {
  const int64_t rows = std::max<int64_t>(1, 32768 / period);
  return period * (rows < kGroup ? rows : rows / kGroup * kGroup);
}

/// Calls run(chunk index, first element, end) for all chunks of n elements, on all threads. run must not throw.
template <class Run>
void for_chunks(int64_t n, int64_t chunk, const Run& run) {
  const int64_t chunks = (n + chunk - 1) / chunk;
#pragma omp parallel for if (chunks > 1)
  for (int64_t i = 0; i < chunks; ++i) run(i, i * chunk, std::min(n, (i + 1) * chunk));
}

}  // namespace qat::ops
