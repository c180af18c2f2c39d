#include <algorithm>

#include "core/ops/cuda/block.cuh"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/pool.h"
#include "core/ops/cuda/windows.cuh"

namespace qat::ops::cuda {
namespace {

/// Some channels of a pixel for each thread of blocks that take a line of a map each, or a piece of one: what the line
/// needs is divided once a block.
struct Lines {
  Lines(const char* kernel, int64_t count, int line_width, int64_t channels, int each) : width(line_width) {
    require(channels <= INT32_MAX, kernel, "the map has too many channels");
    groups = static_cast<int>(channels / each);
    const int64_t elements = int64_t{width} * groups, line_pieces = divide_up(elements, kThreads);
    require(elements <= INT32_MAX && line_pieces <= INT32_MAX / std::max<int64_t>(count, 1), kernel,
            "the map is too large");
    pieces = static_cast<int>(line_pieces);
    blocks = static_cast<unsigned>(count * line_pieces);
  }
  int width, groups, pieces;
  unsigned blocks;
};

template <int kChannels>
struct LinePlace {
  __device__ LinePlace(const Lines& lines, int height) {
    const int block = static_cast<int>(blockIdx.x), line = block / lines.pieces;
    const int i = (block - line * lines.pieces) * kThreads + static_cast<int>(threadIdx.x);
    sample = line / height;
    row = line - static_cast<int>(sample) * height;
    column = i / lines.groups;
    c = (i - column * lines.groups) * kChannels;
  }
  int64_t sample;
  int row, column, c;  // column may lie behind the line
};

template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    max_pool_kernel(const Map map, const Lines lines, const uint8_t* x, uint8_t* y, uint16_t* winner) {
  await_previous();
  const LinePlace<kChannels> place(lines, map.out_h);
  if (place.column >= map.out_w) return;
  const Window w(map, Pixel{place.sample, place.row, place.column});
  Channels<uint8_t, kChannels> best = {};  // a window of padding alone gives the lowest code
  Channels<uint16_t, kChannels> won;
  const auto first =
      static_cast<uint16_t>(w.rows.empty() || w.columns.empty() ? 0 : w.rows.begin * map.kernel_w + w.columns.begin);
#pragma unroll
  for (int k = 0; k < kChannels; ++k) won.at[k] = first;
  for (int kh = w.rows.begin; kh < w.rows.end; ++kh) {
    for (int kw = w.columns.begin; kw < w.columns.end; ++kw) {
      const auto pixel =
          *reinterpret_cast<const Channels<uint8_t, kChannels>*>(x + w.under(map, kh, kw) * map.channels + place.c);
      const auto tap = static_cast<uint16_t>(kh * map.kernel_w + kw);
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        const bool greater = pixel.at[k] > best.at[k];
        best.at[k] = greater ? pixel.at[k] : best.at[k];
        won.at[k] = greater ? tap : won.at[k];
      }
    }
  }
  const int64_t at = ((place.sample * map.out_h + place.row) * map.out_w + place.column) * map.channels + place.c;
  *reinterpret_cast<Channels<uint8_t, kChannels>*>(y + at) = best;
  if (winner != nullptr) *reinterpret_cast<Channels<uint16_t, kChannels>*>(winner + at) = won;
}

template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    max_pool_gradient_kernel(const Map map, const Lines lines, const float* dy, const uint16_t* winner, float* dx) {
  await_previous();
  const LinePlace<kChannels> place(lines, map.in_h);
  if (place.column >= map.in_w) return;
  const Windows rows(place.row, map.stride_h, map.pad_top, map.kernel_h, map.dilation_h, map.out_h);
  const Windows columns(place.column, map.stride_w, map.pad_left, map.kernel_w, map.dilation_w, map.out_w);
  const int64_t first_output = place.sample * map.out_h * map.out_w;
  Channels<float, kChannels> sum = {};
  for (int oh = rows.begin; oh < rows.end; ++oh) {
    const int kh = tap_of(place.row, oh, map.stride_h, map.pad_top, map.dilation_h);
    if (kh < 0) continue;
    for (int ow = columns.begin; ow < columns.end; ++ow) {
      const int kw = tap_of(place.column, ow, map.stride_w, map.pad_left, map.dilation_w);
      if (kw < 0) continue;
      const int64_t at = (first_output + oh * map.out_w + ow) * map.channels + place.c;
      const auto won = *reinterpret_cast<const Channels<uint16_t, kChannels>*>(winner + at);
      const auto gradient = *reinterpret_cast<const Channels<float, kChannels>*>(dy + at);
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        if (won.at[k] == kh * map.kernel_w + kw) sum.at[k] += gradient.at[k];
      }
    }
  }
  const int64_t at = ((place.sample * map.in_h + place.row) * map.in_w + place.column) * map.channels + place.c;
  *reinterpret_cast<Channels<float, kChannels>*>(dx + at) = sum;
}

