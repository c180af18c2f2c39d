// Accumulators as int16, where the weights and the codes' range leave them no other values. Internal to core/ops.
#pragma once

#include <cstdint>

namespace qat::ops {

/// Exact sums and bounds of some channels; they do not depend on the order in which rows are added.
struct NarrowStatistics {
  int64_t* sum = nullptr;
  int64_t* squares = nullptr;
  int16_t* min = nullptr;
  int16_t* max = nullptr;
};

/// out[row][c] = acc[row][c] in [-32767, 32767] of a matrix [rows][channels] without gaps, 32 elements behind which may
/// be read. statistics: optional, of channel c at [c].
void narrow(const int32_t* acc, int64_t rows, int64_t channels, int16_t* out, int64_t out_stride,
            const NarrowStatistics* statistics);

}  // namespace qat::ops
