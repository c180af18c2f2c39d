// Gradients of grouped convolutions in float32, above all of depthwise ones. Sums over rows are made by blocks, each of
// a part of the rows, and joined in order.
#include <algorithm>

#include "core/ops/cuda/convolve_gradient_kernels.h"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/instructions.cuh"

namespace qat::ops::cuda::kernels {
namespace {

/// Channels that a thread takes together where arrays and groups allow, pixels that it takes one after another, and a
/// block's limit of weights.
constexpr int kFour = 4, kPixels = 8, kMaxWeights = 48 * 1024;
/// Taps whose gradients a thread of the depthwise kernel makes at once.
constexpr int kTaps = 9;
/// Blocks, or else threads, that share the rows of a sum; rows that a thread takes at least.
constexpr int64_t kBlocks = 1024, kSharing = kBlocks * kThreads, kMaxParts = 4096, kMinRows = 16;
/// The kernel that joins parts: outputs of a block, and threads an output.
constexpr int kOutputs = 32, kLines = kThreads / kOutputs;

template <class T, int kChannels>
struct alignas(sizeof(T) * kChannels) Channels {
  T at[kChannels];
};

template <int kChannels, class T>
__device__ Channels<T, kChannels> load(const T* from) {
  return *reinterpret_cast<const Channels<T, kChannels>*>(from);
}

/// dx, or what is added to it.
template <int kChannels>
__device__ void store_gradient(Channels<float, kChannels> sum, bool add, float* to) {
  if (add) {
    const auto before = load<kChannels>(to);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) sum.at[k] += before.at[k];
  }
  *reinterpret_cast<Channels<float, kChannels>*>(to) = sum;
}

/// The output whose first input lies `distance` before; negative if there is none. kStride 0: any stride.
template <int kStride>
__device__ int output_of(int distance, int stride, int outputs) {
  const int by = kStride > 0 ? kStride : stride;
  const int out = distance / by;
  return out * by == distance && out < outputs ? out : -1;
}

/// A pixel of the input, and what its sample's outputs are.
struct InputPixel {
  __device__ InputPixel(const ConvShape& s, int64_t pixel) {
    const int64_t line = quotient(pixel, s.in_w), sample = quotient(line, s.in_h);
    row = static_cast<int>(line - sample * s.in_h) + s.pad_top;
    column = static_cast<int>(pixel - line * s.in_w) + s.pad_left;
    outputs = sample * s.out_h * s.out_w * s.out_c;
  }
  int row, column;  // of the padded image
  int64_t outputs;
};

/// A tap: its place from the first one.
struct Tap {
  Tap() = default;
  __device__ Tap(const ConvShape& s, int tap) {
    const int kh = tap / s.kernel_w;
    h = kh * s.dilation_h, w = (tap - kh * s.kernel_w) * s.dilation_w;
    offset = (h * s.in_w + w) * s.in_c;
  }
  int h, w, offset;
};

/// Walks over output pixels. top, left, offset: of the input under the first tap.
struct Walk {
  __device__ Walk(const ConvShape& s, int64_t row) {
    const int64_t line = quotient(row, s.out_w), sample = quotient(line, s.out_h);
    oh = static_cast<int>(line - sample * s.out_h), ow = static_cast<int>(row - line * s.out_w);
    image = sample * s.in_h * s.in_w * s.in_c;
    place(s);
  }
  __device__ void advance(const ConvShape& s, int pixels) {
    for (ow += pixels; ow >= s.out_w; ow -= s.out_w) {
      if (++oh < s.out_h) continue;
      oh = 0;
      image += static_cast<int64_t>(s.in_h) * s.in_w * s.in_c;
    }
    place(s);
  }
  __device__ bool inside(const ConvShape& s, const Tap& tap) const {
    return static_cast<unsigned>(top + tap.h) < static_cast<unsigned>(s.in_h) &&
           static_cast<unsigned>(left + tap.w) < static_cast<unsigned>(s.in_w);
  }
  __device__ void place(const ConvShape& s) {
    top = oh * s.stride_h - s.pad_top, left = ow * s.stride_w - s.pad_left;
    offset = image + (top * s.in_w + left) * s.in_c;
  }
  int oh, ow, top, left;
  int64_t image, offset;
};

/// Threads (channels / kChannels, pixels). kKernel, kStride: of both axes; 0: any. Shared memory holds the weights.
template <int kChannels, int kKernel, int kStride>
__global__ void __launch_bounds__(kThreads)
    depthwise_input(const ConvShape s, const float* operand, const int8_t* w, bool add, float* dx) {
  await_previous();
  auto* weights = reinterpret_cast<Channels<float, kChannels>*>(dynamic_shared());
  const int lanes = static_cast<int>(blockDim.x), lane = static_cast<int>(threadIdx.x);
  const int kernel_h = kKernel > 0 ? kKernel : s.kernel_h, kernel_w = kKernel > 0 ? kKernel : s.kernel_w;
  const int taps = kernel_h * kernel_w, c = (static_cast<int>(blockIdx.y) * lanes + lane) * kChannels;
  const bool active = c < s.in_c;
  if (active) {
    for (int t = static_cast<int>(threadIdx.y); t < taps; t += static_cast<int>(blockDim.y)) {
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        weights[t * lanes + lane].at[k] = static_cast<float>(w[static_cast<int64_t>(c + k) * taps + t]);
      }
    }
  }
  __syncthreads();
  if (!active) return;
  const int64_t pixels = static_cast<int64_t>(s.batch) * s.in_h * s.in_w;
  for (int p = 0; p < kPixels; ++p) {
    const int64_t at = (static_cast<int64_t>(blockIdx.x) * kPixels + p) * blockDim.y + threadIdx.y;
    if (at >= pixels) return;
    const InputPixel pixel(s, at);
    const float* outputs = operand + pixel.outputs + c;
    Channels<float, kChannels> sum = {};
#pragma unroll
    for (int kh = 0; kh < kernel_h; ++kh) {
      const int oh = output_of<kStride>(pixel.row - kh * s.dilation_h, s.stride_h, s.out_h);
#pragma unroll
      for (int kw = 0; kw < kernel_w; ++kw) {
        const int ow = output_of<kStride>(pixel.column - kw * s.dilation_w, s.stride_w, s.out_w);
        Channels<float, kChannels> g = {};
        if (oh >= 0 && ow >= 0) g = load<kChannels>(outputs + (oh * s.out_w + ow) * s.out_c);
        const Channels<float, kChannels> weight = weights[(kh * kernel_w + kw) * lanes + lane];
#pragma unroll
        for (int k = 0; k < kChannels; ++k) sum.at[k] = fmaf(g.at[k], weight.at[k], sum.at[k]);
      }
    }
    store_gradient(sum, add, dx + at * s.in_c + c);
  }
}

