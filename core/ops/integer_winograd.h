// 3x3 convolutions of codes by Winograd's minimal filtering (Lavin and Gray, arXiv:1509.09308) in integers, with the
// same accumulators. Internal to core/ops; convolve.h chooses.
//
// Stride 1, F(2x2, 3x3): 16 products for four outputs in place of 36.
//   B^T = |1 0 -1 0|0 1 1 0|0 -1 1 0|0 1 0 -1|   A^T = |1 1 1 0|0 1 -1 -1|   2G = |2 0 0|1 1 1|1 -1 1|0 0 2|
//   4 y = A^T [(2G w (2G)^T) * (B^T x B)] A      sums over input channels
// Stride 2: even and odd rows and columns of the 5x5 pixels of a tile meet the kernel's even and odd ones, 2x2, 2x1,
// 1x2 and 1x1 of them, and sides of two taps are filtered by F(2, 2): 25 products in place of 36.
//   B^T = |1 -1 0|0 1 0|0 -1 1|   A^T = |1 1 0|0 1 1|   G = |1 0|1 1|0 1|
//   y = A^T S A, where nine sums S hold the products of all four that reach the same outputs
// Transformed codes lie within 4 * 255, transformed weights within 9 * 255: both are int16.
#pragma once

#include <cstdint>

#include "core/ops/convolve_kernels.h"
#include "core/ops/scratch.h"
#include "core/ops/types.h"

namespace qat::ops::integer_winograd {

/// 3x3 of stride 1 or 2 both ways, without dilation or groups; enough channels and outputs (of g.batch images) to pay
/// for the transforms; sums that stay below 2^31 for codes within `code` of the zero point and weights within `weight`.
bool serves(const ConvGeometry& g, int64_t code, int64_t weight);

/// Transformed weights of [out_c][3][3][in_c]: for each sum [blocks][products][in_c / 2][kBlock][2].
template <class Weight>
AlignedVector<int16_t> pack(const ConvGeometry& g, const Weight* w);

/// Bytes a channel that a tile's codes take in the padded input, with its share of the borders.
int64_t tile_bytes(const ConvGeometry& g);

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

/// Planes of transformed codes, in the order of their transform; with stride 2 those of even rows and columns [3][3],
/// even rows and odd columns [3][2], odd rows and even columns [2][3], odd both [2][2].
inline constexpr int64_t kTilePlanes = 16, kStridedTilePlanes = 25;
inline constexpr int64_t kTileSums = 16, kStridedTileSums = 9;

/// `count` tiles of pixels, rows apart by `line`: out + plane_index * plane + tile * channels. channels: a multiple of
/// kBlock.
void transform_codes(bool strided, const int16_t* const* tiles, int64_t count, int64_t line, int64_t channels,
                     int64_t plane, int16_t* out);

/// Of a block of outputs, at most kBlock; weights [outputs][3][3][channels], channels a multiple of kBlock:
/// out[plane_index] [channels / 2][kBlock][2].
void transform_weight_codes(bool strided, const int8_t* w, int64_t outputs, int64_t channels, int16_t* const* out);
void transform_weight_codes(bool strided, const int16_t* w, int64_t outputs, int64_t channels, int16_t* const* out);

/// The outputs of `count` tiles.
struct TileOutput {
  bool strided = false;
  const int32_t* sums = nullptr;  // + sum_index * plane + tile * channels
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
