// Convolution of integer codes: exact int32 accumulators (wrapping modulo 2^32 as the runtime's do).
#pragma once

#include <cstdint>
#include <vector>

#include "core/ops/types.h"

namespace qat::ops {

/// acc[row][co] = sum over the kernel of (x - zero_point) * w; a padded pixel contributes 0.
///   x    NHWC codes (uint8_t or int8_t)
///   w    [co][kh][kw][ci / groups], centred: code - weight zero point, in [-255, 255]
///   acc  [rows][out_c]
/// The scalar definition; every other implementation must give the same integers.
template <class Code>
void convolve_reference(const ConvGeometry& g, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc);

/// The same integers, with the machine's vector instructions and threads. Throws qat::Error if sizes, strides or groups
/// are not possible, the kernel is larger than the padded input, or zero_point is not a Code. An empty batch is fine.
template <class Code>
void convolve(const ConvGeometry& g, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc);

/// Exact statistics of accumulators per channel. Sums are made in a fixed order that does not depend on the number of
/// threads or on vector width.
struct ChannelStatistics {
  std::vector<double> sum;
  std::vector<double> sum_squares;
  std::vector<int32_t> min;
  std::vector<int32_t> max;
};
ChannelStatistics channel_statistics(const int32_t* acc, int64_t rows, int64_t channels);

}  // namespace qat::ops
