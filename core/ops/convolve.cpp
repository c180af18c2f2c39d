#include "core/ops/convolve.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "core/base/error.h"
#include "core/ops/bit_kernels.h"
#include "core/ops/integer_winograd.h"
#include "core/ops/packing.h"
#include "core/ops/requantize_kernels.h"
#include "core/ops/strips.h"

namespace qat::ops {
namespace {

using kernels::kSlack;

template <class Code>
void check(const ConvGeometry& g, int32_t zero_point) {
  QAT_CHECK(g.batch >= 0 && g.in_h > 0 && g.in_w > 0 && g.in_c > 0 && g.out_c > 0 && g.kernel_h > 0 && g.kernel_w > 0 &&
                g.stride_h > 0 && g.stride_w > 0 && g.dilation_h > 0 && g.dilation_w > 0 && g.groups > 0 &&
                g.pad_top >= 0 && g.pad_left >= 0 && g.pad_bottom >= 0 && g.pad_right >= 0,
            "convolve: sizes, strides and dilations must be positive, paddings not negative; found input {}x{}x{}x{}, "
            "{} outputs, kernel {}x{}, stride {}x{}, dilation {}x{}, {} groups",
            g.batch, g.in_h, g.in_w, g.in_c, g.out_c, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h,
            g.dilation_w, g.groups);
  QAT_CHECK(g.in_c % g.groups == 0 && g.out_c % g.groups == 0,
            "convolve: {} input and {} output channels must be multiples of the {} groups", g.in_c, g.out_c, g.groups);
  QAT_CHECK(g.in_h + g.pad_top + g.pad_bottom > g.dilation_h * (g.kernel_h - 1) &&
                g.in_w + g.pad_left + g.pad_right > g.dilation_w * (g.kernel_w - 1),
            "convolve: the {}x{} kernel (dilation {}x{}) is larger than the padded {}x{} input", g.kernel_h, g.kernel_w,
            g.dilation_h, g.dilation_w, g.in_h + g.pad_top + g.pad_bottom, g.in_w + g.pad_left + g.pad_right);
  QAT_CHECK(zero_point >= std::numeric_limits<Code>::min() && zero_point <= std::numeric_limits<Code>::max(),
            "convolve: zero point {} is not a code; expected [{}, {}]", zero_point, +std::numeric_limits<Code>::min(),
            +std::numeric_limits<Code>::max());
}

enum class Kernel { kPairs, kWinograd, kQuads, kBits, kDepthwise, kDepthwiseQuads };

}  // namespace

template <class Code>
struct PackedConvolution<Code>::Packed {
  explicit Packed(const ConvGeometry& geometry, int32_t zero) : g(geometry), zero_point(zero), segments(geometry) {}

  /// Whether the kernel makes codes of its accumulators itself.
  bool fuses_codes() const {
    return kernel == Kernel::kWinograd || kernel == Kernel::kBits ||
           ((kernel == Kernel::kQuads || kernel == Kernel::kPairs) && g.groups == 1);
  }
  int64_t group_channels() const { return g.out_c / g.groups; }
  int64_t blocks() const { return divide_up(group_channels(), kBlock); }
  int64_t products() const { return kernel == Kernel::kQuads ? 4 : 2; }
  int64_t groups_of_products() const { return divide_up(segments.length, products()); }
  int64_t block_size() const { return segments.count() * groups_of_products() * kBlock * products(); }

