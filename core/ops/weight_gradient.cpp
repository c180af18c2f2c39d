#include <omp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "core/base/error.h"
#include "core/ops/convolve_gradient.h"
#include "core/ops/gradient_kernels.h"
#include "core/ops/scratch.h"
#include "core/ops/strips.h"
#include "core/ops/winograd.h"

namespace qat::ops {
namespace {

using kernels::Column;
using kernels::kQuad;

/// Pixels whose products are summed in registers before they are added to the sums in memory.
constexpr int64_t kTilePixels = 160;

/// A rectangle of output pixels: whole images, or rows of one, or (where there is no map) a run of pixels.
struct Tile {
  int64_t image = 0, images = 1, y = 0, rows = 1, x = 0, cols = 1;
  int64_t pixels() const { return images * rows * cols; }
};

/// The tiles of images [first, last), in order.
std::vector<Tile> tiles_of(const ConvGeometry& g, int64_t first, int64_t last) {
  std::vector<Tile> tiles;
  const int64_t map = g.out_h() * g.out_w();
  if (2 * map <= kTilePixels) {
    const int64_t images = std::max<int64_t>(1, (kTilePixels + map / 2) / map);
    for (int64_t n = first; n < last; n += images) {
      tiles.push_back({.image = n, .images = std::min(images, last - n), .rows = g.out_h(), .cols = g.out_w()});
    }
    return tiles;
  }
  // Rows may be long where the map has been flattened to one row.
  const int64_t cols = std::min(g.out_w(), kTilePixels), rows = std::max<int64_t>(1, kTilePixels / g.out_w());
  for (int64_t n = first; n < last; ++n) {
    for (int64_t y = 0; y < g.out_h(); y += rows) {
      for (int64_t x = 0; x < g.out_w(); x += cols) {
        tiles.push_back(
            {.image = n, .y = y, .rows = std::min(rows, g.out_h() - y), .x = x, .cols = std::min(cols, g.out_w() - x)});
      }
    }
  }
  return tiles;
}

/// One thread's converted input of a tile, padded; vectors of channels apart where the channels fill them.
template <class Code>
class TileInput {
 public:
  TileInput(const ConvGeometry& g, const Code* x, int32_t zero_point)
      : g_(g), x_(x), zero_point_(zero_point), lanes_(kernels::gradient_lanes()), blocked_(g.in_c % lanes_ == 0) {}

  void load(const Tile& t) {
    rows_ = (t.rows - 1) * g_.stride_h + g_.dilation_h * (g_.kernel_h - 1) + 1;
    cols_ = (t.cols - 1) * g_.stride_w + g_.dilation_w * (g_.kernel_w - 1) + 1;
    image_pixels_ = rows_ * cols_;
    // 16 floats apart: blocks a power of two apart would share the lines of the first cache.
    block_stride_ = t.images * image_pixels_ * lanes_ + 16;
    const int64_t size = blocked_ ? g_.in_c / lanes_ * block_stride_ : t.images * image_pixels_ * g_.in_c;
    values_.resize(static_cast<size_t>(size + kernels::kSlack));
    for (int64_t i = 0; i < t.images; ++i) {
      for (int64_t r = 0; r < rows_; ++r) {
        load_row((i * rows_ + r) * cols_, t.image + i, t.y * g_.stride_h + r - g_.pad_top,
                 t.x * g_.stride_w - g_.pad_left);
      }
    }
  }

  void describe(kernels::WeightTile& t) const {
    const int64_t step = blocked_ ? lanes_ : g_.in_c;
    t.x = values_.data();
    t.image_step = image_pixels_ * step;
    t.row_step = g_.stride_h * cols_ * step;
    t.pixel_step = g_.stride_w * step;
  }

  /// Of one output channel's weights [kh][kw][ci].
  void list_columns(std::vector<Column>& columns) const {
    columns.clear();
    const auto at = [&](int64_t kh, int64_t kw) { return kh * g_.dilation_h * cols_ + kw * g_.dilation_w; };
    if (blocked_) {
      for (int64_t b = 0; b < g_.in_c / lanes_; ++b) {
        for (int64_t k = 0; k < g_.kernel_h * g_.kernel_w; ++k) {
          const int64_t pixel = at(k / g_.kernel_w, k % g_.kernel_w);
          columns.push_back({b * block_stride_ + pixel * lanes_, k * g_.in_c + b * lanes_, lanes_});
        }
      }
      return;
    }
    // The taps of a kernel row lie side by side.
    const bool whole_rows = g_.dilation_w == 1;
    const int64_t length = whole_rows ? g_.kernel_w * g_.in_c : g_.in_c;
    for (int64_t kh = 0; kh < g_.kernel_h; ++kh) {
      for (int64_t kw = 0; kw < (whole_rows ? 1 : g_.kernel_w); ++kw) {
        for (int64_t c = 0; c < length; c += lanes_) {
          columns.push_back(
              {at(kh, kw) * g_.in_c + c, (kh * g_.kernel_w + kw) * g_.in_c + c, std::min(lanes_, length - c)});
        }
      }
    }
  }