__global__ void __launch_bounds__(kThreads)
    sum_pixels(const uint8_t* x, int64_t pixels, int64_t channels, const int32_t* zero_x, int32_t* acc) {
  await_previous();
  __shared__ int32_t sums[kThreads];
  const int64_t c = static_cast<int64_t>(blockIdx.y) * 32 + threadIdx.x % 32;
  const int64_t n = blockIdx.x;
  int32_t sum = 0;
  if (c < channels) {
    for (int64_t p = threadIdx.x / 32; p < pixels; p += kThreads / 32) {
      sum += x[(n * pixels + p) * channels + c] - *zero_x;
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || c >= channels) return;
  for (int k = 32; k < kThreads; k += 32) sum += sums[threadIdx.x + k];
  acc[n * channels + c] = sum;
}

/// Threads of the one block that joins what all means have.
constexpr int kJoining = 1024;

template <class Body>
__device__ void for_parts_of_block(int64_t n, bool aligned, const Body& body) {
  for (int64_t i = int64_t{threadIdx.x} * kEight; i < n; i += kJoining * kEight) {
    body(Part{i, n - i < kEight ? static_cast<int>(n - i) : kEight, aligned});
  }
}

/// The real values grow with the sums.
__global__ void __launch_bounds__(kJoining)
    range_of_means(const int32_t* acc, int64_t n, bool aligned, int64_t pixels, const float* scale_x, double* ends) {
  await_previous();
  Ends<int32_t> mine{INT32_MAX, INT32_MIN};
  for_parts_of_block(n, aligned, [&](const Part& part) {
    const Eight<int32_t> sums = load(acc, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < part.count) mine.add(sums.at[k]);
    }
  });
  const Ends<int32_t> all = joined<kJoining>(mine);
  if (threadIdx.x > 0) return;
  const double scale = *scale_x;
  ends[0] = scale * all.lo / static_cast<double>(pixels);
  ends[1] = scale * all.hi / static_cast<double>(pixels);
}

__device__ float mean_multiplier(const float* scale_x, const float* scale_y, int64_t pixels) {
  const float scaled_pixels = *scale_y * static_cast<float>(pixels);
  return *scale_x / scaled_pixels;
}

/// g (code - z - t), where outside g (code - z).
struct MeanScaleTerms {
  const float* g;
  const int32_t* acc;
  const uint8_t* y;
  const uint8_t* inside;
  const float* scale_x;
  const float* scale_y;
  const int32_t* zero_point;
  int64_t pixels;
};

__global__ void __launch_bounds__(kJoining) sum_scale_terms(MeanScaleTerms p, int64_t n, bool aligned, double* ds) {
  await_previous();
  const float multiplier = mean_multiplier(p.scale_x, p.scale_y, p.pixels);
  const int32_t zero_point = *p.zero_point;
  Sum mine{0.0};
  for_parts_of_block(n, aligned, [&](const Part& part) {
    const Eight<float> g = load(p.g, part);
    const Eight<int32_t> acc = load(p.acc, part);
    const Eight<uint8_t> y = load(p.y, part);
    const unsigned bits = load_mask(p.inside, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {  // elements behind the end have no gradient
      const float t = (bits >> k) & 1 ? static_cast<float>(acc.at[k]) * multiplier : 0.0f;
      const float error = static_cast<float>(y.at[k] - zero_point) - t;
      mine.value = fma(static_cast<double>(g.at[k]), static_cast<double>(error), mine.value);  // the product is exact
    }
  });
  const Sum all = joined<kJoining>(mine);
  if (threadIdx.x == 0) *ds = all.value;
}

}  // namespace

