#include "core/ops/convolve.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "core/base/error.h"
#include "core/ops/convolve_kernels.h"

namespace qat::ops {
namespace {

using kernels::kBlock;
using kernels::kSlack;

/// Bytes of widened input a thread works on: with the weights of a block it should stay in the second cache.
constexpr int64_t kStripBytes = 128 * 1024;
/// Below this many products the start of the threads costs more than they save.
constexpr int64_t kParallelProducts = 1 << 18;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

/// A 1x1 convolution without padding and stride sees no map: its pixels become one column.
ConvGeometry flattened(ConvGeometry g) {
  const bool pointwise = g.kernel_h == 1 && g.kernel_w == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top == 0 &&
                         g.pad_left == 0 && g.pad_bottom == 0 && g.pad_right == 0;
  if (pointwise) {
    g.in_h *= g.batch * g.in_w;
    g.in_w = g.batch = 1;
  }
  return g;
}

/// How the output map is cut: whole images, or strips of rows of one image.
struct Strips {
  Strips(const ConvGeometry& geometry, int64_t element_bytes) : g(geometry) {
    const int64_t wanted = 2 * omp_get_max_threads();
    const int64_t row_bytes = padded_w() * g.in_c * element_bytes;
    const auto lines = [&](int64_t out_rows) {
      return (out_rows - 1) * g.stride_h + g.dilation_h * (g.kernel_h - 1) + 1;
    };
    images =
        std::clamp<int64_t>(kStripBytes / (lines(g.out_h()) * row_bytes), 1, std::max<int64_t>(1, g.batch / wanted));
    const int64_t fitting = (kStripBytes / row_bytes - lines(1)) / g.stride_h + 1;
    rows = std::clamp<int64_t>(fitting, 1, std::max<int64_t>(1, divide_up(g.out_h() * g.batch, wanted)));
    rows = std::min(rows, g.out_h());
    if (rows < g.out_h()) images = 1;
    rows = divide_up(g.out_h(), divide_up(g.out_h(), rows));  // equal strips
    in_rows = lines(rows);
  }

  int64_t padded_w() const { return g.in_w + g.pad_left + g.pad_right; }
  int64_t strips_per_image() const { return divide_up(g.out_h(), rows); }
  int64_t count() const { return divide_up(g.batch, images) * strips_per_image(); }
  int64_t elements() const { return images * in_rows * padded_w() * g.in_c + kSlack; }
  int64_t pixels() const { return images * rows * g.out_w(); }

  ConvGeometry g;
  int64_t images = 1;   // per strip
  int64_t rows = 1;     // of the output, per image of a strip
  int64_t in_rows = 1;  // of the padded input they need
};

/// One thread's widened part of the padded input and the places of its output pixels.
template <class Element>
class StripInput {
 public:
  explicit StripInput(const Strips& strips)
      : s_(strips),
        values_(std::make_unique_for_overwrite<Element[]>(static_cast<size_t>(strips.elements()))),
        pixels_(std::make_unique_for_overwrite<const Element*[]>(static_cast<size_t>(strips.pixels()))) {
    std::fill(values_.get() + strips.elements() - kSlack, values_.get() + strips.elements(), Element{0});
  }

  template <class Code>
  void load(int64_t strip, const Code* x, int32_t zero_point) {
    const ConvGeometry& g = s_.g;
    const int64_t n0 = strip / s_.strips_per_image() * s_.images;
    const int64_t n1 = std::min(g.batch, n0 + s_.images);
    const int64_t y0 = strip % s_.strips_per_image() * s_.rows;
    const int64_t y1 = std::min(g.out_h(), y0 + s_.rows);
    const int64_t line = s_.padded_w() * g.in_c;
    pixel_count_ = 0;
    first_pixel_ = (n0 * g.out_h() + y0) * g.out_w();
    for (int64_t n = n0; n < n1; ++n) {
      Element* image = values_.get() + (n - n0) * s_.in_rows * line;
      for (int64_t r = 0; r < s_.in_rows; ++r) {
        if (g.kernel_h == 1 && r % g.stride_h != 0) continue;  // read by no output
        load_line(x, n, y0 * g.stride_h + r - g.pad_top, zero_point, image + r * line);
      }
      for (int64_t y = 0; y < y1 - y0; ++y) {
        for (int64_t col = 0; col < g.out_w(); ++col) {
          pixels_[pixel_count_++] = image + y * g.stride_h * line + col * g.stride_w * g.in_c;
        }
      }
    }
  }