  ConvGeometry g;  // batch 1
  int32_t zero_point;
  Kernel kernel = Kernel::kPairs;
  Segments segments;
  std::vector<int16_t> pairs;  // or Winograd's
  std::vector<int8_t> quads;
  std::vector<uint64_t> bits;
  std::vector<int32_t> start;  // of quads and bits
  int64_t flush = 0;
  std::vector<float> taps;  // depthwise: [taps][channels rounded up]
  int64_t quad_rows = 0;    // depthwise quads: groups of four rows of the kernel
};

template <class Code>
template <class Weight>
std::unique_ptr<typename PackedConvolution<Code>::Packed> PackedConvolution<Code>::pack(const ConvGeometry& geometry,
                                                                                        const Weight* w,
                                                                                        int32_t zero_point,
                                                                                        int32_t highest) {
  check<Code>(geometry, zero_point);
  ConvGeometry g = geometry;
  g.batch = 1;
  auto packed = std::make_unique<Packed>(g, zero_point);
  const int64_t taps = g.kernel_h * g.kernel_w, weights = g.out_c * g.depth();
  const bool exact_in_float = taps * 255 * 255 < (1 << 24);
  const bool is_depthwise = g.groups == g.in_c && g.groups == g.out_c && g.groups > 1;
  const bool are_bytes = std::all_of(w, w + weights, [](Weight v) { return v >= -128 && v <= 127; });
  if (is_depthwise && are_bytes && kernels::has_depthwise_quads()) {
    packed->kernel = Kernel::kDepthwiseQuads;
    packed->quad_rows = divide_up(g.kernel_h, 4);
    const int64_t blocks = divide_up(g.in_c, kBlock);
    packed->quads.assign(static_cast<size_t>(blocks * packed->quad_rows * g.kernel_w * kBlock * 4), 0);
    packed->start.assign(static_cast<size_t>(blocks * kBlock), 0);
    const auto zero = static_cast<uint32_t>(zero_point - std::numeric_limits<Code>::min());
    for (int64_t c = 0; c < g.in_c; ++c) {
      uint32_t sum = 0;
      for (int64_t k = 0; k < taps; ++k) {
        const int64_t row = k / g.kernel_w, column = k % g.kernel_w;
        const int64_t at = (c / kBlock * packed->quad_rows + row / 4) * g.kernel_w + column;
        packed->quads[(at * kBlock + c % kBlock) * 4 + row % 4] = static_cast<int8_t>(w[c * taps + k]);
        sum += static_cast<uint32_t>(w[c * taps + k]);
      }
      packed->start[c] = static_cast<int32_t>(0u - zero * sum);
    }
    return packed;
  }
  if (is_depthwise && exact_in_float) {
    packed->kernel = Kernel::kDepthwise;
    const int64_t stride = divide_up(g.in_c, kBlock) * kBlock;
    packed->taps.assign(static_cast<size_t>(taps * stride), 0.0f);
    for (int64_t k = 0; k < taps; ++k) {
      for (int64_t c = 0; c < g.in_c; ++c) packed->taps[k * stride + c] = static_cast<float>(w[c * taps + k]);
    }
    return packed;
  }
  Weight lowest = 0, largest = 0;
  for (int64_t i = 0; i < weights; ++i) {
    lowest = std::min(lowest, w[i]);
    largest = std::max(largest, w[i]);
  }
  const int64_t code = std::max<int64_t>(highest, zero_point) - std::numeric_limits<Code>::min();
  const bool bytes = lowest >= -128 && largest <= 127;
  const int64_t largest_weight = std::max<int64_t>(largest, -int64_t{lowest});
  packed->flush = bytes ? kernels::quad_flush(code, largest_weight) : 0;
  if (packed->flush == 0 && integer_winograd::serves(g, code, largest_weight)) {
    packed->kernel = Kernel::kWinograd;
    packed->pairs = integer_winograd::pack(g, w);
    return packed;
  }
  const bool signs = g.groups == 1 && g.in_c % kernels::kWord == 0 &&
                     std::all_of(w, w + weights, [](Weight v) { return v == -1 || v == 1; });
  if (signs && code == 1 && packed->flush > 0) {
    packed->kernel = Kernel::kBits;
    packed->bits = pack_signs(w, g.out_c, g.depth());
    packed->start.assign(static_cast<size_t>(packed->blocks() * kBlock), 0);
    put_starts(w, g.out_c, g.depth(), zero_point - std::numeric_limits<Code>::min(), packed->start.data());
    return packed;
  }
  packed->kernel = packed->flush > 0 ? Kernel::kQuads : Kernel::kPairs;
  const int64_t channels = packed->group_channels(), padded = packed->blocks() * kBlock;
  const int64_t group_size = packed->blocks() * packed->block_size();
  if (packed->kernel == Kernel::kPairs) {
    packed->pairs.resize(static_cast<size_t>(g.groups * group_size));
  } else {
    packed->quads.resize(static_cast<size_t>(g.groups * group_size));
    packed->start.assign(static_cast<size_t>(g.groups * padded), 0);
  }
  for (int64_t i = 0; i < g.groups; ++i) {
    const Weight* from = w + i * channels * g.depth();
    if (packed->kernel == Kernel::kPairs) {
      pack_blocks<2>(packed->segments, from, channels, packed->pairs.data() + i * group_size);
      continue;
    }
    pack_blocks<4>(packed->segments, from, channels, packed->quads.data() + i * group_size);
    put_starts(from, channels, g.depth(), zero_point - std::numeric_limits<Code>::min(),
               packed->start.data() + i * padded);
  }
  return packed;
}

template <class Code>
PackedConvolution<Code>::PackedConvolution(const ConvGeometry& g, const int16_t* w, int32_t zero_point, int32_t highest)
    : packed_(pack(g, w, zero_point, highest)) {}
template <class Code>
PackedConvolution<Code>::PackedConvolution(const ConvGeometry& g, const int8_t* w, int32_t zero_point, int32_t highest)
    : packed_(pack(g, w, zero_point, highest)) {}
template <class Code>
PackedConvolution<Code>::~PackedConvolution() = default;
template <class Code>
PackedConvolution<Code>::PackedConvolution(PackedConvolution&&) noexcept = default;
template <class Code>
PackedConvolution<Code>& PackedConvolution<Code>::operator=(PackedConvolution&&) noexcept = default;

template <class Code>
const char* PackedConvolution<Code>::kernel() const {
  switch (packed_->kernel) {
    case Kernel::kPairs:
      return "pairs";
    case Kernel::kWinograd:
      return "winograd";
    case Kernel::kBits:
      return "bits";
    case Kernel::kQuads:
      return "quads";
    case Kernel::kDepthwise:
      return "depthwise";
    case Kernel::kDepthwiseQuads:
      return "depthwise quads";
  }
  return "";
}

namespace {

/// Where a part of a strip's accumulators goes: rows from first_pixel, channels from `channel`.
struct Part {
  int64_t first_pixel = 0, pixels = 0, channel = 0, channels = 0;
};

template <class Input, class Weight, class Packed, class Code, class Finish>
void multiply_strips(const Packed& p, const Weight* weights, const ConvGeometry& g, const Code* x,
                     const Finish& finish) {
  // A strip's accumulators, where they reach memory, should stay in the second cache too.
  const int64_t bytes = g.kernel_h * g.kernel_w == 1 ? 64 * 1024 : 256 * 1024;
  const int64_t input_bytes = g.in_c * g.stride_h * g.stride_w * static_cast<int64_t>(sizeof(Input));
  const int64_t output_bytes = p.fuses_codes() ? 0 : g.out_c * static_cast<int64_t>(sizeof(int32_t));
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
    finish(whole, [&](int32_t* out, int64_t out_stride, const kernels::CodeOutput* codes = nullptr) {
      for (int64_t i = 0; i < g.groups; ++i) {
        kernels::multiply(kernels::PixelTask<Input, Weight>{
            .pixels = in.pixels(),
            .pixel_count = in.pixel_count(),
            .base = i * (g.in_c / g.groups),
            .segment_offset = p.segments.offset.data(),
            .segments = p.segments.count(),
            .groups = p.groups_of_products(),
            .weights = weights + (i * blocks + part * part_blocks) * p.block_size(),
            .channels = count,
            .out = out + i * channels,
            .out_stride = out_stride,
            .code_output = codes,
            .start = p.start.empty() ? nullptr : p.start.data() + i * blocks * kBlock + first,
            .flush = p.flush});
      }
    });
  });
}

