// The vector loops of convolve_gradient.h, chosen at run time for the machine. Internal to core/ops.
#pragma once

#include <cstdint>

namespace qat::ops::kernels {

/// Output channels that stand side by side in a packed gradient.
inline constexpr int64_t kQuad = 4;

/// Floats of a vector on this machine, at most 16.
int64_t gradient_lanes();

/// out[c / lanes * block_stride + p * lanes + c % lanes] = x[p][c] - zero_point; channels % lanes == 0.
void spread(const uint8_t* x, int64_t pixels, int64_t channels, int32_t zero_point, int64_t block_stride, float* out);
void spread(const int8_t* x, int64_t pixels, int64_t channels, int32_t zero_point, int64_t block_stride, float* out);

/// out[c / kQuad][pixel][c % kQuad] = g[pixel * stride + c]; 0 for channels beyond `channels` in the last quad.
void pack_quads(const float* g, int64_t pixels, int64_t stride, int64_t channels, float* out);

/// A vector of x at every pixel, and where its sums go.
struct Column {
  int64_t x = 0;      // offset from the pixel
  int64_t dw = 0;     // offset from the output channel's row
  int64_t count = 0;  // lanes that are used
};

/// dw[co][column] += sum over the pixels of a tile of g[co] * x[column]. first: dw is not read; factor: the new sum is
/// multiplied by factor[co].
struct WeightTile {
  const float* x = nullptr;  // the first pixel
  int64_t images = 1, rows = 1, cols = 1;
  int64_t image_step = 0, row_step = 0, pixel_step = 0;
  const Column* columns = nullptr;
  int64_t column_count = 0;
  const float* g = nullptr;  // pack_quads() of the tile
  int64_t channels = 0;
  float* dw = nullptr;
  int64_t dw_stride = 0;
  bool first = false;
  const float* factor = nullptr;
};
void add_weight_tile(const WeightTile& tile);

/// The float convolution of a packed gradient with packed weights: some pixels of dx against all its channels.
struct InputTask {
  const float* const* pixels = nullptr;
  int64_t pixel_count = 0;
  const int64_t* tap_offset = nullptr;
  int64_t taps = 0;
  int64_t depth = 0;               // values of a tap
  const float* weights = nullptr;  // [blocks of kBlock channels][taps][depth][kBlock]
  int64_t channels = 0;
  float* const* out = nullptr;  // of each pixel
};
void multiply_inputs(const InputTask& task);
/// A row of dx of a depthwise convolution: out[col * out_step + c] = sum over taps of
/// g[col * channels + tap offset + c] * weights[tap][c].
struct DepthwiseInputRow {
  const float* g = nullptr;
  int64_t cols = 0, channels = 0;
  const int64_t* tap_offset = nullptr;
  int64_t taps = 0;
  const float* weights = nullptr;
  float* out = nullptr;
  int64_t out_step = 0;
};
void multiply_depthwise_row(const DepthwiseInputRow& row);

/// Depthwise: sums[tap][c] += sum over cols of g[col][c] * x[col * step + tap offset + c].
struct DepthwiseRow {
  const float* x = nullptr;
  const float* g = nullptr;
  int64_t cols = 0, step = 0, channels = 0;
  const int64_t* tap_offset = nullptr;
  int64_t taps = 0;
  float* sums = nullptr;  // [taps][channels]
};
void add_depthwise_row(const DepthwiseRow& row);

}  // namespace qat::ops::kernels