  const Element* const* pixels() const { return pixels_.get(); }
  int64_t pixel_count() const { return pixel_count_; }
  int64_t first_pixel() const { return first_pixel_; }

 private:
  template <class Code>
  void load_line(const Code* x, int64_t n, int64_t row, int32_t zero_point, Element* out) const {
    const ConvGeometry& g = s_.g;
    if (row < 0 || row >= g.in_h) {
      std::fill(out, out + s_.padded_w() * g.in_c, Element{0});
      return;
    }
    const int64_t width = g.in_w * g.in_c;
    out = std::fill_n(out, g.pad_left * g.in_c, Element{0});
    kernels::widen(x + (n * g.in_h + row) * width, width, zero_point, out);
    std::fill_n(out + width, g.pad_right * g.in_c, Element{0});
  }

  const Strips& s_;
  std::unique_ptr<Element[]> values_;
  std::unique_ptr<const Element*[]> pixels_;
  int64_t pixel_count_ = 0;
  int64_t first_pixel_ = 0;
};

/// Calls multiply(input, part) for every strip and each of `parts` parts of its outputs, on all threads.
template <class Element, class Code, class Multiply>
void for_strips(const Strips& strips, int64_t parts, const Code* x, int32_t zero_point, const Multiply& multiply) {
  const int64_t tasks = strips.count() * parts;
  const bool parallel = strips.g.rows() * strips.g.out_c * strips.g.depth() >= kParallelProducts;
  const int threads = parallel ? static_cast<int>(std::min<int64_t>(omp_get_max_threads(), tasks)) : 1;
  std::vector<StripInput<Element>> inputs;
  inputs.reserve(static_cast<size_t>(threads));
  for (int t = 0; t < threads; ++t) inputs.emplace_back(strips);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    StripInput<Element>& input = inputs[static_cast<size_t>(omp_get_thread_num())];
    input.load(task / parts, x, zero_point);
    multiply(input, task % parts);
  }
}

template <class Code>
void convolve_depthwise(const Strips& strips, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc) {
  const ConvGeometry& g = strips.g;
  const int64_t taps = g.kernel_h * g.kernel_w;
  const int64_t stride = divide_up(g.in_c, kBlock) * kBlock;
  std::vector<float> weights(static_cast<size_t>(taps * stride), 0.0f);
  std::vector<int64_t> offset(static_cast<size_t>(taps));
  for (int64_t k = 0; k < taps; ++k) {
    offset[k] = (k / g.kernel_w * g.dilation_h * strips.padded_w() + k % g.kernel_w * g.dilation_w) * g.in_c;
    for (int64_t c = 0; c < g.in_c; ++c) weights[k * stride + c] = w[c * taps + k];
  }
  for_strips<float>(strips, 1, x, zero_point, [&](const StripInput<float>& in, int64_t) {
    kernels::multiply_depthwise({.pixels = in.pixels(),
                                 .pixel_count = in.pixel_count(),
                                 .tap_offset = offset.data(),
                                 .taps = taps,
                                 .weights = weights.data(),
                                 .channels = g.in_c,
                                 .out = acc + in.first_pixel() * g.out_c});
  });
}

/// Runs of consecutive products of one output, in the widened input.
struct Segments {
  explicit Segments(const Strips& strips) {
    const ConvGeometry& g = strips.g;
    const bool whole_rows = g.groups == 1 && g.dilation_w == 1;  // the taps of a kernel row lie side by side
    const int64_t columns = whole_rows ? 1 : g.kernel_w;
    length = g.in_c / g.groups * (whole_rows ? g.kernel_w : 1);
    for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
      for (int64_t kw = 0; kw < columns; ++kw) {
        offset.push_back((kh * g.dilation_h * strips.padded_w() + kw * g.dilation_w) * g.in_c);
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(offset.size()); }
  int64_t pairs() const { return divide_up(length, 2); }
  int64_t block_size() const { return count() * pairs() * kBlock * 2; }

  std::vector<int64_t> offset;
  int64_t length = 0;
};

/// w [channels][segments][length] as [blocks][segments][pairs][kBlock][2].
void pack(const Segments& segments, const int16_t* w, int64_t channels, int16_t* packed) {
  const int64_t depth = segments.count() * segments.length;
  const int64_t blocks = divide_up(channels, kBlock);
#pragma omp parallel for if (channels * depth >= kParallelProducts)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t used = std::min(kBlock, channels - block * kBlock);
    int16_t* out = packed + block * segments.block_size();
    for (int64_t s = 0; s < segments.count(); ++s) {
      const int16_t* in = w + block * kBlock * depth + s * segments.length;
      for (int64_t j = 0; j < segments.pairs(); ++j, out += kBlock * 2) {
        const bool half = 2 * j + 1 == segments.length;
        if (used == kBlock && !half) {
          for (int64_t c = 0; c < kBlock; ++c) std::memcpy(out + 2 * c, in + c * depth + 2 * j, 2 * sizeof(int16_t));
          continue;
        }
        for (int64_t c = 0; c < kBlock; ++c) {
          out[2 * c] = c < used ? in[c * depth + 2 * j] : int16_t{0};
          out[2 * c + 1] = c < used && !half ? in[c * depth + 2 * j + 1] : int16_t{0};
        }
      }
    }
  }
}

template <class Code>
void convolve_grouped(const Strips& strips, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc) {
  const ConvGeometry& g = strips.g;
  const Segments segments(strips);
  const int64_t channels = g.out_c / g.groups;
  const int64_t blocks = divide_up(channels, kBlock);
  const int64_t group_size = blocks * segments.block_size();
  const auto packed = std::make_unique_for_overwrite<int16_t[]>(static_cast<size_t>(g.groups * group_size));
  for (int64_t i = 0; i < g.groups; ++i) {
    pack(segments, w + i * channels * g.depth(), channels, packed.get() + i * group_size);
  }
  // Few strips (small maps, batch 1): the threads share the output channels as well.
  const int64_t pairs_of_blocks = divide_up(blocks, 2);
  const int64_t parts = std::clamp<int64_t>(divide_up(2 * omp_get_max_threads(), strips.count()), 1, pairs_of_blocks);
  const int64_t part_blocks = 2 * divide_up(pairs_of_blocks, parts);
  for_strips<int16_t>(strips, parts, x, zero_point, [&](const StripInput<int16_t>& in, int64_t part) {
    const int64_t first = part * part_blocks * kBlock;
    if (first >= channels) return;
    for (int64_t i = 0; i < g.groups; ++i) {
      kernels::multiply({.pixels = in.pixels(),
                         .pixel_count = in.pixel_count(),
                         .base = i * (g.in_c / g.groups),
                         .segment_offset = segments.offset.data(),
                         .segments = segments.count(),
                         .pairs = segments.pairs(),
                         .weights = packed.get() + i * group_size + part * part_blocks * segments.block_size(),
                         .channels = std::min(channels - first, part_blocks * kBlock),
                         .out = acc + in.first_pixel() * g.out_c + i * channels + first,
                         .out_stride = g.out_c});
    }
  });
}

}  // namespace

template <class Code>
void convolve(const ConvGeometry& geometry, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc) {
  check<Code>(geometry, zero_point);
  if (geometry.batch == 0) return;
  const ConvGeometry g = flattened(geometry);
  const bool exact_in_float = g.kernel_h * g.kernel_w * 255 * 255 < (1 << 24);
  if (g.groups == g.in_c && g.groups == g.out_c && g.groups > 1 && exact_in_float) {
    convolve_depthwise(Strips(g, sizeof(float)), x, zero_point, w, acc);
  } else {
    convolve_grouped(Strips(g, sizeof(int16_t)), x, zero_point, w, acc);
  }
}

template void convolve<uint8_t>(const ConvGeometry&, const uint8_t*, int32_t, const int16_t*, int32_t*);
template void convolve<int8_t>(const ConvGeometry&, const int8_t*, int32_t, const int16_t*, int32_t*);

}  // namespace qat::ops
