#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>

#include "core/base/error.h"
#include "core/ops/bit_kernels.h"
#include "core/ops/convolve_strips.h"
#include "core/ops/integer_winograd.h"

namespace qat::ops::kernels {
namespace {

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

/// Whether sums of (x - zero_point) * w lie in [-32767, 32767] for all codes from `lowest` to `highest`.
template <class Weight>
bool sums_fit_int16(const Weight* w, int64_t channels, int64_t depth, int64_t below, int64_t above) {
  for (int64_t c = 0; c < channels; ++c, w += depth) {
    int64_t positive = 0, negative = 0;
    for (int64_t k = 0; k < depth; k += 4096) {
      int32_t sum = 0, magnitude = 0;
      for (int64_t i = k; i < std::min(depth, k + 4096); ++i) {
        sum += w[i];
        magnitude += std::abs(w[i]);
      }
      positive += (magnitude + sum) / 2;
      negative += (magnitude - sum) / 2;
    }
    if (std::max(positive * above + negative * below, positive * below + negative * above) > 32767) return false;
  }
  return true;
}

}  // namespace

template <class Code, class Weight>
std::unique_ptr<PackedWeights<Code>> pack_convolution(const ConvGeometry& geometry, const Weight* w, int32_t zero_point,
                                                      int32_t highest) {
  check<Code>(geometry, zero_point);
  ConvGeometry g = geometry;
  const ConvGeometry likely = g;
  g.batch = 1;
  auto packed = std::make_unique<PackedWeights<Code>>(g, zero_point);
  const int64_t taps = g.kernel_h * g.kernel_w, weights = g.out_c * g.depth();
  const int64_t below = zero_point - std::numeric_limits<Code>::min(), above = std::max(highest - zero_point, 0);
  packed->fits_int16 = sums_fit_int16(w, g.out_c, g.depth(), below, above);
  const bool exact_in_float = taps * 255 * 255 < (1 << 24);
  const bool is_depthwise = g.groups == g.in_c && g.groups == g.out_c && g.groups > 1;
  const bool are_bytes = std::all_of(w, w + weights, [](Weight v) { return v >= -128 && v <= 127; });
  if (is_depthwise && are_bytes && has_depthwise_quads()) {
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
  packed->flush = bytes ? quad_flush(code, largest_weight) : 0;
  if (packed->flush == 0 && integer_winograd::serves(likely, code, largest_weight)) {
    packed->kernel = Kernel::kWinograd;
    packed->fits_int16 = false;  // its parts are rectangles, not rows
    packed->pairs = integer_winograd::pack(g, w);
    return packed;
  }
  const bool signs =
      g.groups == 1 && g.in_c % kWord == 0 && std::all_of(w, w + weights, [](Weight v) { return v == -1 || v == 1; });
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

#define QAT_INSTANTIATE(Code, Weight) \
  template std::unique_ptr<PackedWeights<Code>> pack_convolution(const ConvGeometry&, const Weight*, int32_t, int32_t);
QAT_INSTANTIATE(uint8_t, int8_t)
QAT_INSTANTIATE(uint8_t, int16_t)
QAT_INSTANTIATE(int8_t, int8_t)
QAT_INSTANTIATE(int8_t, int16_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops::kernels
