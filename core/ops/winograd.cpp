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

/// The transformed gradient of some tiles times the transformed weights of some input channels.
class Products {
 public:
  Products(const ConvGeometry& g, int64_t most_tiles, int64_t channels)
      : depth_(g.out_c),
        channels_(channels),
        row_(channels + kBlock),  // a little apart, as the planes
        plane_(most_tiles * row_ + kBlock),
        values_(static_cast<size_t>(kFrequencies * plane_)),
        from_(static_cast<size_t>(most_tiles)),
        to_(from_.size()) {}

  /// weights: of each frequency, `weight_plane` apart.
  void multiply(const kernels::Planes& in, int64_t tiles, const float* weights, int64_t weight_plane) {
    const int64_t offset = 0;
    for (int64_t f = 0; f < kFrequencies; ++f) {
      for (int64_t t = 0; t < tiles; ++t) {
        from_[t] = in.values + f * in.plane + t * in.tile_step;
        to_[t] = values_.data() + f * plane_ + t * row_;
      }
      kernels::multiply_inputs({.pixels = from_.data(),
                                .pixel_count = tiles,
                                .tap_offset = &offset,
                                .taps = 1,
                                .depth = depth_,
                                .weights = weights + f * weight_plane,
                                .channels = channels_,
                                .out = to_.data()});
    }
  }

  void restore(int64_t tile, float* const* pixels) const {
    kernels::restore_data(values_.data() + tile * row_, plane_, channels_, pixels);
  }

 private:
  int64_t depth_, channels_, row_, plane_;
  ScratchVector<float> values_;
  std::vector<const float*> from_;
  std::vector<float*> to_;
};

/// The columns of all input channels, of a map transformed for sums over tiles.
std::vector<Column> columns_of(const ConvGeometry& g, const kernels::Planes& in) {
  const int64_t lanes = kernels::gradient_lanes();
  std::vector<Column> columns;
  for (int64_t b = 0; b < g.in_c / lanes; ++b) columns.push_back({b * in.block_step, b * lanes, lanes});
  return columns;
}

/// The transformed gradient of some output channels, and its products with a transformed map.
class TileSums {
 public:
  TileSums(const ConvGeometry& g, const Tiling& tiling, const kernels::Planes& in, int64_t channels)
      : g_(g),
        tiling_(tiling),
        in_(in),
        columns_(columns_of(g, in)),
        channels_(channels),
        plane_(tiling.most_tiles() * channels + kBlock),
        outputs_(static_cast<size_t>(kFrequencies * plane_)),
        outside_(static_cast<size_t>(channels), 0.0f) {}

  /// Adds the sums over the tiles of a batch, or begins with them: [frequencies][channels][in_c], frequencies
  /// `sum_plane` apart. grad: from the first of the channels on.
  void add(const Batch& b, const float* grad, bool first, float* sums, int64_t sum_plane) {
    const int64_t tiles = b.images * b.rows * tiling_.cols;
    for_tiles(tiling_, b, g_.in_h, g_.in_w, g_.out_c, grad, outside_.data(),
              [&](int64_t tile, const float* const* pixels) {
                kernels::transform_outputs(pixels, channels_, tiles, tile, plane_, outputs_.data());
              });
    for (int64_t f = 0; f < kFrequencies; ++f) {
      kernels::add_weight_tile({.x = in_.values + f * in_.plane,
                                .cols = tiles,
                                .pixel_step = in_.tile_step,
                                .columns = columns_.data(),
                                .column_count = static_cast<int64_t>(columns_.size()),
                                .g = outputs_.data() + f * plane_,
                                .channels = channels_,
                                .dw = sums + f * sum_plane,
                                .dw_stride = g_.in_c,
                                .first = first});
    }
  }

 private:
  const ConvGeometry& g_;
  const Tiling& tiling_;
  const kernels::Planes& in_;
  std::vector<Column> columns_;
  int64_t channels_, plane_;
  ScratchVector<float> outputs_;
  const std::vector<float> outside_;
};

