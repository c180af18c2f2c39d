#include "core/ops/convolve_strips.h"

#include <omp.h>

#include <algorithm>
#include <functional>

#include "core/ops/bit_kernels.h"
#include "core/ops/integer_winograd.h"
#include "core/ops/nibbles.h"

namespace qat::ops::kernels {
namespace {

template <class Input, class Weight, class Code>
void multiply_strips(const PackedWeights<Code>& p, const Weight* weights, const ConvGeometry& g, const Code* x,
                     bool in_memory, const Finish& finish) {
  // A strip's accumulators, where they reach memory, should stay in the second cache too.
  // Weights that leave it are read by few strips.
  const bool stays = g.depth() * g.out_c * static_cast<int64_t>(sizeof(Weight)) <= 512 * 1024;
  const int64_t bytes = g.kernel_h * g.kernel_w == 1 && stays ? 64 * 1024 : 256 * 1024;
  const int64_t input_bytes = g.in_c * g.stride_h * g.stride_w * static_cast<int64_t>(sizeof(Input));
  const int64_t output_bytes = !in_memory && p.fuses_codes() ? 0 : g.out_c * static_cast<int64_t>(sizeof(int32_t));
  const Strips strips(g, sizeof(Input), bytes * input_bytes / std::max(input_bytes, output_bytes));
  const bool padded = g.pad_top + g.pad_left + g.pad_bottom + g.pad_right != 0;
  // Codes that need no padding are read where they are, unless the last group would read behind the end.
  const bool in_place = std::is_same_v<Input, Code> && !padded && p.segments.length % 4 == 0;
  const auto load = [&](StripInput<Input>& in, int64_t strip) {
    if constexpr (std::is_same_v<Input, Code>) {
      if (in_place) return in.refer(strip, x);
    }
    in.load(strip, x, p.zero_point);
  };
  // Few strips (small maps, batch 1): the threads share the output channels as well.
  const int64_t channels = p.group_channels(), blocks = p.blocks(), pairs_of_blocks = divide_up(blocks, 2);
  const int64_t parts =
      g.groups > 1 ? 1 : std::clamp<int64_t>(divide_up(2 * omp_get_max_threads(), strips.count()), 1, pairs_of_blocks);
  const int64_t part_blocks = 2 * divide_up(pairs_of_blocks, parts);
  for_strips<Input>(strips, parts, load, [&](const StripInput<Input>& in, int64_t part) {
    const int64_t first = part * part_blocks * kBlock;
    if (first >= channels) return;
    const int64_t count = std::min(channels - first, part_blocks * kBlock);
    const Part whole{.first_pixel = in.first_pixel(),
                     .pixels = in.pixel_count(),
                     .channel = first,
                     .channels = g.groups > 1 ? g.out_c : count};
    const auto task = [&](int32_t* out, int64_t out_stride, const CodeOutput* codes) {
      const int64_t size = divide_up(count, kBlock) * p.block_size();
      ScratchVector<uint8_t> unpacked(p.nibbles.empty() ? 0 : static_cast<size_t>(unpacked_bytes(size)));
      for (int64_t i = 0; i < g.groups; ++i) {
        const int64_t begin = (i * blocks + part * part_blocks) * p.block_size();
        const Weight* of_part = weights + begin;
        if constexpr (std::is_same_v<Weight, int8_t>) {
          if (!p.nibbles.empty()) {
            const StoredCodes stored(p.nibbles.data(), kLowestNibble);
            of_part = reinterpret_cast<const int8_t*>(codes_in(stored, begin, size, unpacked.data()));
          }
        }
        multiply(
            PixelTask<Input, Weight>{.pixels = in.pixels(),
                                     .pixel_count = in.pixel_count(),
                                     .base = i * (g.in_c / g.groups),
                                     .segment_offset = p.segments.offset.data(),
                                     .segments = p.segments.count(),
                                     .groups = p.groups_of_products(),
                                     .weights = of_part,
                                     .channels = count,
                                     .out = out + i * channels,
                                     .out_stride = out_stride,
                                     .code_output = codes,
                                     .start = p.start.empty() ? nullptr : p.start.data() + i * blocks * kBlock + first,
                                     .flush = p.flush});
      }
    };
    finish(whole, std::ref(task));
  });
}

template <class Code>
void multiply_bit_strips(const PackedWeights<Code>& p, const ConvGeometry& g, const Code* x, const Finish& finish) {
  const Strips strips(g, sizeof(uint8_t));
  const int64_t pairs_of_blocks = divide_up(p.blocks(), 2), codes_per_strip = strips.elements() - kSlack;
  const int64_t parts = std::clamp<int64_t>(divide_up(omp_get_max_threads(), strips.count()), 1, pairs_of_blocks);
  const int64_t part_channels = 2 * divide_up(pairs_of_blocks, parts) * kBlock;
  const auto load = [&](StripInput<uint8_t>& in, int64_t strip) { in.load(strip, x, p.zero_point); };
  for_strips<uint8_t>(strips, parts, load, [&](const StripInput<uint8_t>& in, int64_t part) {
    const int64_t first = part * part_channels;
    if (first >= g.out_c) return;
    ScratchVector<uint64_t> bits(static_cast<size_t>(codes_per_strip / kWord));
    gather_bits(in.pixels()[0], codes_per_strip, bits.data());
    const Part whole{.first_pixel = in.first_pixel(),
                     .pixels = in.pixel_count(),
                     .channel = first,
                     .channels = std::min(g.out_c - first, part_channels)};
    const auto task = [&](int32_t* out, int64_t out_stride, const CodeOutput* codes) {
      multiply(BitTask{.pixels = in.pixels(),
                       .pixel_count = in.pixel_count(),
                       .first = in.pixels()[0],
                       .bits = bits.data(),
                       .segment_offset = p.segments.offset.data(),
                       .segments = p.segments.count(),
                       .words = p.segments.length / kWord,
                       .weights = p.bits.data() + first * (g.depth() / kWord),
                       .start = p.start.data() + first,
                       .channels = whole.channels,
                       .out = out,
                       .out_stride = out_stride,
                       .code_output = codes});
    };
    finish(whole, std::ref(task));
  });
}

template <class Code>
void multiply_winograd_strips(const PackedWeights<Code>& p, const ConvGeometry& g, const Code* x,
                              const Finish& finish) {
  const ConvGeometry even = integer_winograd::even(g);
  // The weights of many channels pay only if they serve some tiles at once.
  constexpr int64_t kTiles = 48;
  Strips strips(even, sizeof(int16_t), std::max<int64_t>(32 * 1024, integer_winograd::tile_bytes(g) * g.in_c * kTiles));
  strips.rows += strips.rows % 2;
  strips.in_rows = (strips.rows - 1) * g.stride_h + 3;
  const int64_t blocks = p.blocks();
  const int64_t parts = std::clamp<int64_t>(divide_up(omp_get_max_threads(), strips.count()), 1, divide_up(blocks, 2));
  const int64_t part_channels = 2 * divide_up(divide_up(blocks, 2), parts) * kBlock;
  const auto load = [&](StripInput<int16_t>& in, int64_t strip) { in.load(strip, x, p.zero_point); };
  for_strips<int16_t>(strips, parts, load, [&](const StripInput<int16_t>& in, int64_t part) {
    const int64_t first = part * part_channels;
    if (first >= g.out_c) return;
    const int64_t row = in.first_pixel() / even.out_w(), image = row / even.out_h();
    const integer_winograd::Region region{.pixels = in.pixels(),
                                          .pixel_count = in.pixel_count(),
                                          .width = even.out_w(),
                                          .line = strips.padded_w() * g.in_c,
                                          .row = row % even.out_h(),
                                          .height = even.out_h(),
                                          .real_height = g.out_h(),
                                          .real_width = g.out_w()};
    const Part whole{.first_pixel = (image * g.out_h() + region.row) * g.out_w(),
                     .channel = first,
                     .channels = std::min(g.out_c - first, part_channels)};
    const auto task = [&](int32_t* out, int64_t out_stride, const CodeOutput* codes) {
      integer_winograd::multiply(g, p.pairs, region, first, whole.channels, out, out_stride, codes);
    };
    finish(whole, std::ref(task));
  });
}

template <class Code>
void multiply_depthwise_strips(const PackedWeights<Code>& p, const ConvGeometry& g, const Code* x,
                               const Finish& finish) {
  const Strips strips(g, sizeof(float));
  const int64_t taps = g.kernel_h * g.kernel_w;
  ScratchVector<int64_t> offset(static_cast<size_t>(taps));
  for (int64_t k = 0; k < taps; ++k) {
    offset[k] = (k / g.kernel_w * g.dilation_h * strips.padded_w() + k % g.kernel_w * g.dilation_w) * g.in_c;
  }
  const auto load = [&](StripInput<float>& in, int64_t strip) { in.load(strip, x, p.zero_point); };
  for_strips<float>(strips, 1, load, [&](const StripInput<float>& in, int64_t) {
    const Part whole{.first_pixel = in.first_pixel(), .pixels = in.pixel_count(), .channel = 0, .channels = g.out_c};
    const auto task = [&](int32_t* out, int64_t, const CodeOutput*) {
      multiply_depthwise({.pixels = in.pixels(),
                          .pixel_count = in.pixel_count(),
                          .cols = g.out_w(),
                          .step = g.stride_w * g.in_c,
                          .tap_offset = offset.data(),
                          .taps = taps,
                          .weights = p.taps.data(),
                          .channels = g.in_c,
                          .out = out});
    };
    finish(whole, std::ref(task));
  });
}

template <class Code>
void multiply_depthwise_quads(const PackedWeights<Code>& p, const ConvGeometry& g, const Code* x,
                              const Finish& finish) {
  const Strips strips(g, sizeof(uint8_t), 32 * 1024);
  const auto load = [&](StripInput<uint8_t>& in, int64_t strip) { in.load(strip, x, p.zero_point); };
  for_strips<uint8_t>(strips, 1, load, [&](const StripInput<uint8_t>& in, int64_t) {
    const Part whole{.first_pixel = in.first_pixel(), .pixels = in.pixel_count(), .channel = 0, .channels = g.out_c};
    const auto task = [&](int32_t* out, int64_t, const CodeOutput*) {
      multiply_depthwise(DepthwiseQuadTask{.pixels = in.pixels(),
                                           .pixel_count = in.pixel_count(),
                                           .row_pixels = g.out_w(),
                                           .column_step = g.in_c,
                                           .row_step = g.dilation_h * strips.padded_w() * g.in_c,
                                           .stride = g.stride_w,
                                           .dilation = g.dilation_w,
                                           .kernel_h = g.kernel_h,
                                           .kernel_w = g.kernel_w,
                                           .weights = p.quads.data(),
                                           .start = p.start.data(),
                                           .channels = g.in_c,
                                           .out = out});
    };
    finish(whole, std::ref(task));
  });
}

}  // namespace

template <class Code>
void run_strips(const PackedWeights<Code>& p, const Code* x, int64_t batch, bool in_memory, const Finish& finish) {
  if (batch == 0) return;
  ConvGeometry g = p.g;
  g.batch = batch;
  g = flattened(g);
  switch (p.kernel) {
    case Kernel::kPairs:
      return multiply_strips<int16_t, int16_t>(p, p.pairs.data(), g, x, in_memory, finish);
    case Kernel::kWinograd:
      return multiply_winograd_strips(p, g, x, finish);
    case Kernel::kBits:
      return multiply_bit_strips(p, g, x, finish);
    case Kernel::kQuads:
      return multiply_strips<uint8_t, int8_t>(p, p.quads.data(), g, x, in_memory, finish);
    case Kernel::kDepthwise:
      return multiply_depthwise_strips(p, g, x, finish);
    case Kernel::kDepthwiseQuads:
      return multiply_depthwise_quads(p, g, x, finish);
  }
}

template void run_strips(const PackedWeights<uint8_t>&, const uint8_t*, int64_t, bool, const Finish&);
template void run_strips(const PackedWeights<int8_t>&, const int8_t*, int64_t, bool, const Finish&);

}  // namespace qat::ops::kernels
