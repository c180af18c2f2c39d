// The functions of average pools of windows that only training needs.
#include "core/ops/cuda/pool.h"
#include "core/ops/cuda/shares.cuh"
#include "core/ops/cuda/windows.cuh"

namespace qat::ops::cuda {
namespace {

void require_average(const PoolGeometry& g, const char* kernel) {
  require(g.dilation_h == 1 && g.dilation_w == 1, kernel, "dilation must be 1");
  require(g.pad_top < g.kernel_h && g.pad_bottom < g.kernel_h && g.pad_left < g.kernel_w && g.pad_right < g.kernel_w,
          kernel, "padding must be smaller than the kernel");
}

/// Channels that a thread takes at once; the order of sums depends on them.
int channels_at_once(int64_t channels) { return channels % kEight == 0 ? kEight : 1; }

/// kChannels elements from `begin` on.
template <int kChannels>
__device__ Part part_of(int64_t begin, bool aligned) {
  return {begin, kChannels, aligned && kChannels == kEight};
}

/// Averaged codes.
struct Averaged {
  Map map;
  bool count_include_pad, aligned;
  const uint8_t* x;
  const float* scale_x;
  const int32_t* zero_x;

  /// Pixels that a window's sum is divided by.
  __device__ float count(const Taps& rows, const Taps& columns) const {
    const int valid = (rows.end - rows.begin) * (columns.end - columns.begin);
    return static_cast<float>(count_include_pad ? map.kernel_h * map.kernel_w : valid);
  }

  /// ops::average_pool's means of one window.
  template <int kChannels>
  __device__ Eight<float> means(const Place<kChannels>& place) const {
    const float s = *scale_x;
    const int32_t z = *zero_x;
    const Window w(map, place.pixel);
    Eight<float> sum = {};
    for (int kh = w.rows.begin; kh < w.rows.end; ++kh) {
      for (int kw = w.columns.begin; kw < w.columns.end; ++kw) {
        const int64_t at = w.under(map, kh, kw) * map.channels + place.c;
        const Eight<uint8_t> codes = load(x, part_of<kChannels>(at, aligned));
#pragma unroll
        for (int k = 0; k < kChannels; ++k) sum.at[k] += s * static_cast<float>(codes.at[k] - z);
      }
    }
    const float n = count(w.rows, w.columns);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) sum.at[k] = sum.at[k] / n;
    return sum;
  }

  /// Calls body(first output, means) for this block's share of the windows.
  template <int kChannels, class Body>
  __device__ void for_means(const Body& body) const {
    const int64_t n = map.batch * map.out_h * map.out_w * (map.channels / kChannels);
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
      const Place<kChannels> place(i, map.channels);
      body(place.pixel * map.channels + place.c, means(place));
    }
  }
};

template <int kChannels>
__global__ void __launch_bounds__(kThreads) range_of_windows(const Averaged p, Ends<float>* partial) {
  await_previous();
  Ends<float> ends = no_ends<float>();
  p.for_means<kChannels>([&](int64_t, const Eight<float>& means) {
#pragma unroll
    for (int k = 0; k < kChannels; ++k) ends.add(means.at[k]);
  });
  keep_ends(ends, partial);
}

/// Of the output.
struct WindowScaleTerms {
  const float* dy;
  const uint8_t* y;
  const uint8_t* inside;
  const float* scale;
  const int32_t* zero_point;
};

/// Bits of channels from element i on, a multiple of them, which do not leave a byte.
__device__ unsigned bits_at(const uint8_t* mask, int64_t i) {
  return mask == nullptr ? 0xff : static_cast<unsigned>(mask[i / 8]) >> (i % 8);
}

template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    sum_window_terms(const Averaged p, const WindowScaleTerms of, double* partial) {
  await_previous();
  const float scale = *of.scale;
  const int32_t zero_point = *of.zero_point;
  double sum = 0.0;
  p.for_means<kChannels>([&](int64_t at, const Eight<float>& means) {
    const Part part = part_of<kChannels>(at, p.aligned);
    const Eight<float> dy = load(of.dy, part);
    const Eight<uint8_t> y = load(of.y, part);
    const unsigned bits = bits_at(of.inside, at);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      const float t = (bits >> k) & 1 ? means.at[k] / scale : 0.0f;
      const float error = static_cast<float>(y.at[k] - zero_point) - t;
      sum = fma(static_cast<double>(dy.at[k]), static_cast<double>(error), sum);  // the product is exact
    }
  });
  keep_sum(sum, partial, blockIdx.x);
}

