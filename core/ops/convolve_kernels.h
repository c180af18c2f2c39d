// The vector loops of convolutions, chosen at run time for the machine. Internal to core/ops.
#pragma once

#include <cstdint>

namespace qat::ops::kernels {

/// Output channels of one block of packed weights.
inline constexpr int64_t kBlock = 16;
/// Elements that may be read (not used) behind the last element of a buffer given to the kernels.
inline constexpr int64_t kSlack = 32;

/// out[i] = x[i] - zero_point; as uint8_t the code itself, counted from the lowest one.
void widen(const uint8_t* x, int64_t n, int32_t zero_point, int16_t* out);
void widen(const int8_t* x, int64_t n, int32_t zero_point, int16_t* out);
void widen(const uint8_t* x, int64_t n, int32_t zero_point, float* out);
void widen(const int8_t* x, int64_t n, int32_t zero_point, float* out);
void widen(const uint8_t* x, int64_t n, int32_t zero_point, uint8_t* out);
void widen(const int8_t* x, int64_t n, int32_t zero_point, uint8_t* out);

/// Codes instead of accumulators, as requantize() makes them (requantize.h). Per-channel values may be read up to two
/// blocks beyond the last channel.
struct CodeOutput {
  const int32_t* bias = nullptr;  // of the task's first channel; null: none
  const float* multiplier = nullptr;
  float lo = 0, hi = 0;  // of the value before the zero point is added
  int32_t zero_point = 0;
  bool is_signed = false;
  uint8_t* codes = nullptr;  // [pixel_count][stride]; int8 as its bit pattern
  int64_t stride = 0;
};

/// Some pixels of an output map against some output channels. The products of one output are `segments` runs of
/// kGroup * groups consecutive values, kGroup = 2 (int16) or 4 (uint8): run s of pixel p starts at pixels[p] + base +
/// segment_offset[s].
template <class Input, class Weight>
struct PixelTask {
  const Input* const* pixels = nullptr;
  int64_t pixel_count = 0;
  int64_t base = 0;
  const int64_t* segment_offset = nullptr;
  int64_t segments = 0;
  int64_t groups = 0;
  const Weight* weights = nullptr;  // [blocks][segments][groups][kBlock][kGroup]; 0 where there is no weight
  int64_t channels = 0;             // outputs to write
  int32_t* out = nullptr;           // [pixel_count][out_stride]
  int64_t out_stride = 0;
  const CodeOutput* code_output = nullptr;  // then `out` is not written
  // Of quads:
  const int32_t* start = nullptr;  // what sums begin with, [channels rounded up to a multiple of kBlock]
  int64_t flush = 0;               // groups after which a sum of int16 could overflow, at least 1
};
using PairTask = PixelTask<int16_t, int16_t>;
using QuadTask = PixelTask<uint8_t, int8_t>;

void multiply(const PairTask& task);
void multiply(const QuadTask& task);

/// How many groups of four products a quad kernel may add before it must flush, for codes up to `code` and weights
/// between -`weight` and `weight`; 0: none, the kernel can't be used.
int64_t quad_flush(int64_t code, int64_t weight);

/// One output channel an input channel. Sums of products must stay below 2^24: float32 then holds them exactly.
struct DepthwiseTask {
  const float* const* pixels = nullptr;  // in rows of `cols` pixels, `step` apart within a row
  int64_t pixel_count = 0;
  int64_t cols = 0, step = 0;
  const int64_t* tap_offset = nullptr;
  int64_t taps = 0;
  const float* weights = nullptr;  // [taps][channels rounded up to a multiple of kBlock]
  int64_t channels = 0;
  int32_t* out = nullptr;  // [pixel_count][channels]
};
void multiply_depthwise(const DepthwiseTask& task);

/// The same on codes, four rows of the kernel at a time, exact for all codes. Pixels come in rows of the output map.
struct DepthwiseQuadTask {
  const uint8_t* const* pixels = nullptr;
  int64_t pixel_count = 0;  // a multiple of row_pixels
  int64_t row_pixels = 0;
  int64_t column_step = 0, row_step = 0;  // of the input, between neighbours and between rows of the kernel
  int64_t stride = 1, dilation = 1;       // of columns
  int64_t kernel_h = 1, kernel_w = 1;
  const int8_t* weights = nullptr;  // [blocks][kernel_h / 4 rounded up][kernel_w][kBlock][4]
  const int32_t* start = nullptr;   // what sums begin with, [channels rounded up to a multiple of kBlock]
  int64_t channels = 0;
  int32_t* out = nullptr;  // [pixel_count][channels]
};
void multiply_depthwise(const DepthwiseQuadTask& task);
/// Whether this machine has the instruction for it (VNNI).
bool has_depthwise_quads();

}  // namespace qat::ops::kernels
