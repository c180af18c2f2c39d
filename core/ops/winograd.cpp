#include "core/ops/winograd.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "core/ops/gradient_kernels.h"
#include "core/ops/scratch.h"
#include "core/ops/strips.h"
#include "core/ops/winograd_kernels.h"

namespace qat::ops::winograd {
namespace {

using kernels::Column;
using kernels::kBlock;
using kernels::kFrequencies;
using kernels::kQuad;

/// With fewer channels or tiles the transforms cost what the saved products would.
constexpr int64_t kFewChannels = 32, kFewTiles = 32;
/// Where all 16 planes of the weights would leave the second cache, few tiles are transformed at once, and then the
/// weights by blocks of channels.
constexpr int64_t kTilesAtOnce = 128, kWeightsInCache = 1 << 14;

}  // namespace

bool serves(const ConvGeometry& g) {
  return std::min(g.in_c, g.out_c) >= kFewChannels && g.kernel_h == 3 && g.kernel_w == 3 && g.stride_h == 1 &&
         g.stride_w == 1 && g.dilation_h == 1 && g.dilation_w == 1 && g.groups == 1 && g.pad_top == 1 &&
         g.pad_left == 1 && g.pad_bottom == 1 && g.pad_right == 1 && g.in_c % kBlock == 0 && g.out_c % kBlock == 0 &&
         g.batch * divide_up(g.in_h, 2) * divide_up(g.in_w, 2) >= kFewTiles;
}

namespace {

/// Some rows of tiles of one image, or some whole images: what is transformed at once.
struct Batch {
  int64_t image = 0, images = 1, row = 0, rows = 1;  // rows of tiles
};

/// How a map is cut into tiles of 2x2 outputs, and into batches.
struct Tiling {
  explicit Tiling(const ConvGeometry& g) : rows(divide_up(g.in_h, 2)), cols(divide_up(g.in_w, 2)) {
    const int64_t channels = std::max(g.in_c, g.out_c);
    const int64_t tiles = channels <= 64 ? 3072 / channels : 64;  // the transformed values stay in the second cache
    if (rows * cols <= tiles) {
      images = std::max<int64_t>(1, tiles / (rows * cols));
      batch_rows = rows;
    } else {
      batch_rows = std::clamp<int64_t>(tiles / cols, 1, rows);
      batch_rows = divide_up(rows, divide_up(rows, batch_rows));
    }
  }

  /// All images as one batch.
  static Tiling whole(const ConvGeometry& g) {
    Tiling all(g);
    all.images = g.batch;
    all.batch_rows = all.rows;
    return all;
  }

  int64_t most_tiles() const { return images * batch_rows * cols; }

  /// The batches of images [first, last), in order.
  std::vector<Batch> batches(int64_t first, int64_t last) const {
    std::vector<Batch> all;
    for (int64_t n = first; n < last; n += images) {
      for (int64_t row = 0; row < rows; row += batch_rows) {
        all.push_back({n, std::min(images, last - n), row, std::min(batch_rows, rows - row)});
      }
    }
    return all;
  }

  int64_t rows, cols;
  int64_t images = 1, batch_rows = 1;  // of a batch
};

void copy(const float* from, int64_t n, int32_t, float* to) { std::copy_n(from, n, to); }
template <class Code>
void copy(const Code* from, int64_t n, int32_t zero_point, float* to) {
  kernels::widen(from, n, zero_point, to);
}

/// One thread's transformed map: the pixels of a batch with zeros around them, and B^T d B of all tiles.
class Data {
 public:
  /// blocked: the channels in vectors that are apart, as the sums over tiles read them; otherwise side by side.
  Data(const Tiling& tiling, int64_t height, int64_t width, int64_t channels, bool blocked)
      : tiling_(tiling), height_(height), width_(width), channels_(channels) {
    const int64_t tiles = tiling.most_tiles(), lanes = kernels::gradient_lanes();
    pixels_.resize(static_cast<size_t>((2 * tiling.batch_rows + 2) * line() + kernels::kSlack));
    // A little apart, so that planes, rows and blocks do not share the lines of the first cache.
    planes_.tile_step = blocked ? lanes : channels + 16;
    planes_.block_step = blocked ? tiles * lanes + 16 : lanes;
    planes_.plane = blocked ? channels / lanes * planes_.block_step : tiles * planes_.tile_step;
    planes_.plane += 16;
    values_.resize(static_cast<size_t>(kFrequencies * planes_.plane));
    planes_.values = values_.data();
  }

