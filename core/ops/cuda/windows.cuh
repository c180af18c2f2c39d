// Where the windows of pools lie, for the GPU. Internal to core/ops/cuda.
#pragma once

#include "core/ops/cuda/eights.cuh"
#include "core/ops/pool.h"

namespace qat::ops::cuda {

/// A pool's sizes for the GPU, in 32 bits and with the output's.
struct Map {
  explicit Map(const PoolGeometry& g)
      : in_h(static_cast<int>(g.in_h)),
        in_w(static_cast<int>(g.in_w)),
        out_h(static_cast<int>(g.out_h())),
        out_w(static_cast<int>(g.out_w())),
        kernel_h(static_cast<int>(g.kernel_h)),
        kernel_w(static_cast<int>(g.kernel_w)),
        stride_h(static_cast<int>(g.stride_h)),
        stride_w(static_cast<int>(g.stride_w)),
        pad_top(static_cast<int>(g.pad_top)),
        pad_left(static_cast<int>(g.pad_left)),
        dilation_h(static_cast<int>(g.dilation_h)),
        dilation_w(static_cast<int>(g.dilation_w)),
        batch(g.batch),
        channels(g.channels) {
    constexpr int64_t kLimit = int64_t{1} << 30;  // of places in a padded image
    const int64_t height = g.in_h + g.pad_top + g.pad_bottom + g.dilation_h * g.kernel_h + g.stride_h;
    const int64_t width = g.in_w + g.pad_left + g.pad_right + g.dilation_w * g.kernel_w + g.stride_w;
    require(height < kLimit && width < kLimit / height, "pool", "the images are too large for the GPU's kernels");
  }
  int64_t outputs() const { return batch * out_h * out_w * channels; }
  int64_t inputs() const { return batch * in_h * in_w * channels; }

  int in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int64_t batch, channels;
};

/// Kernel positions [begin, end) that fall into the input, for the output at `out`.
struct Taps {
  int origin, begin, end;
  __device__ Taps(int out, int stride, int pad, int kernel, int dilation, int in)
      : origin(out * stride - pad),
        begin(origin >= 0 ? 0 : (-origin + dilation - 1) / dilation),
        end(origin >= in ? 0 : min(kernel, (in - 1 - origin) / dilation + 1)) {}
  __device__ bool empty() const { return begin >= end; }
};

/// Row, column and sample of a pixel of maps [batch][height][width].
struct Pixel {
  static __device__ Pixel of(int64_t pixel, int height, int width) {
    const int64_t line = quotient(pixel, width), sample = quotient(line, height);
    return {sample, static_cast<int>(line - sample * height), static_cast<int>(pixel - line * width)};
  }
  int64_t sample;
  int row, column;
};

/// The window of one output pixel.
struct Window {
  __device__ Window(const Map& map, int64_t pixel) : Window(map, Pixel::of(pixel, map.out_h, map.out_w)) {}
  __device__ Window(const Map& map, const Pixel& pixel)
      : first_pixel(pixel.sample * map.in_h * map.in_w),
        rows(pixel.row, map.stride_h, map.pad_top, map.kernel_h, map.dilation_h, map.in_h),
        columns(pixel.column, map.stride_w, map.pad_left, map.kernel_w, map.dilation_w, map.in_w) {}
  /// The input pixel under a tap.
  __device__ int64_t under(const Map& map, int kh, int kw) const {
    const int row = rows.origin + kh * map.dilation_h, column = columns.origin + kw * map.dilation_w;
    return first_pixel + row * map.in_w + column;
  }
  int64_t first_pixel;
  Taps rows, columns;
};

/// Channels of one pixel that a thread takes.
template <class T, int kChannels>
struct alignas(sizeof(T) * kChannels) Channels {
  T at[kChannels];
};

/// Pixel and first channel of a thread; index counts groups of kChannels channels.
template <int kChannels>
struct Place {
  __device__ Place(int64_t index, int64_t channels)
      : pixel(quotient(index, channels / kChannels)), c((index - pixel * (channels / kChannels)) * kChannels) {}
  int64_t pixel, c;
};

/// Outputs [begin, end) of one axis whose windows can hold input position `in`.
struct Windows {
  int begin, end;
  __device__ Windows(int in, int stride, int pad, int kernel, int dilation, int out) {
    const int padded = in + pad, first = padded - (kernel - 1) * dilation;
    begin = first <= 0 ? 0 : (first + stride - 1) / stride;
    end = min(out, padded / stride + 1);
  }
};

/// The kernel position with which the window of output `out` sees input position `in`; -1 if it does not.
__device__ inline int tap_of(int in, int out, int stride, int pad, int dilation) {
  const int distance = in + pad - out * stride;
  if (dilation == 1) return distance;
  const int tap = distance / dilation;
  return tap * dilation == distance ? tap : -1;
}

inline unsigned blocks_for(const char* kernel, int64_t threads) {
  const int64_t blocks = divide_up(threads, kThreads);
  require(blocks <= INT32_MAX, kernel, "the map is too large");
  return static_cast<unsigned>(blocks);
}

}  // namespace qat::ops::cuda