void max_pool(const PoolGeometry& g, const uint8_t* x, uint8_t* y, uint16_t* winner, cudaStream_t stream) {
  require(winner == nullptr || g.kernel_h * g.kernel_w <= 65536, "max_pool",
          "a kernel has more pixels than a winner's index can name (65536)");
  const Map map(g);
  if (map.outputs() <= 0) return;
  const int64_t count = map.batch * map.out_h;
  const auto launch = [&](auto kernel, int each) {
    const Lines lines("max_pool", count, map.out_w, map.channels, each);
    launch_kernel("max_pool", kernel, lines.blocks, kThreads, 0, stream, map, lines, x, y, winner);
  };
  if (g.channels % 8 == 0 && aligned(x, y, winner)) {
    launch(max_pool_kernel<8>, 8);
  } else {
    launch(max_pool_kernel<1>, 1);
  }
}

void max_pool_gradient(const PoolGeometry& g, const float* dy, const uint16_t* winner, float* dx, cudaStream_t stream) {
  const Map map(g);
  if (map.inputs() <= 0) return;
  const int64_t count = map.batch * map.in_h;
  const auto launch = [&](auto kernel, int each) {
    const Lines lines("max_pool_gradient", count, map.in_w, map.channels, each);
    launch_kernel("max_pool_gradient", kernel, lines.blocks, kThreads, 0, stream, map, lines, dy, winner, dx);
  };
  if (g.channels % 4 == 0 && aligned(dy, winner, dx)) {
    launch(max_pool_gradient_kernel<4>, 4);
  } else {
    launch(max_pool_gradient_kernel<1>, 1);
  }
}

void average_pool(const PoolGeometry& g, bool count_include_pad, const uint8_t* x, const float* scale_x,
                  const int32_t* zero_x, const float* scale_y, DeviceRange range, uint8_t* y, uint8_t* inside,
                  cudaStream_t stream) {
  require_codes(range, "average_pool");
  require(g.dilation_h == 1 && g.dilation_w == 1, "average_pool", "dilation must be 1");
  require(g.pad_top < g.kernel_h && g.pad_bottom < g.kernel_h && g.pad_left < g.kernel_w && g.pad_right < g.kernel_w,
          "average_pool", "padding must be smaller than the kernel");
  require(!g.is_whole_map(), "average_pool", "a window of the whole map is a global average pool");
  const Map map(g);
  for_parts("average_pool", map.outputs(), false, stream, [=] __device__(const Part& part) {
    const float s = *scale_x, lo = static_cast<float>(range.lo), hi = static_cast<float>(range.hi);
    const float zero_y = static_cast<float>(*range.zero_point);
    const int32_t z = *zero_x;
    unsigned bits = 0;
#pragma unroll 1
    for (int k = 0; k < part.count; ++k) {
      const Place<1> place(part.begin + k, map.channels);
      const Window w(map, place.pixel);
      float sum = 0;
      for (int kh = w.rows.begin; kh < w.rows.end; ++kh) {
        for (int kw = w.columns.begin; kw < w.columns.end; ++kw) {
          sum += s * static_cast<float>(x[w.under(map, kh, kw) * map.channels + place.c] - z);
        }
      }
      const int valid = (w.rows.end - w.rows.begin) * (w.columns.end - w.columns.begin);
      const auto count = static_cast<float>(count_include_pad ? map.kernel_h * map.kernel_w : valid);
      const float mean = sum / count;
      const float scaled = mean / *scale_y;
      const float t = scaled + zero_y;
      y[part.begin + k] = static_cast<uint8_t>(__float2int_rn(clip(t, lo, hi)));
      bits |= static_cast<unsigned>(t >= lo && t <= hi) << k;
    }
    store_mask(inside, part, bits);
  });
}