template <class Packed, class Code, class Finish>
void multiply_bit_strips(const Packed& p, const ConvGeometry& g, const Code* x, const Finish& finish) {
  const Strips strips(g, sizeof(uint8_t));
  const int64_t pairs_of_blocks = divide_up(p.blocks(), 2), codes_per_strip = strips.elements() - kSlack;
  const int64_t parts = std::clamp<int64_t>(divide_up(omp_get_max_threads(), strips.count()), 1, pairs_of_blocks);
  const int64_t part_channels = 2 * divide_up(pairs_of_blocks, parts) * kBlock;
  const auto load = [&](StripInput<uint8_t>& in, int64_t strip) { in.load(strip, x, p.zero_point); };
  for_strips<uint8_t>(strips, parts, load, [&](const StripInput<uint8_t>& in, int64_t part) {
    const int64_t first = part * part_channels;
    if (first >= g.out_c) return;
    ScratchVector<uint64_t> bits(static_cast<size_t>(codes_per_strip / kernels::kWord));
    kernels::gather_bits(in.pixels()[0], codes_per_strip, bits.data());
    const Part whole{.first_pixel = in.first_pixel(),
                     .pixels = in.pixel_count(),
                     .channel = first,
                     .channels = std::min(g.out_c - first, part_channels)};
    finish(whole, [&](int32_t* out, int64_t out_stride, const kernels::CodeOutput* codes = nullptr) {
      kernels::multiply(kernels::BitTask{.pixels = in.pixels(),
                                         .pixel_count = in.pixel_count(),
                                         .first = in.pixels()[0],
                                         .bits = bits.data(),
                                         .segment_offset = p.segments.offset.data(),
                                         .segments = p.segments.count(),
                                         .words = p.segments.length / kernels::kWord,
                                         .weights = p.bits.data() + first * (g.depth() / kernels::kWord),
                                         .start = p.start.data() + first,
                                         .channels = whole.channels,
                                         .out = out,
                                         .out_stride = out_stride,
                                         .code_output = codes});
    });
  });
}