/// A thread takes kChannels channels of one pixel; groups are of multiples of kChannels channels on both sides.
template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    grouped_input(const ConvShape s, const float* operand, const int8_t* w, bool add, float* dx) {
  await_previous();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t at = quotient(index, s.in_c / kChannels);
  const int c = static_cast<int>(index - at * (s.in_c / kChannels)) * kChannels;
  if (at >= static_cast<int64_t>(s.batch) * s.in_h * s.in_w) return;
  const InputPixel pixel(s, at);
  const int group_in = s.in_c / s.groups, group_out = s.out_c / s.groups, group = c / group_in;
  const float* outputs = operand + pixel.outputs + group * group_out;
  const int8_t* weights = w + static_cast<int64_t>(group) * group_out * s.depth + (c - group * group_in);
  Channels<float, kChannels> sum = {};
  for (int kh = 0; kh < s.kernel_h; ++kh) {
    const int oh = output_of<0>(pixel.row - kh * s.dilation_h, s.stride_h, s.out_h);
    if (oh < 0) continue;
    for (int kw = 0; kw < s.kernel_w; ++kw) {
      const int ow = output_of<0>(pixel.column - kw * s.dilation_w, s.stride_w, s.out_w);
      if (ow < 0) continue;
      const float* from = outputs + (static_cast<int64_t>(oh) * s.out_w + ow) * s.out_c;
      const int8_t* tap = weights + (kh * s.kernel_w + kw) * group_in;
      for (int co = 0; co < group_out; co += kChannels) {
        const auto g = load<kChannels>(from + co);
#pragma unroll
        for (int j = 0; j < kChannels; ++j) {
          const auto weight = load<kChannels>(tap + static_cast<int64_t>(co + j) * s.depth);
#pragma unroll
          for (int k = 0; k < kChannels; ++k) {
            sum.at[k] = fmaf(g.at[j], static_cast<float>(weight.at[k]), sum.at[k]);
          }
        }
      }
    }
  }
  store_gradient(sum, add, dx + at * s.in_c + c);
}