void global_average_sums(const uint8_t* x, int64_t batch, int64_t pixels, int64_t channels, const int32_t* zero_x,
                         int32_t* acc, cudaStream_t stream) {
  constexpr const char* kName = "global_average_sums";
  if (batch * channels == 0) return;
  require(batch <= INT32_MAX && divide_up(channels, 32) <= 65535, kName, "the map is too large");
  const dim3 grid(static_cast<unsigned>(batch), static_cast<unsigned>(divide_up(channels, 32)));
  launch_kernel(kName, sum_pixels, grid, kThreads, 0, stream, x, pixels, channels, zero_x, acc);
}

void global_average_range(const int32_t* acc, int64_t batch, int64_t pixels, int64_t channels, const float* scale_x,
                          double* ends, cudaStream_t stream) {
  const int64_t n = batch * channels;
  require(n > 0, "global_average_range", "no elements have no range");
  launch_kernel("global_average_range", range_of_means, 1, kJoining, 0, stream, acc, n, aligned(acc), pixels, scale_x,
                ends);
}

void global_average_codes(const int32_t* acc, int64_t batch, int64_t pixels, int64_t channels, const float* scale_x,
                          const float* scale_y, DeviceRange range, uint8_t* y, uint8_t* inside, cudaStream_t stream) {
  require_codes(range, "global_average_codes");
  for_parts("global_average_codes", batch * channels, aligned(acc, y), stream, [=] __device__(const Part& part) {
    const Bounds bounds(range);
    const float multiplier = mean_multiplier(scale_x, scale_y, pixels);
    const Eight<int32_t> sums = load(acc, part);
    Eight<uint8_t> result;
    unsigned bits = 0;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const float t = static_cast<float>(sums.at[k]) * multiplier;
      result.at[k] = bounds.code(t);
      bits |= static_cast<unsigned>(bounds.inside(t)) << k;
    }
    store(y, part, result);
    store_mask(inside, part, bits);
  });
}

void global_average_scale_gradient(const float* g, const int32_t* acc, const uint8_t* y, const uint8_t* inside,
                                   int64_t batch, int64_t pixels, int64_t channels, const float* scale_x,
                                   const float* scale_y, DeviceRange range, double* ds, cudaStream_t stream) {
  const MeanScaleTerms terms{g, acc, y, inside, scale_x, scale_y, range.zero_point, pixels};
  launch_kernel("global_average_scale_gradient", sum_scale_terms, 1, kJoining, 0, stream, terms, batch * channels,
                aligned(g, acc, y), ds);
}

void global_average_pool_gradient(const float* g, const uint8_t* inside, int64_t batch, int64_t pixels,
                                  int64_t channels, float* dx, cudaStream_t stream) {
  const auto count = static_cast<float>(pixels);
  const bool together = channels % kEight == 0 && aligned(g, dx);
  for_parts("global_average_pool_gradient", batch * pixels * channels, together, stream,
            [=] __device__(const Part& part) {
              int64_t pixel = quotient(part.begin, channels);
              int64_t c = part.begin - pixel * channels, sample = quotient(pixel, pixels);
              Eight<float> result = {};
              if (together) {
                const Part small{sample * channels + c, kEight, true};
                const Eight<float> gradient = load(g, small);
                const unsigned bits = load_mask(inside, small);
#pragma unroll
                for (int k = 0; k < kEight; ++k) result.at[k] = ((bits >> k) & 1 ? gradient.at[k] : 0.0f) / count;
              } else {
                for (int k = 0; k < part.count; ++k) {
                  const int64_t from = sample * channels + c;
                  const bool is_inside = inside == nullptr || ((inside[from / 8] >> (from % 8)) & 1) != 0;
                  result.at[k] = (is_inside ? g[from] : 0.0f) / count;
                  if (++c < channels) continue;
                  c = 0;
                  sample = quotient(++pixel, pixels);
                }
              }
              store(dx, part, result);
            });
}

}  // namespace qat::ops::cuda