template <class Packed, class Code, class Finish>
void multiply_winograd_strips(const Packed& p, const ConvGeometry& g, const Code* x, const Finish& finish) {
  const ConvGeometry even = integer_winograd::even(g);
  // A tile of 2x2 outputs takes 8 bytes a channel here and 32 when it is transformed. The weights of many channels pay
  // only if they serve some tiles at once.
  constexpr int64_t kTiles = 48;
  Strips strips(even, sizeof(int16_t), std::max<int64_t>(32 * 1024, 12 * g.in_c * kTiles));
  strips.rows += strips.rows % 2;
  strips.in_rows = strips.rows + 2;
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
    finish(whole, [&](int32_t* out, int64_t out_stride, const kernels::CodeOutput* codes = nullptr) {
      integer_winograd::multiply(g, p.pairs, region, first, whole.channels, out, out_stride, codes);
    });
  });
}

template <class Packed, class Code, class Finish>
void multiply_depthwise_strips(const Packed& p, const ConvGeometry& g, const Code* x, const Finish& finish) {
  const Strips strips(g, sizeof(float));
  const int64_t taps = g.kernel_h * g.kernel_w;
  ScratchVector<int64_t> offset(static_cast<size_t>(taps));
  for (int64_t k = 0; k < taps; ++k) {
    offset[k] = (k / g.kernel_w * g.dilation_h * strips.padded_w() + k % g.kernel_w * g.dilation_w) * g.in_c;
  }
  const auto load = [&](StripInput<float>& in, int64_t strip) { in.load(strip, x, p.zero_point); };
  for_strips<float>(strips, 1, load, [&](const StripInput<float>& in, int64_t) {
    const Part whole{.first_pixel = in.first_pixel(), .pixels = in.pixel_count(), .channel = 0, .channels = g.out_c};
    finish(whole, [&](int32_t* out, int64_t, const kernels::CodeOutput* = nullptr) {
      kernels::multiply_depthwise({.pixels = in.pixels(),
                                   .pixel_count = in.pixel_count(),
                                   .cols = g.out_w(),
                                   .step = g.stride_w * g.in_c,
                                   .tap_offset = offset.data(),
                                   .taps = taps,
                                   .weights = p.taps.data(),
                                   .channels = g.in_c,
                                   .out = out});
    });
  });
}

