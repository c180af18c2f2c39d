// The vector loops of convolve(), chosen at run time for the machine. Internal to core/ops.
#pragma once

#include <cstdint>

namespace qat::ops::kernels {

/// Output channels of one block of packed weights.
inline constexpr int64_t kBlock = 16;
/// Elements that may be read (not used) behind the last element of a buffer given to the kernels.
inline constexpr int64_t kSlack = 32;

/// out[i] = x[i] - zero_point.
void widen(const uint8_t* x, int64_t n, int32_t zero_point, int16_t* out);
void widen(const int8_t* x, int64_t n, int32_t zero_point, int16_t* out);
void widen(const uint8_t* x, int64_t n, int32_t zero_point, float* out);
void widen(const int8_t* x, int64_t n, int32_t zero_point, float* out);

/// Some pixels of an output map against some output channels. The products of one output are `segments` runs of
/// 2 * pairs consecutive values: run s of pixel p starts at pixels[p] + base + segment_offset[s].
struct PixelTask {
  const int16_t* const* pixels = nullptr;
  int64_t pixel_count = 0;
  int64_t base = 0;
  const int64_t* segment_offset = nullptr;
  int64_t segments = 0;
  int64_t pairs = 0;
  const int16_t* weights = nullptr;  // [blocks][segments][pairs][kBlock][2]; 0 where there is no weight
  int64_t channels = 0;              // outputs to write
  int32_t* out = nullptr;            // [pixel_count][out_stride]
  int64_t out_stride = 0;
};
void multiply(const PixelTask& task);

/// One output channel an input channel. Sums of products must stay below 2^24: float32 then holds them exactly.
struct DepthwiseTask {
  const float* const* pixels = nullptr;
  int64_t pixel_count = 0;
  const int64_t* tap_offset = nullptr;
  int64_t taps = 0;
  const float* weights = nullptr;  // [taps][channels rounded up to a multiple of kBlock]
  int64_t channels = 0;
  int32_t* out = nullptr;  // [pixel_count][channels]
};
void multiply_depthwise(const DepthwiseTask& task);

}  // namespace qat::ops::kernels