 private:
  void load_row(int64_t pixel, int64_t image, int64_t row, int64_t col) {
    const int64_t left = std::clamp<int64_t>(-col, 0, cols_), right = std::clamp<int64_t>(g_.in_w - col, left, cols_);
    if (row < 0 || row >= g_.in_h) {
      clear(pixel, cols_);
      return;
    }
    clear(pixel, left);
    clear(pixel + right, cols_ - right);
    if (right == left) return;
    const Code* from = x_ + ((image * g_.in_h + row) * g_.in_w + col + left) * g_.in_c;
    if (blocked_) {
      kernels::spread(from, right - left, g_.in_c, zero_point_, block_stride_,
                      values_.data() + (pixel + left) * lanes_);
    } else {
      kernels::widen(from, (right - left) * g_.in_c, zero_point_, values_.data() + (pixel + left) * g_.in_c);
    }
  }

  void clear(int64_t pixel, int64_t count) {
    if (!blocked_) {
      std::fill_n(values_.begin() + pixel * g_.in_c, count * g_.in_c, 0.0f);
      return;
    }
    for (int64_t b = 0; b < g_.in_c / lanes_; ++b) {
      std::fill_n(values_.begin() + b * block_stride_ + pixel * lanes_, count * lanes_, 0.0f);
    }
  }