template <class Packed, class Code, class Finish>
void multiply_depthwise_quads(const Packed& p, const ConvGeometry& g, const Code* x, const Finish& finish) {
  const Strips strips(g, sizeof(uint8_t), 32 * 1024);
  const auto load = [&](StripInput<uint8_t>& in, int64_t strip) { in.load(strip, x, p.zero_point); };
  for_strips<uint8_t>(strips, 1, load, [&](const StripInput<uint8_t>& in, int64_t) {
    const Part whole{.first_pixel = in.first_pixel(), .pixels = in.pixel_count(), .channel = 0, .channels = g.out_c};
    finish(whole, [&](int32_t* out, int64_t, const kernels::CodeOutput* = nullptr) {
      kernels::multiply_depthwise(kernels::DepthwiseQuadTask{.pixels = in.pixels(),
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
    });
  });
}

}  // namespace

/// finish(part, multiply) for all parts of all strips; it calls multiply(out, out_stride) once.
template <class Code>
template <class Finish>
void PackedConvolution<Code>::run(const Code* x, int64_t batch, const Finish& finish) const {
  if (batch == 0) return;
  const Packed& p = *packed_;
  ConvGeometry g = p.g;
  g.batch = batch;
  g = flattened(g);
  switch (p.kernel) {
    case Kernel::kPairs:
      return multiply_strips<int16_t, int16_t>(p, p.pairs.data(), g, x, finish);
    case Kernel::kWinograd:
      return multiply_winograd_strips(p, g, x, finish);
    case Kernel::kBits:
      return multiply_bit_strips(p, g, x, finish);
    case Kernel::kQuads:
      return multiply_strips<uint8_t, int8_t>(p, p.quads.data(), g, x, finish);
    case Kernel::kDepthwise:
      return multiply_depthwise_strips(p, g, x, finish);
    case Kernel::kDepthwiseQuads:
      return multiply_depthwise_quads(p, g, x, finish);
  }
}

template <class Code>
void PackedConvolution<Code>::accumulate(const Code* x, int64_t batch, int32_t* acc) const {
  const int64_t out_c = packed_->g.out_c;
  run(x, batch,
      [&](const Part& part, const auto& multiply) { multiply(acc + part.first_pixel * out_c + part.channel, out_c); });
}

template <class Code>
void PackedConvolution<Code>::requantize(const Code* x, int64_t batch, const int32_t* bias, const float* multiplier,
                                         CodeRange range, Code* y) const {
  const int64_t out_c = packed_->g.out_c;
  const kernels::Requantizer<Code> requantizer(out_c, bias, multiplier, range);
  const kernels::Requantization& q = requantizer.parameters();
  run(x, batch, [&](const Part& part, const auto& multiply) {
    if (packed_->fuses_codes()) {
      const kernels::CodeOutput codes{.bias = q.bias == nullptr ? nullptr : q.bias + part.channel,
                                      .multiplier = q.multiplier + part.channel,
                                      .lo = q.lo,
                                      .hi = q.hi,
                                      .zero_point = q.zero_point,
                                      .is_signed = std::is_signed_v<Code>,
                                      .codes = reinterpret_cast<uint8_t*>(y + part.first_pixel * out_c + part.channel),
                                      .stride = out_c};
      return multiply(nullptr, 0, &codes);
    }
    thread_local std::vector<int32_t> acc;
    acc.resize(static_cast<size_t>(part.pixels * part.channels));
    multiply(acc.data(), part.channels);
    Code* out = y + part.first_pixel * out_c + part.channel;
    if (part.channels == out_c) {
      requantizer.rows(acc.data(), part.pixels, out);
      return;
    }
    for (int64_t p = 0; p < part.pixels; ++p) {
      requantizer.part(acc.data() + p * part.channels, part.channel, part.channels, out + p * out_c);
    }
  });
}

template <class Code>
void convolve(const ConvGeometry& g, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc) {
  PackedConvolution<Code>(g, w, zero_point).accumulate(x, g.batch, acc);
}

#define QAT_INSTANTIATE(Code)             \
  template class PackedConvolution<Code>; \
  template void convolve<Code>(const ConvGeometry&, const Code*, int32_t, const int16_t*, int32_t*);
QAT_INSTANTIATE(uint8_t)
QAT_INSTANTIATE(int8_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
