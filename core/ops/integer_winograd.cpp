#include "core/ops/integer_winograd.h"

#include <algorithm>

#include "core/ops/scratch.h"
#include "core/ops/strips.h"

namespace qat::ops::integer_winograd {
namespace {

using kernels::kBlock;

constexpr int64_t kFrequencies = 16;  // products of a tile
/// With fewer channels the transforms cost what the saved products would; with fewer outputs a channel (smaller maps)
/// reading the weights does, which are 16 words in place of 9.
constexpr int64_t kFewChannels = 32, kFewOutputs = 40;
/// Outputs at a time: their sums stay in the second cache.
constexpr int64_t kOutputs = 2 * kBlock;

}  // namespace

bool serves(const ConvGeometry& g, int64_t code, int64_t weight) {
  return g.kernel_h == 3 && g.kernel_w == 3 && g.stride_h == 1 && g.stride_w == 1 && g.dilation_h == 1 &&
         g.dilation_w == 1 && g.groups == 1 && std::min(g.in_c, g.out_c) >= kFewChannels && g.in_c % kBlock == 0 &&
         g.batch * g.out_h() * g.out_w() >= kFewOutputs && 4 * g.depth() * code * weight < (int64_t{1} << 31);
}

template <class Weight>
AlignedVector<int16_t> pack(const ConvGeometry& g, const Weight* w) {
  const int64_t block = g.in_c * kBlock, plane = divide_up(g.out_c, kBlock) * block;
  AlignedVector<int16_t> packed(static_cast<size_t>(kFrequencies * plane));
#pragma omp parallel for if (g.out_c * g.depth() >= kParallelProducts)
  for (int64_t o = 0; o < g.out_c; o += kBlock) {
    kernels::transform_weight_codes(w + o * 9 * g.in_c, std::min(kBlock, g.out_c - o), g.in_c, plane,
                                    packed.data() + o / kBlock * block);
  }
  return packed;
}

template AlignedVector<int16_t> pack<int8_t>(const ConvGeometry&, const int8_t*);
template AlignedVector<int16_t> pack<int16_t>(const ConvGeometry&, const int16_t*);

ConvGeometry even(const ConvGeometry& g) {
  ConvGeometry wider = g;
  wider.pad_bottom += g.out_h() % 2;
  wider.pad_right += g.out_w() % 2;
  return wider;
}

void multiply(const ConvGeometry& g, const AlignedVector<int16_t>& weights, const Region& region, int64_t channel,
              int64_t channels, int32_t* out, int64_t out_stride, const kernels::CodeOutput* codes) {
  const int64_t tiles = region.pixel_count / 4, block = g.in_c * kBlock, plane = divide_up(g.out_c, kBlock) * block;
  // A little apart, so that planes do not share the lines of the first cache.
  const int64_t code_plane = tiles * g.in_c + kBlock, sum_plane = tiles * kOutputs + kBlock;
  ScratchVector<const int16_t*> first(static_cast<size_t>(tiles)), transformed(static_cast<size_t>(tiles));
  ScratchVector<int64_t> pixels(static_cast<size_t>(4 * tiles));
  ScratchVector<int16_t> values(static_cast<size_t>(kFrequencies * code_plane));
  ScratchVector<int32_t> sums(static_cast<size_t>(kFrequencies * sum_plane));
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
  kernels::transform_codes(first.data(), tiles, region.line, g.in_c, code_plane, values.data());
  const int64_t offset = 0;
  for (int64_t c = 0; c < channels; c += kOutputs) {
    for (int64_t f = 0; f < kFrequencies; ++f) {
      kernels::multiply(kernels::PairTask{.pixels = transformed.data(),
                                          .pixel_count = tiles,
                                          .base = f * code_plane,
                                          .segment_offset = &offset,
                                          .segments = 1,
                                          .groups = g.in_c / 2,
                                          .weights = weights.data() + f * plane + (channel + c) / kBlock * block,
                                          .channels = std::min(kOutputs, divide_up(channels - c, kBlock) * kBlock),
                                          .out = sums.data() + f * sum_plane,
                                          .out_stride = kOutputs});
    }
    kernels::CodeOutput part;
    if (codes != nullptr) {
      part = *codes;
      part.bias = codes->bias == nullptr ? nullptr : codes->bias + c;
      part.multiplier = codes->multiplier + c;
      part.codes = codes->codes + c;
    }
    kernels::restore_sums({.sums = sums.data(),
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