template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    spread_means(const Averaged p, const float* dy, const uint8_t* inside, float* dx) {
  await_previous();
  const Map& map = p.map;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const Place<kChannels> place(index, map.channels);
  if (place.pixel >= map.batch * map.in_h * map.in_w) return;
  const Pixel pixel = Pixel::of(place.pixel, map.in_h, map.in_w);
  const Windows rows(pixel.row, map.stride_h, map.pad_top, map.kernel_h, 1, map.out_h);
  const Windows columns(pixel.column, map.stride_w, map.pad_left, map.kernel_w, 1, map.out_w);
  const int64_t first_output = pixel.sample * map.out_h * map.out_w;
  Channels<float, kChannels> sum = {};
  for (int oh = rows.begin; oh < rows.end; ++oh) {
    const Taps down(oh, map.stride_h, map.pad_top, map.kernel_h, 1, map.in_h);
    for (int ow = columns.begin; ow < columns.end; ++ow) {
      const float n = p.count(down, Taps(ow, map.stride_w, map.pad_left, map.kernel_w, 1, map.in_w));
      const int64_t at = (first_output + oh * map.out_w + ow) * map.channels + place.c;
      const auto gradient = *reinterpret_cast<const Channels<float, kChannels>*>(dy + at);
      const unsigned bits = bits_at(inside, at);
#pragma unroll
      for (int k = 0; k < kChannels; ++k) sum.at[k] += ((bits >> k) & 1 ? gradient.at[k] : 0.0f) / n;
    }
  }
  *reinterpret_cast<Channels<float, kChannels>*>(dx + place.pixel * map.channels + place.c) = sum;
}

/// Blocks that share the windows.
int64_t window_blocks(const Map& map) { return share_blocks(map.outputs() / channels_at_once(map.channels), 1); }

}  // namespace

size_t average_scratch(const PoolGeometry& g) {
  static_assert(sizeof(Ends<float>) == sizeof(double));
  if (g.is_whole_map()) return static_cast<size_t>(g.batch * g.channels) * sizeof(int32_t);
  return static_cast<size_t>(window_blocks(Map(g))) * sizeof(double);
}

void average_range(const PoolGeometry& g, bool count_include_pad, const uint8_t* x, const float* scale_x,
                   const int32_t* zero_x, double* ends, void* scratch, cudaStream_t stream) {
  constexpr const char* kName = "average_range";
  require_average(g, kName);
  const Map map(g);
  require(map.outputs() > 0, kName, "no elements have no range");
  if (g.is_whole_map()) {
    auto* acc = static_cast<int32_t*>(scratch);
    const int64_t pixels = g.in_h * g.in_w;
    global_average_sums(x, g.batch, pixels, g.channels, zero_x, acc, stream);
    return global_average_range(acc, g.batch, pixels, g.channels, scale_x, ends, stream);
  }
  const Averaged averaged{map, count_include_pad, aligned(x), x, scale_x, zero_x};
  const int64_t blocks = window_blocks(map);
  auto* partial = static_cast<Ends<float>*>(scratch);
  launch_kernel(kName, channels_at_once(g.channels) == kEight ? range_of_windows<kEight> : range_of_windows<1>,
                static_cast<unsigned>(blocks), kThreads, 0, stream, averaged, partial);
  join_ends(kName, partial, blocks, ends, stream);
}

void average_scale_gradient(const PoolGeometry& g, bool count_include_pad, const float* dy, const uint8_t* x,
                            const uint8_t* y, const uint8_t* inside, const float* scale_x, const int32_t* zero_x,
                            const float* scale_y, DeviceRange range, double* ds, void* scratch, cudaStream_t stream) {
  constexpr const char* kName = "average_scale_gradient";
  require_average(g, kName);
  require_codes(range, kName);
  if (g.is_whole_map()) {
    auto* acc = static_cast<int32_t*>(scratch);
    const int64_t pixels = g.in_h * g.in_w;
    global_average_sums(x, g.batch, pixels, g.channels, zero_x, acc, stream);
    return global_average_scale_gradient(dy, acc, y, inside, g.batch, pixels, g.channels, scale_x, scale_y, range, ds,
                                         stream);
  }
  const Map map(g);
  const Averaged averaged{map, count_include_pad, aligned(x, dy, y), x, scale_x, zero_x};
  const WindowScaleTerms terms{dy, y, inside, scale_y, range.zero_point};
  const int64_t blocks = window_blocks(map);
  auto* partial = static_cast<double*>(scratch);
  if (blocks > 0) {
    launch_kernel(kName, channels_at_once(g.channels) == kEight ? sum_window_terms<kEight> : sum_window_terms<1>,
                  static_cast<unsigned>(blocks), kThreads, 0, stream, averaged, terms, partial);
  }
  join_sums(kName, partial, blocks, false, ds, stream);
}

void average_pool_gradient(const PoolGeometry& g, bool count_include_pad, const float* dy, const uint8_t* inside,
                           float* dx, cudaStream_t stream) {
  constexpr const char* kName = "average_pool_gradient";
  require_average(g, kName);
  const Averaged averaged{Map(g), count_include_pad, false, nullptr, nullptr, nullptr};
  const int64_t n = averaged.map.inputs();
  if (n <= 0) return;
  if (g.channels % 4 == 0 && aligned(dy, dx)) {
    launch_kernel(kName, spread_means<4>, blocks_for(kName, n / 4), kThreads, 0, stream, averaged, dy, inside, dx);
  } else {
    launch_kernel(kName, spread_means<1>, blocks_for(kName, n), kThreads, 0, stream, averaged, dy, inside, dx);
  }
}

}  // namespace qat::ops::cuda
