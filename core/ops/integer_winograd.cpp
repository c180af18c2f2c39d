#include "core/ops/integer_winograd.h"

#include <algorithm>

#include "core/ops/scratch.h"
#include "core/ops/strips.h"

namespace qat::ops::integer_winograd {
namespace {

using kernels::kBlock;

using kernels::kStridedTilePlanes;
using kernels::kStridedTileSums;
using kernels::kTilePlanes;
using kernels::kTileSums;

/// With fewer channels the transforms cost what the saved products would; with fewer outputs a channel (smaller maps)
/// reading the weights does, which are 16 or 25 words in place of 9.
constexpr int64_t kFewChannels = 32, kFewStridedChannels = 64, kFewOutputs = 40, kFewStridedOutputs = 160;
/// Outputs at a time: their sums stay in the second cache.
constexpr int64_t kOutputs = 2 * kBlock;

/// The planes whose products a sum adds.
struct Planes {
  int64_t count = 0;
  int64_t index[4] = {};
  void add(int64_t plane) { index[count++] = plane; }
};

bool is_strided(const ConvGeometry& g) { return g.stride_h == 2; }
int64_t sums_of(const ConvGeometry& g) { return is_strided(g) ? kStridedTileSums : kTileSums; }

Planes planes_of(const ConvGeometry& g, int64_t sum) {
  Planes planes;
  planes.add(sum);
  if (!is_strided(g)) return planes;
  // A row of sums reaches the upper outputs, both, or the lower ones; so do columns.
  const int64_t row = sum / 3, col = sum % 3;
  if (col != 1) planes.add(9 + row * 2 + col / 2);
  if (row != 1) planes.add(15 + row / 2 * 3 + col);
  if (row != 1 && col != 1) planes.add(21 + row / 2 * 2 + col / 2);
  return planes;
}

}  // namespace

bool serves(const ConvGeometry& g, int64_t code, int64_t weight) {
  const bool strided = is_strided(g);
  if (g.kernel_h != 3 || g.kernel_w != 3 || g.stride_h != g.stride_w || g.stride_h > 2 || g.dilation_h != 1 ||
      g.dilation_w != 1 || g.groups != 1 || g.in_c % kBlock != 0) {
    return false;
  }
  // Where a map has odd sides, tiles have outputs that nobody wants; with stride 2 they soon cost what tiles save.
  const int64_t wanted = g.out_h() * g.out_w(), made = (g.out_h() + 1) / 2 * ((g.out_w() + 1) / 2) * 4;
  return std::min(g.in_c, g.out_c) >= (strided ? kFewStridedChannels : kFewChannels) &&
         g.batch * wanted >= (strided ? kFewStridedOutputs : kFewOutputs) && (!strided || 8 * wanted >= 7 * made) &&
         4 * g.depth() * code * weight < (int64_t{1} << 31);  // stride 1 divides by 4 in the end
}

template <class Weight>
AlignedVector<int16_t> pack(const ConvGeometry& g, const Weight* w) {
  const int64_t block = g.in_c * kBlock, blocks = divide_up(g.out_c, kBlock);
  const int64_t planes = is_strided(g) ? kStridedTilePlanes : kTilePlanes;
  AlignedVector<int16_t> packed(static_cast<size_t>(planes * blocks * block));
#pragma omp parallel for if (g.out_c * g.depth() >= kParallelProducts)
  for (int64_t b = 0; b < blocks; ++b) {
    int16_t* out[kStridedTilePlanes];
    int16_t* of_sum = packed.data();
    for (int64_t s = 0; s < sums_of(g); ++s) {
      const Planes some = planes_of(g, s);
      for (int64_t k = 0; k < some.count; ++k) out[some.index[k]] = of_sum + (b * some.count + k) * block;
      of_sum += some.count * blocks * block;
    }
    kernels::transform_weight_codes(is_strided(g), w + b * kBlock * 9 * g.in_c, std::min(kBlock, g.out_c - b * kBlock),
                                    g.in_c, out);
  }
  return packed;
}

template AlignedVector<int16_t> pack<int8_t>(const ConvGeometry&, const int8_t*);
template AlignedVector<int16_t> pack<int16_t>(const ConvGeometry&, const int16_t*);

int64_t tile_bytes(const ConvGeometry& g) { return is_strided(g) ? 40 : 12; }

ConvGeometry even(const ConvGeometry& g) {
  ConvGeometry wider = g;
  wider.pad_bottom += g.out_h() % 2 * g.stride_h;
  wider.pad_right += g.out_w() % 2 * g.stride_w;
  return wider;
}

void multiply(const ConvGeometry& g, const AlignedVector<int16_t>& weights, const Region& region, int64_t channel,
              int64_t channels, int32_t* out, int64_t out_stride, const kernels::CodeOutput* codes) {
  const int64_t tiles = region.pixel_count / 4, block = g.in_c * kBlock, blocks = divide_up(g.out_c, kBlock);
  const bool strided = is_strided(g);
  // A little apart, so that planes do not share the lines of the first cache.
  const int64_t code_plane = tiles * g.in_c + kBlock, sum_plane = tiles * kOutputs + kBlock;
  ScratchVector<const int16_t*> first(static_cast<size_t>(tiles)), transformed(static_cast<size_t>(tiles));
  ScratchVector<int64_t> pixels(static_cast<size_t>(4 * tiles));
  ScratchVector<int16_t> values(static_cast<size_t>((strided ? kStridedTilePlanes : kTilePlanes) * code_plane));
  ScratchVector<int32_t> sums(static_cast<size_t>(sums_of(g) * sum_plane));
  for (int64_t t = 0, start = 0; t < tiles; start += 2 * region.width) {
    const int64_t row = region.row + start / region.width, real_row = row % region.height;
    const int64_t place = (row / region.height * region.real_height + real_row - region.row) * region.real_width;
    for (int64_t col = 0; col < region.width; col += 2, ++t) {
      first[t] = region.pixels[start + col];
      transformed[t] = values.data() + t * g.in_c;
      for (int64_t i = 0; i < 4; ++i) {
        const bool inside = real_row + i / 2 < region.real_height && col + i % 2 < region.real_width;
        pixels[4 * t + i] = inside ? place + i / 2 * region.real_width + col + i % 2 : -1;
      }
    }
  }
  kernels::transform_codes(strided, first.data(), tiles, region.line, g.in_c, code_plane, values.data());
  for (int64_t c = 0; c < channels; c += kOutputs) {
    const int16_t* of_sum = weights.data();
    for (int64_t s = 0; s < sums_of(g); ++s) {
      const Planes some = planes_of(g, s);
      int64_t offset[4];
      for (int64_t k = 0; k < some.count; ++k) offset[k] = some.index[k] * code_plane;
      kernels::multiply(kernels::PairTask{.pixels = transformed.data(),
                                          .pixel_count = tiles,
                                          .base = 0,
                                          .segment_offset = offset,
                                          .segments = some.count,
                                          .groups = g.in_c / 2,
                                          .weights = of_sum + (channel + c) / kBlock * some.count * block,
                                          .channels = std::min(kOutputs, divide_up(channels - c, kBlock) * kBlock),
                                          .out = sums.data() + s * sum_plane,
                                          .out_stride = kOutputs});
      of_sum += some.count * blocks * block;
    }
    kernels::CodeOutput part;
    if (codes != nullptr) {
      part = *codes;
      part.bias = codes->bias == nullptr ? nullptr : codes->bias + c;
      part.multiplier = codes->multiplier + c;
      part.codes = codes->codes + c;
    }
    kernels::restore_sums({.strided = strided,
                           .sums = sums.data(),
                           .plane = sum_plane,
                           .count = tiles,
                           .channels = kOutputs,
                           .used = std::min(kOutputs, channels - c),
                           .pixels = pixels.data(),
                           .out = out + c,
                           .out_stride = out_stride,
                           .code_output = codes == nullptr ? nullptr : &part});
  }
}

}  // namespace qat::ops::integer_winograd
