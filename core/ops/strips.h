// How a convolution's output map is cut among threads and caches, and one thread's part of the padded input. Internal
// to core/ops.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "core/ops/convolve.h"
#include "core/ops/convolve_kernels.h"
#include "core/ops/scratch.h"
#include "core/ops/types.h"

namespace qat::ops {

/// Below this many products the start of the threads costs more than they save.
inline constexpr int64_t kParallelProducts = 1 << 18;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A 1x1 convolution without padding and stride as one of a single column of pixels.
inline ConvGeometry flattened(ConvGeometry g) {
  if (is_pointwise(g)) {
    g.in_h *= g.batch * g.in_w;
    g.in_w = g.batch = 1;
  }
  return g;
}

/// The output map in strips: whole images, or rows of one image.
struct Strips {
  /// bytes: what a strip's input may take, so that with the weights of a block it stays in the second cache.
  Strips(const ConvGeometry& geometry, int64_t element_bytes, int64_t bytes = 128 * 1024) : g(geometry) {
    const int64_t threads = omp_get_max_threads(), wanted = threads == 1 ? 1 : 2 * threads;
    const int64_t row_bytes = padded_w() * g.in_c * element_bytes;
    const auto lines = [&](int64_t out_rows) {
      return (out_rows - 1) * g.stride_h + g.dilation_h * (g.kernel_h - 1) + 1;
    };
    images = std::clamp<int64_t>(bytes / (lines(g.out_h()) * row_bytes), 1, std::max<int64_t>(1, g.batch / wanted));
    const int64_t fitting = (bytes / row_bytes - lines(1)) / g.stride_h + 1;
    rows = std::clamp<int64_t>(fitting, 1, std::max<int64_t>(1, divide_up(g.out_h() * g.batch, wanted)));
    rows = std::min(rows, g.out_h());
    if (rows < g.out_h()) images = 1;
    rows = divide_up(g.out_h(), divide_up(g.out_h(), rows));  // equal strips
    in_rows = lines(rows);
  }

  int64_t padded_w() const { return g.in_w + g.pad_left + g.pad_right; }
  int64_t strips_per_image() const { return divide_up(g.out_h(), rows); }
  int64_t count() const { return divide_up(g.batch, images) * strips_per_image(); }
  int64_t elements() const { return images * in_rows * padded_w() * g.in_c + kernels::kSlack; }
  int64_t pixels() const { return images * rows * g.out_w(); }

  ConvGeometry g;
  int64_t images = 1;   // per strip
  int64_t rows = 1;     // of the output, per image of a strip
  int64_t in_rows = 1;  // of the padded input they need
};

/// One thread's part of the padded input and the places of its output pixels. Elements are code - zero point, or codes
/// as they are (uint8_t; `zero` is then what padding holds).
template <class Element>
class StripInput {
 public:
  explicit StripInput(const Strips& strips)
      : s_(strips), values_(static_cast<size_t>(strips.elements())), pixels_(static_cast<size_t>(strips.pixels())) {
    std::fill(values_.end() - kernels::kSlack, values_.end(), Element{0});
  }

  template <class Code>
  void load(int64_t strip, const Code* x, int32_t zero_point) {
    const ConvGeometry& g = s_.g;
    const Place p = place(strip);
    const int64_t line = s_.padded_w() * g.in_c;
    for (int64_t n = p.n0; n < p.n1; ++n) {
      Element* image = values_.data() + (n - p.n0) * s_.in_rows * line;
      for (int64_t r = 0; r < s_.in_rows; ++r) {
        if (g.kernel_h == 1 && r % g.stride_h != 0) continue;  // read by no output
        load_line(x, n, p.y0 * g.stride_h + r - g.pad_top, zero_point, image + r * line);
      }
      add_pixels(image, p.y1 - p.y0, line);
    }
  }

  /// The strip's pixels where they lie, of an input without padding.
  void refer(int64_t strip, const Element* x) {
    const ConvGeometry& g = s_.g;
    const Place p = place(strip);
    const int64_t line = g.in_w * g.in_c;
    for (int64_t n = p.n0; n < p.n1; ++n) {
      add_pixels(x + (n * g.in_h + p.y0 * g.stride_h) * line, p.y1 - p.y0, line);
    }
  }

  const Element* const* pixels() const { return pixels_.data(); }
  int64_t pixel_count() const { return pixel_count_; }
  int64_t first_pixel() const { return first_pixel_; }

 private:
  struct Place {
    int64_t n0, n1, y0, y1;  // images, rows of the output
  };

  Place place(int64_t strip) {
    const ConvGeometry& g = s_.g;
    const int64_t n0 = strip / s_.strips_per_image() * s_.images, y0 = strip % s_.strips_per_image() * s_.rows;
    pixel_count_ = 0;
    first_pixel_ = (n0 * g.out_h() + y0) * g.out_w();
    return {n0, std::min(g.batch, n0 + s_.images), y0, std::min(g.out_h(), y0 + s_.rows)};
  }

  void add_pixels(const Element* image, int64_t rows, int64_t line) {
    const ConvGeometry& g = s_.g;
    const int64_t step = g.stride_w * g.in_c;
    for (int64_t y = 0; y < rows; ++y) {
      const Element* pixel = image + y * g.stride_h * line;
      for (int64_t col = 0; col < g.out_w(); ++col, pixel += step) pixels_[pixel_count_++] = pixel;
    }
  }

  template <class Code>
  void load_line(const Code* x, int64_t n, int64_t row, int32_t zero_point, Element* out) const {
    const ConvGeometry& g = s_.g;
    // Raw codes are padded with the zero point's code.
    const Element pad = std::is_same_v<Element, uint8_t>
                            ? static_cast<Element>(zero_point - (std::is_signed_v<Code> ? -128 : 0))
                            : Element{0};
    if (row < 0 || row >= g.in_h) {
      std::fill(out, out + s_.padded_w() * g.in_c, pad);
      return;
    }
    const int64_t width = g.in_w * g.in_c;
    out = std::fill_n(out, g.pad_left * g.in_c, pad);
    kernels::widen(x + (n * g.in_h + row) * width, width, zero_point, out);
    std::fill_n(out + width, g.pad_right * g.in_c, pad);
  }

  const Strips& s_;
  ScratchVector<Element> values_;
  ScratchVector<const Element*> pixels_;
  int64_t pixel_count_ = 0;
  int64_t first_pixel_ = 0;
};

/// Calls multiply(input, strip, part) for every strip and each of `parts` parts of its outputs, on all threads;
/// load(input, strip) fills the input.
template <class Element, class Load, class Multiply>
void for_strips(const Strips& strips, int64_t parts, const Load& load, const Multiply& multiply) {
  const int64_t tasks = strips.count() * parts;
  const bool parallel = strips.g.rows() * strips.g.out_c * strips.g.depth() >= kParallelProducts;
  const int threads = parallel ? static_cast<int>(std::min<int64_t>(omp_get_max_threads(), tasks)) : 1;
  ScratchVector<StripInput<Element>> inputs;
  inputs.reserve(static_cast<size_t>(threads));
  for (int t = 0; t < threads; ++t) inputs.emplace_back(strips);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    StripInput<Element>& input = inputs[static_cast<size_t>(omp_get_thread_num())];
    load(input, task / parts);
    multiply(input, task % parts);
  }
}

}  // namespace qat::ops