  const ConvGeometry& g_;
  const Code* x_;
  int32_t zero_point_;
  int64_t lanes_;
  bool blocked_;
  int64_t rows_ = 0, cols_ = 0, image_pixels_ = 0, block_stride_ = 0;
  ScratchVector<float> values_;
};

/// The sums over images [first, last), times factor where that is not null, in rows [channel, channel + channels) of
/// dw.
template <class Code>
void add_images(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad, int64_t first,
                int64_t last, int64_t channel, int64_t channels, const float* factor, float* dw) {
  TileInput<Code> input(g, x, zero_point);
  ScratchVector<float> packed;
  std::vector<Column> columns;
  const std::vector<Tile> tiles = tiles_of(g, first, last);
  for (const Tile& t : tiles) {
    input.load(t);
    input.list_columns(columns);
    packed.resize(static_cast<size_t>(divide_up(channels, kQuad) * kQuad * t.pixels()));
    const int64_t row = ((t.image * g.out_h() + t.y) * g.out_w() + t.x);
    kernels::pack_quads(grad + row * g.out_c + channel, t.pixels(), g.out_c, channels, packed.data());
    kernels::WeightTile tile{.images = t.images, .rows = t.rows, .cols = t.cols};
    input.describe(tile);
    tile.columns = columns.data();
    tile.column_count = static_cast<int64_t>(columns.size());
    tile.g = packed.data();
    tile.channels = channels;
    tile.dw = dw + channel * g.depth();
    tile.dw_stride = g.depth();
    tile.first = &t == &tiles.front();
    tile.factor = &t == &tiles.back() && factor != nullptr ? factor + channel : nullptr;
    kernels::add_weight_tile(tile);
  }
}

/// Sums [taps][channels] over images [first, last).
template <class Code>
void add_depthwise_images(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad, int64_t first,
                          int64_t last, float* sums) {
  // The padded rows under one row of the output: row r in place r % height.
  const int64_t line = (g.in_w + g.pad_left + g.pad_right) * g.in_c, left = g.pad_left * g.in_c,
                inner = g.in_w * g.in_c, height = g.dilation_h * (g.kernel_h - 1) + 1;
  ScratchVector<float> rows(static_cast<size_t>(height * line + kernels::kSlack));
  std::vector<int64_t> offset(static_cast<size_t>(g.kernel_h * g.kernel_w));
  for (int64_t n = first; n < last; ++n) {
    int64_t loaded = 0;
    for (int64_t y = 0; y < g.out_h(); ++y) {
      const int64_t top = y * g.stride_h;
      for (loaded = std::max(loaded, top); loaded < top + height; ++loaded) {
        float* row = rows.data() + loaded % height * line;
        const int64_t from = loaded - g.pad_top;
        if (from < 0 || from >= g.in_h) {
          std::fill_n(row, line, 0.0f);
          continue;
        }
        std::fill_n(row, left, 0.0f);
        kernels::widen(x + (n * g.in_h + from) * inner, inner, zero_point, row + left);
        std::fill_n(row + left + inner, line - left - inner, 0.0f);
      }
      for (int64_t k = 0; k < g.kernel_h * g.kernel_w; ++k) {
        const int64_t row = (top + k / g.kernel_w * g.dilation_h) % height;
        offset[k] = row * line + k % g.kernel_w * g.dilation_w * g.in_c;
      }
      kernels::add_depthwise_row({.x = rows.data(),
                                  .g = grad + (n * g.out_h() + y) * g.out_w() * g.out_c,
                                  .cols = g.out_w(),
                                  .step = g.stride_w * g.in_c,
                                  .channels = g.in_c,
                                  .tap_offset = offset.data(),
                                  .taps = g.kernel_h * g.kernel_w,
                                  .sums = sums});
    }
  }
}

}  // namespace

template <class Code>
void weight_gradient(const ConvGeometry& geometry, const Code* x, int32_t zero_point, const float* grad,
                     const float* factor, float* dw) {
  QAT_CHECK(has_gradients(geometry), "weight_gradient: {} groups of {} inputs and {} outputs have no kernel",
            geometry.groups, geometry.in_c, geometry.out_c);
  if (winograd::serves(geometry)) {
    winograd::weight_gradient(geometry, x, zero_point, grad, factor, dw);
    return;
  }
  ConvGeometry g = geometry;
  if (is_pointwise(g)) {
    g.in_w *= g.batch * g.in_h;
    g.in_h = g.batch = 1;
  }
  const bool depthwise = g.groups > 1;
  const int64_t size = g.out_c * g.depth();
  // Parts of the images are summed apart where the sums are small; their number does not depend on the threads.
  const bool flat = is_pointwise(g) && g.batch == 1;
  const int64_t images = flat ? divide_up(g.in_w, kTilePixels) : g.batch;
  const int64_t parts = size <= (1 << 16) ? std::clamp<int64_t>(images, 1, 4) : 1;
  // The output channels may be cut at will.
  const int64_t ranges = depthwise ? 1
                                   : std::clamp<int64_t>(divide_up(omp_get_max_threads(), parts), 1,
                                                         divide_up(g.out_c, 2 * kernels::kBlock));
  const int64_t range = divide_up(divide_up(g.out_c, ranges), kernels::kBlock) * kernels::kBlock;
  if (images == 0) {
    std::fill_n(dw, size, 0.0f);
    return;
  }
  const bool direct = parts == 1 && !depthwise;  // into dw
  std::vector<float> sums(direct ? 0 : static_cast<size_t>(parts * size), 0.0f);
#pragma omp parallel for schedule(dynamic) if (g.rows() * g.out_c * g.depth() >= kParallelProducts)
  for (int64_t task = 0; task < parts * ranges; ++task) {
    const int64_t part = task / ranges, channel = task % ranges * range;
    const int64_t first = images * part / parts, last = images * (part + 1) / parts;
    float* into = direct ? dw : sums.data() + part * size;
    const float* times = direct ? factor : nullptr;
    if (depthwise) {
      add_depthwise_images(g, x, zero_point, grad, first, last, into);
    } else if (channel < g.out_c) {
      const int64_t channels = std::min(range, g.out_c - channel);
      if (flat) {
        ConvGeometry run = g;
        const int64_t begin = first * kTilePixels;
        run.in_w = std::min(g.in_w, last * kTilePixels) - begin;
        add_images(run, x + begin * g.in_c, zero_point, grad + begin * g.out_c, 0, 1, channel, channels, times, into);
      } else {
        add_images(g, x, zero_point, grad, first, last, channel, channels, times, into);
      }
    }
  }
  if (direct) return;
  const int64_t taps = g.kernel_h * g.kernel_w;
#pragma omp parallel for if (size * parts >= kParallelProducts)
  for (int64_t c = 0; c < g.out_c; ++c) {
    for (int64_t k = 0; k < g.depth(); ++k) {
      const int64_t at = depthwise ? k % taps * g.out_c + c : c * g.depth() + k;
      float sum = sums[at];
      for (int64_t p = 1; p < parts; ++p) sum += sums[p * size + at];
      dw[c * g.depth() + k] = sum * factor[c];
    }
  }
}

template void weight_gradient<uint8_t>(const ConvGeometry&, const uint8_t*, int32_t, const float*, const float*,
                                       float*);
template void weight_gradient<int8_t>(const ConvGeometry&, const int8_t*, int32_t, const float*, const float*, float*);

}  // namespace qat::ops