/// Threads (channels / kChannels, rows); a block takes `rows` rows and, of the taps, the blockIdx.z-th kTaps.
/// partial [parts][taps][channels].
template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    depthwise_weights(const ConvShape s, int rows, const uint8_t* x, const int32_t* zero_point, const float* operand,
                      float* partial) {
  await_previous();
  __shared__ Channels<float, kChannels> sums[kTaps][kThreads];
  __shared__ Tap tap[kTaps];
  const int lanes = static_cast<int>(blockDim.x), lines = static_cast<int>(blockDim.y);
  const int lane = static_cast<int>(threadIdx.x), line = static_cast<int>(threadIdx.y), thread = line * lanes + lane;
  const int taps = s.kernel_h * s.kernel_w, first_tap = static_cast<int>(blockIdx.z) * kTaps;
  if (thread < kTaps) tap[thread] = Tap(s, first_tap + thread);
  __syncthreads();
  const int c = (static_cast<int>(blockIdx.y) * lanes + lane) * kChannels;
  const bool active = c < s.in_c;
  if (active) {
    const auto zero_code = static_cast<uint8_t>(*zero_point);
    const auto zero = static_cast<float>(zero_code);
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * rows;
    const int end = static_cast<int>(begin + rows < s.rows ? begin + rows : s.rows);
    Channels<float, kChannels> sum[kTaps] = {};
    Walk walk(s, begin + line);
    for (int64_t row = begin + line; row < end; row += lines, walk.advance(s, lines)) {
      const auto g = load<kChannels>(operand + row * s.out_c + c);
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {  // what those behind the last tap make is not used
        Channels<uint8_t, kChannels> codes;
#pragma unroll
        for (int k = 0; k < kChannels; ++k) codes.at[k] = zero_code;
        if (walk.inside(s, tap[t])) codes = load<kChannels>(x + walk.offset + tap[t].offset + c);
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
          sum[t].at[k] = fmaf(g.at[k], static_cast<float>(codes.at[k]) - zero, sum[t].at[k]);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) sums[t][thread] = sum[t];
  }
  __syncthreads();
  if (!active) return;
  for (int t = line; t < kTaps && first_tap + t < taps; t += lines) {
    Channels<float, kChannels> total = sums[t][lane];
    for (int l = 1; l < lines; ++l) {
#pragma unroll
      for (int k = 0; k < kChannels; ++k) total.at[k] += sums[t][l * lanes + lane].at[k];
    }
    float* to = partial + (static_cast<int64_t>(blockIdx.x) * taps + first_tap + t) * s.in_c + c;
    *reinterpret_cast<Channels<float, kChannels>*>(to) = total;
  }
}

/// A thread takes a tap's weights of kChannels input and kChannels output channels; groups are of multiples of
/// kChannels channels on both sides. partial [parts][out_c][taps][in_c / groups].
template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    grouped_weights(const ConvShape s, int rows, const uint8_t* x, const int32_t* zero_point, const float* operand,
                    float* partial) {
  await_previous();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t depth = s.depth / kChannels, outputs = quotient(index, depth);
  if (outputs >= s.out_c / kChannels) return;
  const int co = static_cast<int>(outputs) * kChannels, place = static_cast<int>(index - outputs * depth) * kChannels;
  const int group_in = s.in_c / s.groups, c = co / (s.out_c / s.groups) * group_in + place % group_in;
  const Tap tap(s, place / group_in);
  const auto zero = static_cast<float>(*zero_point);
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * rows;
  const int end = static_cast<int>(begin + rows < s.rows ? begin + rows : s.rows);
  Channels<float, kChannels> sum[kChannels] = {};
  Walk walk(s, begin);
  for (int64_t row = begin; row < end; ++row, walk.advance(s, 1)) {
    if (!walk.inside(s, tap)) continue;
    const auto g = load<kChannels>(operand + row * s.out_c + co);
    const auto codes = load<kChannels>(x + walk.offset + tap.offset + c);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      const float value = static_cast<float>(codes.at[k]) - zero;
#pragma unroll
      for (int j = 0; j < kChannels; ++j) sum[j].at[k] = fmaf(g.at[j], value, sum[j].at[k]);
    }
  }
#pragma unroll
  for (int j = 0; j < kChannels; ++j) {
    float* to = partial + (static_cast<int64_t>(blockIdx.y) * s.out_c + co + j) * s.depth + place;
    *reinterpret_cast<Channels<float, kChannels>*>(to) = sum[j];
  }
}

