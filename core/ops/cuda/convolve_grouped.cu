#include "core/ops/cuda/convolve_kernels.h"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/instructions.cuh"

namespace qat::ops::cuda::kernels {
namespace {

/// Channels a thread of the depthwise kernel takes, pixels it takes one after another, and its block's limit of
/// weights.
constexpr int kChannels = 4, kPixels = 8, kMaxWeights = 48 * 1024;
/// Pixels that a thread of the general kernel takes together.
constexpr int kRowsOfThread = 4;

/// The part of the input under one output pixel.
struct Pixel {
  Pixel() = default;
  __device__ Pixel(const ConvShape& s, const uint8_t* x, int row) {
    const int line = row / s.out_w, sample = line / s.out_h;
    image = x + static_cast<int64_t>(sample) * s.in_h * s.in_w * s.in_c;
    top = (line - sample * s.out_h) * s.stride_h - s.pad_top;
    left = (row - line * s.out_w) * s.stride_w - s.pad_left;
  }
  const uint8_t* image;
  int top, left;
};

/// Walks over the kernel of a pixel, row by row. Behind the last tap it goes on to a row of which nothing may be used.
struct Walk {
  __device__ Walk(const ConvShape& s, const Pixel& pixel)
      : h(pixel.top), w(pixel.left), kw(0), offset((pixel.top * s.in_w + pixel.left) * s.in_c) {}
  __device__ bool inside(const ConvShape& s) const {
    return static_cast<unsigned>(h) < static_cast<unsigned>(s.in_h) &&
           static_cast<unsigned>(w) < static_cast<unsigned>(s.in_w);
  }
  __device__ void advance(const ConvShape& s, const Pixel& pixel) {
    w += s.dilation_w;
    offset += s.dilation_w * s.in_c;
    if (++kw < s.kernel_w) return;
    kw = 0;
    h += s.dilation_h;
    w = pixel.left;
    offset += (s.dilation_h * s.in_w - s.kernel_w * s.dilation_w) * s.in_c;
  }
  int h, w, kw, offset;
};

/// Exchanges rows and columns of 4 x 4 bytes.
__device__ void transpose(uint32_t (&r)[4]) {
  const uint32_t a = __byte_perm(r[0], r[1], 0x5140), b = __byte_perm(r[2], r[3], 0x5140);  // columns 0 and 1
  const uint32_t c = __byte_perm(r[0], r[1], 0x7362), d = __byte_perm(r[2], r[3], 0x7362);  // columns 2 and 3
  r[0] = __byte_perm(a, b, 0x5410), r[1] = __byte_perm(a, b, 0x7632);
  r[2] = __byte_perm(c, d, 0x5410), r[3] = __byte_perm(c, d, 0x7632);
}

/// Threads (channels / 4, pixels). Shared memory holds for four taps and each channel a word of weights: the codes of
/// four taps and four channels are exchanged so that one instruction adds four taps. A padded pixel is the code z.
__global__ void __launch_bounds__(kThreads)
    depthwise(const ConvShape s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc) {
  await_previous();
  auto* weights = reinterpret_cast<uint4*>(dynamic_shared());
  const int taps = s.kernel_h * s.kernel_w, lanes = static_cast<int>(blockDim.x);
  const int group = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x), c = group * kChannels;
  const bool active = c < s.in_c;
  if (active) {
    for (int t = static_cast<int>(threadIdx.y) * 4; t < taps; t += static_cast<int>(blockDim.y) * 4) {
      uint32_t words[kChannels] = {};
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        for (int e = 0; e < 4 && t + e < taps; ++e) {
          words[k] |= static_cast<uint32_t>(static_cast<uint8_t>(w[static_cast<int64_t>(c + k) * taps + t + e]))
                      << 8 * e;
        }
      }
      weights[t / 4 * lanes + threadIdx.x] = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
  __syncthreads();
  if (!active) return;
  const uint32_t padding = static_cast<uint32_t>(*zero_point) * 0x01010101u;
  int32_t correction[kChannels] = {};  // z times the sum of the weights
  for (int t = 0; t < taps; t += 4) {
    const uint4 weight = weights[t / 4 * lanes + threadIdx.x];
    correction[0] = dot(padding, weight.x, correction[0]), correction[1] = dot(padding, weight.y, correction[1]);
    correction[2] = dot(padding, weight.z, correction[2]), correction[3] = dot(padding, weight.w, correction[3]);
  }
  for (int p = 0; p < kPixels; ++p) {
    const int64_t row = (static_cast<int64_t>(blockIdx.x) * kPixels + p) * blockDim.y + threadIdx.y;
    if (row >= s.rows) return;
    const Pixel pixel(s, x + c, static_cast<int>(row));
    int32_t sum[kChannels] = {};
    Walk walk(s, pixel);
    for (int t = 0; t < taps; t += 4) {
      uint32_t codes[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // those behind the last tap meet weights of 0
        codes[e] = padding;
        if (walk.inside(s)) codes[e] = *reinterpret_cast<const uint32_t*>(pixel.image + walk.offset);
        walk.advance(s, pixel);
      }
      transpose(codes);
      const uint4 weight = weights[t / 4 * lanes + threadIdx.x];
      sum[0] = dot(codes[0], weight.x, sum[0]), sum[1] = dot(codes[1], weight.y, sum[1]);
      sum[2] = dot(codes[2], weight.z, sum[2]), sum[3] = dot(codes[3], weight.w, sum[3]);
    }
    *reinterpret_cast<int4*>(acc + row * s.out_c + c) =
        make_int4(sum[0] - correction[0], sum[1] - correction[1], sum[2] - correction[2], sum[3] - correction[3]);
  }
}

/// A thread takes one output channel of some pixels. kWords: input channels in fours, four bytes at a time.
template <bool kWords>
__global__ void __launch_bounds__(kThreads)
    grouped(const ConvShape s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc) {
  await_previous();
  constexpr int kRows = kRowsOfThread;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t strip = quotient(index, s.out_c);
  const int co = static_cast<int>(index - strip * s.out_c);
  const int64_t first_row = strip * kRows;
  if (first_row >= s.rows) return;
  const int group_in = s.in_c / s.groups, first = co / (s.out_c / s.groups) * group_in;
  Pixel pixels[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    pixels[r] = Pixel(s, x + first, static_cast<int>(first_row) + r);
    if (first_row + r >= s.rows) pixels[r].top = -(1 << 30);  // padding throughout
  }
  const int8_t* weight = w + static_cast<int64_t>(co) * s.depth;
  const uint32_t padding = static_cast<uint32_t>(*zero_point) * (kWords ? 0x01010101u : 1u);
  int32_t sum[kRows] = {}, correction = 0;  // correction: z times the sum of the weights
  for (int kh = 0; kh < s.kernel_h; ++kh) {
    for (int kw = 0; kw < s.kernel_w; ++kw) {
      const uint8_t* from[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int row = pixels[r].top + kh * s.dilation_h, column = pixels[r].left + kw * s.dilation_w;
        const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(s.in_h) &&
                            static_cast<unsigned>(column) < static_cast<unsigned>(s.in_w);
        from[r] = inside ? pixels[r].image + (row * s.in_w + column) * s.in_c : nullptr;
      }
      for (int c = 0; c < group_in; c += kWords ? 4 : 1, weight += kWords ? 4 : 1) {
        uint32_t weights;
        if constexpr (kWords) {
          weights = *reinterpret_cast<const uint32_t*>(weight);
        } else {
          weights = static_cast<uint8_t>(*weight);
        }
        correction = dot(padding, weights, correction);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          uint32_t codes = padding;
          if constexpr (kWords) {
            if (from[r] != nullptr) codes = *reinterpret_cast<const uint32_t*>(from[r] + c);
          } else {
            if (from[r] != nullptr) codes = from[r][c];
          }
          sum[r] = dot(codes, weights, sum[r]);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first_row + r;
    if (row < s.rows) {
      acc[row * s.out_c + co] = static_cast<int32_t>(static_cast<uint32_t>(sum[r]) - static_cast<uint32_t>(correction));
    }
  }
}

bool multiples_of(uintptr_t bytes, const void* a, const void* b, int64_t c) {
  return (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | static_cast<uintptr_t>(c)) % bytes == 0;
}

}  // namespace

void convolve_grouped(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc,
                      cudaStream_t stream) {
  if (s.groups == s.in_c && s.groups == s.out_c && multiples_of(kChannels, x, x, s.in_c) &&
      multiples_of(sizeof(int4), acc, acc, 0)) {
    const int64_t groups = s.in_c / kChannels, blocks_across = divide_up(groups, 32);
    const auto lanes = static_cast<unsigned>(divide_up(groups, blocks_across));
    const dim3 block(lanes, kThreads / lanes);
    const int64_t taps = static_cast<int64_t>(s.kernel_h) * s.kernel_w;
    const int64_t bytes = divide_up(taps, 4) * lanes * static_cast<int64_t>(sizeof(uint4));
    if (bytes <= kMaxWeights && blocks_across <= 65535) {
      const dim3 grid(static_cast<unsigned>(divide_up(s.rows, int64_t{kPixels} * block.y)),
                      static_cast<unsigned>(blocks_across));
      return launch_kernel("convolve", depthwise, grid, block, static_cast<size_t>(bytes), stream, s, x, zero_point, w,
                           acc);
    }
  }
  const int64_t blocks = divide_up(divide_up(s.rows, kRowsOfThread) * s.out_c, kThreads);
  require(blocks <= INT32_MAX, "convolve", "the output is too large for the GPU's kernels");
  const auto kernel = multiples_of(4, x, w, s.in_c / s.groups) ? grouped<true> : grouped<false>;
  launch_kernel("convolve", kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, s, x, zero_point, w, acc);
}

}  // namespace qat::ops::cuda::kernels