  template <class T>
  void transform(const Batch& b, const T* map, int32_t zero_point) {
    int64_t tile = 0;
    for (int64_t n = b.image; n < b.image + b.images; ++n) {
      load(n, b, map, zero_point);
      for (int64_t r = 0; r < b.rows; ++r, tile += tiling_.cols) {
        kernels::transform_data(pixels_.data() + 2 * r * line(), line(), tiling_.cols, channels_, tile, planes_);
      }
    }
  }

  const kernels::Planes& planes() const { return planes_; }

 private:
  int64_t line() const { return (2 * tiling_.cols + 2) * channels_; }

  template <class T>
  void load(int64_t image, const Batch& b, const T* map, int32_t zero_point) {
    for (int64_t r = 0; r < 2 * b.rows + 2; ++r) {
      float* to = pixels_.data() + r * line();
      const int64_t row = 2 * b.row + r - 1;
      if (row < 0 || row >= height_) {
        std::fill_n(to, line(), 0.0f);
        continue;
      }
      const int64_t size = width_ * channels_;
      std::fill_n(to, channels_, 0.0f);
      copy(map + (image * height_ + row) * size, size, zero_point, to + channels_);
      std::fill(to + channels_ + size, to + line(), 0.0f);
    }
  }

  const Tiling& tiling_;
  int64_t height_, width_, channels_;
  std::vector<float> pixels_;
  ScratchVector<float> values_;
  kernels::Planes planes_;
};

/// Calls use(tile, pixels) with the places of the 2x2 pixels of every tile of a batch in a map of `channels`; those
/// outside are `outside`.
template <class T, class Use>
void for_tiles(const Tiling& tiling, const Batch& b, int64_t height, int64_t width, int64_t channels, T* map,
               T* outside, const Use& use) {
  int64_t tile = 0;
  for (int64_t n = b.image; n < b.image + b.images; ++n) {
    for (int64_t r = b.row; r < b.row + b.rows; ++r) {
      for (int64_t c = 0; c < tiling.cols; ++c, ++tile) {
        T* first = map + ((n * height + 2 * r) * width + 2 * c) * channels;
        const bool right = 2 * c + 1 < width, below = 2 * r + 1 < height;
        T* const pixels[4] = {first, right ? first + channels : outside, below ? first + width * channels : outside,
                              right && below ? first + (width + 1) * channels : outside};
        use(tile, pixels);
      }
    }
  }
}

}  // namespace

namespace {

bool goes_by_blocks(const ConvGeometry& g) {
  return g.in_c * g.out_c > kWeightsInCache &&
         g.batch * divide_up(g.in_h, 2) * divide_up(g.in_w, 2) <= kTilesAtOnce;
}

/// Of kBlock input channels at a time.
void input_gradient_by_blocks(const ConvGeometry& g, const float* grad, const int8_t* w, const float* scale,
                              float* dx) {
  const Tiling tiling = Tiling::whole(g);
  const Batch all{.images = g.batch, .rows = tiling.rows};
  const int64_t tiles = tiling.most_tiles(), plane = g.out_c * kBlock, row = kBlock, out_plane = tiles * row + kBlock;
  Data data(tiling, g.in_h, g.in_w, g.out_c, false);
  data.transform(all, grad, 0);
  const kernels::Planes& in = data.planes();
#pragma omp parallel
  {
    ScratchVector<float> weights(static_cast<size_t>(kFrequencies * plane));
    ScratchVector<float> products(static_cast<size_t>(kFrequencies * out_plane));
    std::vector<float> outside(static_cast<size_t>(kBlock));
    std::vector<const float*> from(static_cast<size_t>(tiles));
    std::vector<float*> to(from.size());
    const int64_t offset = 0;
#pragma omp for schedule(static)
    for (int64_t c = 0; c < g.in_c; c += kBlock) {
      for (int64_t co = 0; co < g.out_c; ++co) {
        kernels::transform_weights(w + co * 9 * g.in_c + c, scale[co], g.in_c, kBlock, plane, plane,
                                   weights.data() + co * kBlock);
      }
      for (int64_t f = 0; f < kFrequencies; ++f) {
        for (int64_t t = 0; t < tiles; ++t) {
          from[t] = in.values + f * in.plane + t * in.tile_step;
          to[t] = products.data() + f * out_plane + t * row;
        }
        kernels::multiply_inputs({.pixels = from.data(),
                                  .pixel_count = tiles,
                                  .tap_offset = &offset,
                                  .taps = 1,
                                  .depth = g.out_c,
                                  .weights = weights.data() + f * plane,
                                  .channels = kBlock,
                                  .out = to.data()});
      }
      for_tiles(tiling, all, g.in_h, g.in_w, g.in_c, dx + c, outside.data(), [&](int64_t tile, float* const* pixels) {
        kernels::restore_data(products.data() + tile * row, out_plane, kBlock, pixels);
      });
    }
  }
}

/// Of kBlock output channels at a time.
template <class Code>
void weight_gradient_by_blocks(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad,
                               const float* factor, float* dw) {
  const Tiling tiling = Tiling::whole(g);
  const Batch all{.images = g.batch, .rows = tiling.rows};
  const int64_t tiles = tiling.most_tiles(), plane = kBlock * g.in_c, out_plane = tiles * kBlock + kBlock;
  Data data(tiling, g.in_h, g.in_w, g.in_c, true);
  data.transform(all, x, zero_point);
  const kernels::Planes& in = data.planes();
  const int64_t lanes = kernels::gradient_lanes();
  std::vector<Column> columns;
  for (int64_t b = 0; b < g.in_c / lanes; ++b) columns.push_back({b * in.block_step, b * lanes, lanes});
#pragma omp parallel
  {
    ScratchVector<float> sums(static_cast<size_t>(kFrequencies * plane));
    ScratchVector<float> outputs(static_cast<size_t>(kFrequencies * out_plane));
    const std::vector<float> outside(static_cast<size_t>(kBlock), 0.0f);
#pragma omp for schedule(static)
    for (int64_t channel = 0; channel < g.out_c; channel += kBlock) {
      for_tiles(tiling, all, g.in_h, g.in_w, g.out_c, grad + channel, outside.data(),
                [&](int64_t tile, const float* const* pixels) {
                  kernels::transform_outputs(pixels, kBlock, tiles, tile, out_plane, outputs.data());
                });
      for (int64_t f = 0; f < kFrequencies; ++f) {
        kernels::add_weight_tile({.x = in.values + f * in.plane,
                                  .cols = tiles,
                                  .pixel_step = in.tile_step,
                                  .columns = columns.data(),
                                  .column_count = static_cast<int64_t>(columns.size()),
                                  .g = outputs.data() + f * out_plane,
                                  .channels = kBlock,
                                  .dw = sums.data() + f * plane,
                                  .dw_stride = g.in_c,
                                  .first = true});
      }
      for (int64_t c = 0; c < kBlock; ++c) {
        kernels::restore_weights(sums.data() + c * g.in_c, plane, g.in_c, factor[channel + c],
                                 dw + (channel + c) * 9 * g.in_c);
      }
    }
  }
}

}  // namespace

void input_gradient(const ConvGeometry& g, const float* grad, const int8_t* w, const float* scale, float* dx) {
  if (goes_by_blocks(g)) return input_gradient_by_blocks(g, grad, w, scale, dx);
  const Tiling tiling(g);
  const int64_t blocks = g.in_c / kBlock, block_size = g.out_c * kBlock, plane = blocks * block_size;
  const auto weights = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(kFrequencies * plane));
#pragma omp parallel for if (plane >= (1 << 14))
  for (int64_t co = 0; co < g.out_c; ++co) {
    kernels::transform_weights(w + co * 9 * g.in_c, scale[co], g.in_c, g.in_c, plane, block_size,
                               weights.get() + co * kBlock);
  }
  const std::vector<Batch> batches = tiling.batches(0, g.batch);
#pragma omp parallel if (g.rows() * g.out_c * g.depth() >= kParallelProducts)
  {
    Data data(tiling, g.in_h, g.in_w, g.out_c, false);
    const kernels::Planes& in = data.planes();
    const int64_t row = g.in_c + 16, out_plane = tiling.most_tiles() * row + 16;
    ScratchVector<float> products(static_cast<size_t>(kFrequencies * out_plane));
    std::vector<float> outside(static_cast<size_t>(g.in_c));
    std::vector<const float*> from(static_cast<size_t>(tiling.most_tiles()));
    std::vector<float*> to(from.size());
    const int64_t offset = 0;
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < batches.size(); ++i) {
      const Batch& b = batches[i];
      const int64_t tiles = b.images * b.rows * tiling.cols;
      data.transform(b, grad, 0);
      for (int64_t f = 0; f < kFrequencies; ++f) {
        for (int64_t t = 0; t < tiles; ++t) {
          from[t] = in.values + f * in.plane + t * in.tile_step;
          to[t] = products.data() + f * out_plane + t * row;
        }
        kernels::multiply_inputs({.pixels = from.data(),
                                  .pixel_count = tiles,
                                  .tap_offset = &offset,
                                  .taps = 1,
                                  .depth = g.out_c,
                                  .weights = weights.get() + f * plane,
                                  .channels = g.in_c,
                                  .out = to.data()});
      }
      for_tiles(tiling, b, g.in_h, g.in_w, g.in_c, dx, outside.data(), [&](int64_t tile, float* const* pixels) {
        kernels::restore_data(products.data() + tile * row, out_plane, g.in_c, pixels);
      });
    }
  }
}