/// partial [parts][outputs]: kLines threads each join a run of an output's parts, one of them what these make.
/// by_tap: outputs are [taps][out_c], not [out_c][depth].
__global__ void __launch_bounds__(kThreads)
    join_parts(const ConvShape s, int64_t parts, bool by_tap, const float* partial, const float* factor, float* dw) {
  await_previous();
  __shared__ double runs[kLines][kOutputs];
  const int lane = static_cast<int>(threadIdx.x) % kOutputs, line = static_cast<int>(threadIdx.x) / kOutputs;
  const int64_t outputs = static_cast<int64_t>(s.out_c) * s.depth;
  const int64_t output = static_cast<int64_t>(blockIdx.x) * kOutputs + lane, run = (parts + kLines - 1) / kLines;
  const int64_t end = (line + 1) * run < parts ? (line + 1) * run : parts;
  double sum = 0.0;
  if (output < outputs) {
#pragma unroll 8
    for (int64_t part = line * run; part < end; ++part) sum += partial[part * outputs + output];
  }
  runs[line][lane] = sum;
  __syncthreads();
  if (line > 0 || output >= outputs) return;
  for (int l = 1; l < kLines; ++l) sum += runs[l][lane];
  const int64_t major = quotient(output, by_tap ? s.out_c : s.depth);
  const int64_t minor = output - major * (by_tap ? s.out_c : s.depth);
  const int64_t co = by_tap ? minor : major;
  dw[by_tap ? co * s.depth + major : output] = static_cast<float>(sum * factor[co]);
}

bool is_depthwise(const ConvShape& s) { return s.groups == s.in_c && s.groups == s.out_c; }

bool groups_of(int channels, const ConvShape& s) {
  return s.in_c / s.groups % channels == 0 && s.out_c / s.groups % channels == 0;
}

bool multiples_of(uintptr_t bytes, const void* array) { return reinterpret_cast<uintptr_t>(array) % bytes == 0; }

/// How threads (channels / kChannels, pixels) lie over the channels.
struct Across {
  Across(const ConvShape& s, int channels) {
    const int64_t units = divide_up(s.in_c, channels);
    blocks = divide_up(units, 32);
    const auto lanes = static_cast<unsigned>(divide_up(units, blocks));
    block = dim3(lanes, kThreads / lanes);
  }
  int64_t blocks;
  dim3 block;
};

/// Rows of a part and parts of a sum over rows.
struct Parts {
  Parts(const ConvShape& s, int64_t wanted, int64_t min_rows) {
    const int64_t count =
        std::clamp<int64_t>(divide_up(s.rows, min_rows), 1, std::clamp<int64_t>(wanted, 1, kMaxParts));
    rows = std::max<int64_t>(1, divide_up(s.rows, count));
    parts = std::max<int64_t>(1, divide_up(s.rows, rows));
  }
  int64_t rows, parts;
};

int64_t tap_blocks(const ConvShape& s) { return divide_up(static_cast<int64_t>(s.kernel_h) * s.kernel_w, kTaps); }

Parts depthwise_parts(const ConvShape& s, const Across& across) {
  return {s, kBlocks / (across.blocks * tap_blocks(s)), kMinRows * across.block.y};
}

int64_t grouped_threads(const ConvShape& s, int channels) {
  return static_cast<int64_t>(s.out_c / channels) * (s.depth / channels);
}

Parts grouped_parts(const ConvShape& s, int channels) {
  return {s, kSharing / std::max<int64_t>(1, grouped_threads(s, channels)), kMinRows};
}

template <int kChannels>
bool depthwise_input_gradient(const ConvShape& s, const float* operand, const int8_t* w, bool add, float* dx,
                              cudaStream_t stream) {
  const Across across(s, kChannels);
  const int64_t taps = static_cast<int64_t>(s.kernel_h) * s.kernel_w;
  const int64_t bytes = taps * across.block.x * static_cast<int64_t>(sizeof(float)) * kChannels;
  const int64_t pixels = static_cast<int64_t>(s.batch) * s.in_h * s.in_w;
  const int64_t blocks = divide_up(pixels, int64_t{kPixels} * across.block.y);
  if (bytes > kMaxWeights || across.blocks > 65535 || blocks > INT32_MAX) return false;
  auto kernel = depthwise_input<kChannels, 0, 0>;
  if constexpr (kChannels == kFour) {
    const auto is = [&](int size, int stride) {
      return s.kernel_h == size && s.kernel_w == size && s.stride_h == stride && s.stride_w == stride;
    };
    if (is(3, 1)) kernel = depthwise_input<kChannels, 3, 1>;
    if (is(3, 2)) kernel = depthwise_input<kChannels, 3, 2>;
    if (is(5, 1)) kernel = depthwise_input<kChannels, 5, 1>;
    if (is(5, 2)) kernel = depthwise_input<kChannels, 5, 2>;
  }
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(across.blocks));
  launch_kernel("input_gradient", kernel, grid, across.block, static_cast<size_t>(bytes), stream, s, operand, w, add,
                dx);
  return true;
}

