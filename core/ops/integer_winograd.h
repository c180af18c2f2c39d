// 3x3 convolutions of codes by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308) in integers:
// 16 products for four outputs in place of 36, and the same accumulators. Internal to core/ops; convolve.h chooses.
//
//   B^T = |1 0 -1 0|0 1 1 0|0 -1 1 0|0 1 0 -1|   A^T = |1 1 1 0|0 1 -1 -1|   2G = |2 0 0|1 1 1|1 -1 1|0 0 2|
//   4 y = A^T [(2G w (2G)^T) * (B^T x B)] A      sums over input channels
// Transformed codes lie within 4 * 255, transformed weights within 9 * 255: both are int16.
#pragma once

#include <cstdint>

#include "core/ops/convolve_kernels.h"
#include "core/ops/scratch.h"
#include "core/ops/types.h"

namespace qat::ops::integer_winograd {

/// 3x3 without stride, dilation or groups; enough channels and outputs (of g.batch images) to pay for the transforms; sums that stay below
/// 2^31 for codes within `code` of the zero point and weights within `weight`.
bool serves(const ConvGeometry& g, int64_t code, int64_t weight);

/// 2G w (2G)^T of weights [out_c][3][3][in_c], as [frequencies][blocks][in_c / 2][kBlock][2].
template <class Weight>
AlignedVector<int16_t> pack(const ConvGeometry& g, const Weight* w);

/// The map with as much more padding as makes its sides even.
ConvGeometry even(const ConvGeometry& g);

/// Some pixels of a map of even sides, in rows; those outside the real map are not written.
struct Region {
  const int16_t* const* pixels = nullptr;  // where their windows of the padded input begin
  int64_t pixel_count = 0;
  int64_t width = 0;   // of a row of pixels
  int64_t line = 0;    // from row to row of the padded input
  int64_t row = 0;     // of the first pixel, in its image
  int64_t height = 0;  // rows of an image, even
  int64_t real_height = 0, real_width = 0;
};

/// Accumulators, or codes, of outputs [channel, channel + channels) of a region; channel: a multiple of kBlock. `out`
/// and the codes begin at the region's first pixel and at `channel`.
void multiply(const ConvGeometry& g, const AlignedVector<int16_t>& weights, const Region& region, int64_t channel,
              int64_t channels, int32_t* out, int64_t out_stride, const kernels::CodeOutput* codes);

}  // namespace qat::ops::integer_winograd

namespace qat::ops::kernels {

/// B^T d B of `count` tiles of 4x4 pixels, rows apart by `line`: out + frequency * plane + tile * channels. channels: a
/// multiple of kBlock.
void transform_codes(const int16_t* const* tiles, int64_t count, int64_t line, int64_t channels, int64_t plane,
                     int16_t* out);

/// 2G w (2G)^T of a block of outputs, at most kBlock; weights [outputs][3][3][channels], channels a multiple of kBlock:
/// out + frequency * plane, [channels / 2][kBlock][2].
void transform_weight_codes(const int8_t* w, int64_t outputs, int64_t channels, int64_t plane, int16_t* out);
void transform_weight_codes(const int16_t* w, int64_t outputs, int64_t channels, int64_t plane, int16_t* out);

/// A^T m A / 4 of `count` tiles.
struct TileOutput {
  const int32_t* sums = nullptr;  // + frequency * plane + tile * channels
  int64_t plane = 0;
  int64_t count = 0;
  int64_t channels = 0;             // in memory, a multiple of kBlock
  int64_t used = 0;                 // of them to be written
  const int64_t* pixels = nullptr;  // [count][4]: the places of the 2x2 outputs; negative: outside
  int32_t* out = nullptr;           // [pixels][out_stride]
  int64_t out_stride = 0;
  const CodeOutput* code_output = nullptr;  // then `out` is not written
};
void restore_sums(const TileOutput& t);

}  // namespace qat::ops::kernels