template <class Code>
void weight_gradient(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad, const float* factor,
                     float* dw) {
  if (goes_by_blocks(g)) return weight_gradient_by_blocks(g, x, zero_point, grad, factor, dw);
  const Tiling tiling(g);
  const int64_t lanes = kernels::gradient_lanes(), plane = g.out_c * g.in_c, size = kFrequencies * plane;
  // Parts of the images are summed apart where the sums are small; their number does not depend on the threads.
  const int64_t parts = size <= (1 << 17) ? std::clamp<int64_t>(divide_up(g.batch, tiling.images), 1, 4) : 1;
  // The output channels may be cut at will.
  const int64_t ranges =
      std::clamp<int64_t>(divide_up(omp_get_max_threads(), parts), 1, divide_up(g.out_c, 2 * kBlock));
  const int64_t range = divide_up(divide_up(g.out_c, ranges), kBlock) * kBlock;
  const auto sums = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(parts * size));
  const int64_t groups = divide_up(g.batch, tiling.images);
#pragma omp parallel for schedule(dynamic) if (g.rows() * g.out_c * g.depth() >= kParallelProducts)
  for (int64_t task = 0; task < parts * ranges; ++task) {
    const int64_t part = task / ranges, channel = task % ranges * range;
    const int64_t channels = std::min(range, g.out_c - channel);
    if (channels <= 0) continue;
    Data data(tiling, g.in_h, g.in_w, g.in_c, true);
    const kernels::Planes& in = data.planes();
    std::vector<Column> columns;
    for (int64_t b = 0; b < g.in_c / lanes; ++b) columns.push_back({b * in.block_step, b * lanes, lanes});
    const int64_t out_plane = tiling.most_tiles() * channels + 16;
    ScratchVector<float> outputs(static_cast<size_t>(kFrequencies * out_plane));
    const std::vector<float> outside(static_cast<size_t>(g.out_c), 0.0f);
    const int64_t first = groups * part / parts * tiling.images;
    const int64_t last = std::min(g.batch, groups * (part + 1) / parts * tiling.images);
    const std::vector<Batch> batches = tiling.batches(first, last);
    for (const Batch& b : batches) {
      const int64_t tiles = b.images * b.rows * tiling.cols;
      data.transform(b, x, zero_point);
      for_tiles(tiling, b, g.in_h, g.in_w, g.out_c, grad + channel, outside.data(),
                [&](int64_t tile, const float* const* pixels) {
                  kernels::transform_outputs(pixels, channels, tiles, tile, out_plane, outputs.data());
                });
      for (int64_t f = 0; f < kFrequencies; ++f) {
        kernels::add_weight_tile({.x = in.values + f * in.plane,
                                  .cols = tiles,
                                  .pixel_step = in.tile_step,
                                  .columns = columns.data(),
                                  .column_count = static_cast<int64_t>(columns.size()),
                                  .g = outputs.data() + f * out_plane,
                                  .channels = channels,
                                  .dw = sums.get() + part * size + f * plane + channel * g.in_c,
                                  .dw_stride = g.in_c,
                                  .first = &b == &batches.front()});
      }
    }
  }
#pragma omp parallel for if (size * parts >= kParallelProducts)
  for (int64_t c = 0; c < g.out_c; ++c) {
    for (int64_t f = 0; f < kFrequencies; ++f) {
      float* sum = sums.get() + f * plane + c * g.in_c;
      for (int64_t p = 1; p < parts; ++p) {
        for (int64_t i = 0; i < g.in_c; ++i) sum[i] += sum[p * size + i];
      }
    }
    kernels::restore_weights(sums.get() + c * g.in_c, plane, g.in_c, factor[c], dw + c * 9 * g.in_c);
  }
}

template void weight_gradient<uint8_t>(const ConvGeometry&, const uint8_t*, int32_t, const float*, const float*,
                                       float*);
template void weight_gradient<int8_t>(const ConvGeometry&, const int8_t*, int32_t, const float*, const float*, float*);

}  // namespace qat::ops::winograd
