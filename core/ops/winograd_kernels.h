// Winograd's transforms, chosen at run time for the machine. Internal to core/ops.
#pragma once

#include <cstdint>

namespace qat::ops::kernels {

/// Frequencies: products of a tile.
inline constexpr int64_t kFrequencies = 16;

/// Where the 16 transformed values of channel c of a tile go: out + frequency * plane + tile * tile_step +
/// c / lanes * block_step + c % lanes.
struct Planes {
  float* values = nullptr;
  int64_t plane = 0, tile_step = 0, block_step = 0;
};

/// B^T d B of `tiles` tiles side by side: tile t is the 4x4 pixels from d + 2 * t * channels, rows apart by `line`.
/// channels: a multiple of gradient_lanes().
void transform_data(const float* d, int64_t line, int64_t tiles, int64_t channels, int64_t first_tile,
                    const Planes& out);

/// A g A^T of one tile of 2x2 pixels, as quads of channels: out + frequency * plane + (c / 4 * tiles + tile) * 4.
void transform_outputs(const float* const* pixels, int64_t channels, int64_t tiles, int64_t tile, int64_t plane,
                       float* out);

/// A^T m A of one tile: m + frequency * plane, to 2x2 pixels.
void restore_data(const float* m, int64_t plane, int64_t channels, float* const* pixels);

/// G w' G^T of `channels` of one output channel's weights [3][3][stride], turned by half a turn and times scale:
/// out + frequency * plane + c / 16 * block_step + c % 16; channels: a multiple of 16.
void transform_weights(const int8_t* w, float scale, int64_t stride, int64_t channels, int64_t plane,
                       int64_t block_step, float* out);

/// factor * G^T u G of one output channel: u + frequency * plane, to [3][3][channels].
void restore_weights(const float* u, int64_t plane, int64_t channels, float factor, float* dw);

}  // namespace qat::ops::kernels
