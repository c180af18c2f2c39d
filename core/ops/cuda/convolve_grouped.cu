#include "core/ops/cuda/convolve_kernels.h"

namespace qat::ops::cuda::kernels {
namespace {

constexpr int kThreads = 256;
/// Channels a thread of the depthwise kernel takes, pixels it takes one after another, and its block's limit of
/// weights.
constexpr int kChannels = 4, kPixels = 8, kMaxWeights = 48 * 1024;

/// One output pixel.
struct Pixel {
  __device__ Pixel(const ConvShape& s, int row) {
    const int line = row / s.out_w, sample = line / s.out_h;
    image = static_cast<int64_t>(sample) * s.in_h * s.in_w;
    top = (line - sample * s.out_h) * s.stride_h - s.pad_top;
    left = (row - line * s.out_w) * s.stride_w - s.pad_left;
  }
  /// Input pixel under a tap; -1 where it is padding.
  __device__ int64_t under(const ConvShape& s, int kh, int kw) const {
    const int h = top + kh * s.dilation_h, w = left + kw * s.dilation_w;
    return h >= 0 && h < s.in_h && w >= 0 && w < s.in_w ? image + h * s.in_w + w : -1;
  }
  int64_t image;
  int top, left;
};

/// c + the sum of four unsigned codes times four signed weights; wraps.
__device__ int32_t dot(uint32_t codes, uint32_t weights, int32_t c) {
  int32_t sum;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(codes), "r"(weights), "r"(c));
  return sum;
}

/// Threads (channels / 4, pixels). Shared memory holds for each tap and four channels four words, each with the weight
/// of one channel in its byte, so that one instruction multiplies and adds. A padded pixel is the code z.
__global__ void __launch_bounds__(kThreads)
    depthwise(const ConvShape s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc) {
  extern __shared__ uint4 weights[];
  const int taps = s.kernel_h * s.kernel_w, lanes = static_cast<int>(blockDim.x);
  const int group = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x), c = group * kChannels;
  const bool active = c < s.in_c;
  if (active) {
    for (int t = static_cast<int>(threadIdx.y); t < taps; t += static_cast<int>(blockDim.y)) {
      const int8_t* from = w + static_cast<int64_t>(c) * taps + t;
      const auto word = [&](int k) { return static_cast<uint32_t>(static_cast<uint8_t>(from[k * taps])) << (8 * k); };
      weights[t * lanes + threadIdx.x] = make_uint4(word(0), word(1), word(2), word(3));
    }
  }
  __syncthreads();
  if (!active) return;
  const uint32_t padding = static_cast<uint32_t>(*zero_point) * 0x01010101u;
  int4 correction = {};  // z times the sum of the weights
  for (int t = 0; t < taps; ++t) {
    const uint4 weight = weights[t * lanes + threadIdx.x];
    correction = {dot(padding, weight.x, correction.x), dot(padding, weight.y, correction.y),
                  dot(padding, weight.z, correction.z), dot(padding, weight.w, correction.w)};
  }
  for (int p = 0; p < kPixels; ++p) {
    const int64_t row = (static_cast<int64_t>(blockIdx.x) * kPixels + p) * blockDim.y + threadIdx.y;
    if (row >= s.rows) return;
    const Pixel pixel(s, static_cast<int>(row));
    const uint8_t* image = x + pixel.image * s.in_c + c;
    int4 sum = {-correction.x, -correction.y, -correction.z, -correction.w};
    for (int kh = 0, t = 0; kh < s.kernel_h; ++kh) {
      const int h = pixel.top + kh * s.dilation_h;
      const bool inside = h >= 0 && h < s.in_h;
      for (int kw = 0; kw < s.kernel_w; ++kw, ++t) {
        const int column = pixel.left + kw * s.dilation_w;
        uint32_t codes = padding;
        if (inside && column >= 0 && column < s.in_w) {
          codes = *reinterpret_cast<const uint32_t*>(image + static_cast<int64_t>(h * s.in_w + column) * s.in_c);
        }
        const uint4 weight = weights[t * lanes + threadIdx.x];
        sum = {dot(codes, weight.x, sum.x), dot(codes, weight.y, sum.y), dot(codes, weight.z, sum.z),
               dot(codes, weight.w, sum.w)};
      }
    }
    *reinterpret_cast<int4*>(acc + row * s.out_c + c) = sum;
  }
}

/// A thread an output. kWords: channels in fours, four bytes at a time.
template <bool kWords>
__global__ void __launch_bounds__(kThreads)
    grouped(const ConvShape s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= static_cast<int64_t>(s.rows) * s.out_c) return;
  const int row = static_cast<int>(index / s.out_c), co = static_cast<int>(index - static_cast<int64_t>(row) * s.out_c);
  const int group_in = s.in_c / s.groups, group_out = s.out_c / s.groups;
  const Pixel pixel(s, row);
  const int8_t* weight = w + static_cast<int64_t>(co) * s.depth;
  int32_t sum = 0, weight_sum = 0;
  for (int kh = 0; kh < s.kernel_h; ++kh) {
    for (int kw = 0; kw < s.kernel_w; ++kw, weight += group_in) {
      const int64_t from = pixel.under(s, kh, kw);
      if (from < 0) continue;
      const uint8_t* code = x + from * s.in_c + co / group_out * group_in;
      if constexpr (kWords) {
        for (int c = 0; c < group_in; c += 4) {
          const uint32_t four = *reinterpret_cast<const uint32_t*>(weight + c);
          sum = dot(*reinterpret_cast<const uint32_t*>(code + c), four, sum);
          weight_sum = dot(0x01010101u, four, weight_sum);
        }
      } else {
        for (int c = 0; c < group_in; ++c) {
          sum = static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(code[c] * weight[c]));
          weight_sum += weight[c];
        }
      }
    }
  }
  const uint32_t correction = static_cast<uint32_t>(*zero_point) * static_cast<uint32_t>(weight_sum);
  acc[index] = static_cast<int32_t>(static_cast<uint32_t>(sum) - correction);
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
    const int64_t bytes = static_cast<int64_t>(s.kernel_h) * s.kernel_w * lanes * static_cast<int64_t>(sizeof(uint4));
    if (bytes <= kMaxWeights && blocks_across <= 65535) {
      const dim3 grid(static_cast<unsigned>(divide_up(s.rows, int64_t{kPixels} * block.y)),
                      static_cast<unsigned>(blocks_across));
      depthwise<<<grid, block, static_cast<size_t>(bytes), stream>>>(s, x, zero_point, w, acc);
      check_launch("convolve");
      return;
    }
  }
  const int64_t blocks = divide_up(static_cast<int64_t>(s.rows) * s.out_c, kThreads);
  require(blocks <= INT32_MAX, "convolve", "the output is too large for the GPU's kernels");
  if (multiples_of(4, x, w, s.in_c / s.groups)) {
    grouped<true><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(s, x, zero_point, w, acc);
  } else {
    grouped<false><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(s, x, zero_point, w, acc);
  }
  check_launch("convolve");
}

}  // namespace qat::ops::cuda::kernels