template <int kChannels>
void grouped_input_gradient(const ConvShape& s, const float* operand, const int8_t* w, bool add, float* dx,
                            cudaStream_t stream) {
  const int64_t blocks = divide_up(static_cast<int64_t>(s.batch) * s.in_h * s.in_w * (s.in_c / kChannels), kThreads);
  require(blocks <= INT32_MAX, "input_gradient", "the input is too large for the GPU's kernels");
  launch_kernel("input_gradient", grouped_input<kChannels>, static_cast<unsigned>(blocks), kThreads, 0, stream, s,
                operand, w, add, dx);
}

/// Both return the number of parts, 0 if they are not able to.
template <int kChannels>
int64_t depthwise_weight_sums(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const float* operand,
                              float* partial, cudaStream_t stream) {
  const Across across(s, kChannels);
  if (across.blocks > 65535 || tap_blocks(s) > 65535) return 0;
  const Parts parts = depthwise_parts(s, across);
  const dim3 grid(static_cast<unsigned>(parts.parts), static_cast<unsigned>(across.blocks),
                  static_cast<unsigned>(tap_blocks(s)));
  launch_kernel("weight_gradient", depthwise_weights<kChannels>, grid, across.block, 0, stream, s,
                static_cast<int>(parts.rows), x, zero_point, operand, partial);
  return parts.parts;
}

template <int kChannels>
int64_t grouped_weight_sums(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const float* operand,
                            float* partial, cudaStream_t stream) {
  const Parts parts = grouped_parts(s, kChannels);
  const int64_t threads = grouped_threads(s, kChannels),
                size = std::min<int64_t>(kThreads, divide_up(threads, 32) * 32);
  const int64_t blocks = divide_up(threads, size);
  require(blocks <= INT32_MAX, "weight_gradient", "the kernel is too large");
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts.parts));
  launch_kernel("weight_gradient", grouped_weights<kChannels>, grid, static_cast<unsigned>(size), 0, stream, s,
                static_cast<int>(parts.rows), x, zero_point, operand, partial);
  return parts.parts;
}

}  // namespace

void input_gradient_grouped(const ConvShape& s, const float* operand, const int8_t* w, bool add, float* dx,
                            cudaStream_t stream) {
  if (s.batch == 0) return;
  const bool vectors = aligned(operand, dx);
  if (is_depthwise(s)) {
    if (vectors && s.in_c % kFour == 0 && depthwise_input_gradient<kFour>(s, operand, w, add, dx, stream)) return;
    if (depthwise_input_gradient<1>(s, operand, w, add, dx, stream)) return;
  }
  if (vectors && groups_of(kFour, s) && multiples_of(kFour, w)) {
    grouped_input_gradient<kFour>(s, operand, w, add, dx, stream);
  } else {
    grouped_input_gradient<1>(s, operand, w, add, dx, stream);
  }
}

size_t weight_gradient_grouped_scratch(const ConvShape& s) {
  // Which kernel runs depends on the arrays too.
  const int64_t parts = std::max({depthwise_parts(s, Across(s, kFour)).parts, depthwise_parts(s, Across(s, 1)).parts,
                                  grouped_parts(s, groups_of(kFour, s) ? kFour : 1).parts, grouped_parts(s, 1).parts});
  return static_cast<size_t>(parts) * static_cast<size_t>(s.out_c) * static_cast<size_t>(s.depth) * sizeof(float);
}

void weight_gradient_grouped(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const float* operand,
                             const float* factor, float* dw, void* scratch, cudaStream_t stream) {
  auto* partial = static_cast<float*>(scratch);
  const bool vectors = aligned(operand) && multiples_of(kFour, x);
  const bool four = vectors && s.in_c % kFour == 0 && (is_depthwise(s) || groups_of(kFour, s));
  int64_t parts = 0;
  if (is_depthwise(s)) {
    parts = four ? depthwise_weight_sums<kFour>(s, x, zero_point, operand, partial, stream)
                 : depthwise_weight_sums<1>(s, x, zero_point, operand, partial, stream);
  }
  const bool by_tap = parts > 0;
  if (!by_tap) {
    parts = vectors && groups_of(kFour, s) ? grouped_weight_sums<kFour>(s, x, zero_point, operand, partial, stream)
                                           : grouped_weight_sums<1>(s, x, zero_point, operand, partial, stream);
  }
  const int64_t blocks = divide_up(static_cast<int64_t>(s.out_c) * s.depth, kOutputs);
  require(blocks <= INT32_MAX, "weight_gradient", "the kernel is too large");
  launch_kernel("weight_gradient", join_parts, static_cast<unsigned>(blocks), kThreads, 0, stream, s, parts, by_tap,
                partial, factor, dw);
}

}  // namespace qat::ops::cuda::kernels