bool goes_by_blocks(const ConvGeometry& g) {
  return g.in_c * g.out_c > kWeightsInCache &&
         g.batch * divide_up(g.in_h, 2) * divide_up(g.in_w, 2) <= kTilesAtOnce;
}

/// Of kBlock input channels at a time.
void input_gradient_by_blocks(const ConvGeometry& g, const float* grad, const int8_t* w, const float* scale,
                              float* dx) {
  const Tiling tiling = Tiling::whole(g);
  const Batch all{.images = g.batch, .rows = tiling.rows};
  const int64_t plane = g.out_c * kBlock;
  Data data(tiling, g.in_h, g.in_w, g.out_c, false);
  data.transform(all, grad, 0);
#pragma omp parallel
  {
    ScratchVector<float> weights(static_cast<size_t>(kFrequencies * plane));
    Products products(g, tiling.most_tiles(), kBlock);
    std::vector<float> outside(static_cast<size_t>(kBlock));
#pragma omp for schedule(static)
    for (int64_t c = 0; c < g.in_c; c += kBlock) {
      for (int64_t co = 0; co < g.out_c; ++co) {
        kernels::transform_weights(w + co * 9 * g.in_c + c, scale[co], g.in_c, kBlock, plane, plane,
                                   weights.data() + co * kBlock);
      }
      products.multiply(data.planes(), tiling.most_tiles(), weights.data(), plane);
      for_tiles(tiling, all, g.in_h, g.in_w, g.in_c, dx + c, outside.data(),
                [&](int64_t tile, float* const* pixels) { products.restore(tile, pixels); });
    }
  }
}

/// Of kBlock output channels at a time.
template <class Code>
void weight_gradient_by_blocks(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad,
                               const float* factor, float* dw) {
  const Tiling tiling = Tiling::whole(g);
  const Batch all{.images = g.batch, .rows = tiling.rows};
  const int64_t plane = kBlock * g.in_c;
  Data data(tiling, g.in_h, g.in_w, g.in_c, true);
  data.transform(all, x, zero_point);
#pragma omp parallel
  {
    ScratchVector<float> sums(static_cast<size_t>(kFrequencies * plane));
    TileSums tile_sums(g, tiling, data.planes(), kBlock);
#pragma omp for schedule(static)
    for (int64_t channel = 0; channel < g.out_c; channel += kBlock) {
      tile_sums.add(all, grad + channel, /*first=*/true, sums.data(), plane);
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
    Products products(g, tiling.most_tiles(), g.in_c);
    std::vector<float> outside(static_cast<size_t>(g.in_c));
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < batches.size(); ++i) {
      const Batch& b = batches[i];
      data.transform(b, grad, 0);
      products.multiply(data.planes(), b.images * b.rows * tiling.cols, weights.get(), plane);
      for_tiles(tiling, b, g.in_h, g.in_w, g.in_c, dx, outside.data(),
                [&](int64_t tile, float* const* pixels) { products.restore(tile, pixels); });
    }
  }
}

template <class Code>
void weight_gradient(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad, const float* factor,
                     float* dw) {
  if (goes_by_blocks(g)) return weight_gradient_by_blocks(g, x, zero_point, grad, factor, dw);
  const Tiling tiling(g);
  const int64_t plane = g.out_c * g.in_c, size = kFrequencies * plane;
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
    TileSums tile_sums(g, tiling, data.planes(), channels);
    const int64_t first = groups * part / parts * tiling.images;
    const int64_t last = std::min(g.batch, groups * (part + 1) / parts * tiling.images);
    const std::vector<Batch> batches = tiling.batches(first, last);
    for (const Batch& b : batches) {
      data.transform(b, x, zero_point);
      tile_sums.add(b, grad + channel, &b == &batches.front(), sums.get() + part * size + channel * g.in_c, plane);
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
