#include <cstring>

#include "core/ops/cuda/block.cuh"
#include "core/ops/cuda/sums.cuh"
#include "core/ops/cuda/weight_codes.h"

namespace qat::ops::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int64_t kSums = 16;       // core/ops/weight_codes.cpp's
constexpr int64_t kSegment = 1024;  // elements of a channel that a warp looks at

/// The channels' values at the elements of a part of [channels][depth].
template <class T>
__device__ Eight<T> load_rows(const T* values, const Part& part, int64_t depth) {
  int64_t c = quotient(part.begin, depth), left = (c + 1) * depth - part.begin;
  T value = values[c];
  Eight<T> result;
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    if (left == 0 && k < part.count) {  // the elements behind the end have no channel
      left = depth;
      value = values[++c];
    }
    --left;
    result.at[k] = value;
  }
  return result;
}

__device__ int32_t magnitude_bits(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7fffffff;
}

/// largest [channels]: bits of the largest magnitude, 0 before. They compare as magnitudes do, NaN above infinity.
__global__ void __launch_bounds__(kThreads)
    largest_bits(const float* x, int64_t channels, int64_t depth, int64_t segments, bool vectors, int32_t* largest) {
  await_previous();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t segment = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t c = quotient(segment, segments);
  if (c >= channels) return;
  const int64_t begin = c * depth + (segment - c * segments) * kSegment, end = (c + 1) * depth;
  int32_t bits = 0;
#pragma unroll
  for (int k = 0; k < kSegment / (kWarp * kEight); ++k) {
    const int64_t at = begin + (k * kWarp + lane) * kEight;
    if (at >= end) continue;
    const Eight<float> values = load(x, {at, end - at < kEight ? static_cast<int>(end - at) : kEight, vectors});
#pragma unroll
    for (int e = 0; e < kEight; ++e) {
      bits = max(bits, magnitude_bits(values.at[e]));
    }
  }
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) bits = max(bits, __shfl_xor_sync(0xffffffff, bits, other));
  if (lane == 0) atomicMax(largest + c, bits);  // integers: the order does not matter
}

/// quantizers::largest_scale() of a magnitude.
__device__ float largest_scale(int32_t bits, float most, int32_t* failed) {
  constexpr float kSmallestScale = 0x1p-23f;  // core/quant
  float s;
  memcpy(&s, &bits, sizeof(s));
  if (!(s < INFINITY)) *failed = 1;
  s = s / most;
  s = s < kSmallestScale ? kSmallestScale : s;
  // The scale that the quantized values have in turn. The smallest one stays: a power of two.
  for (int pass = 0; pass < 2; ++pass) s = s * most / most;
  return s;
}

/// In place: of the bits that `scale` holds.
__global__ void __launch_bounds__(kThreads) finish_scales(int64_t channels, float most, float* scale, int32_t* failed) {
  await_previous();
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= channels) return;
  int32_t bits;
  memcpy(&bits, scale + c, sizeof(bits));
  scale[c] = largest_scale(bits, most, failed);
}

struct Largest {
  __device__ void join(const Largest& other) { bits = max(bits, other.bits); }
  int32_t bits;
};

constexpr int kChannelThreads = 128;

/// A block for each channel of all weights.
__global__ void __launch_bounds__(kChannelThreads)
    encode_channels(const EncodedWeight* list, int count, int32_t* failed) {
  await_previous();
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  int index = 0;
  for (int end = count; end - index > 1;) {
    const int middle = (index + end) / 2;
    (list[middle].first <= block ? index : end) = middle;
  }
  const EncodedWeight w = list[index];
  const int c = block - w.first;
  const float* x = w.x + c * w.depth;
  int8_t* codes = w.codes + c * w.depth;
  float scale;
  if (w.follows) {
    Largest mine{0};
#pragma unroll 4
    for (int64_t i = thread; i < w.depth; i += kChannelThreads) mine.join({magnitude_bits(x[i])});
    scale = largest_scale(joined<kChannelThreads>(mine).bits, static_cast<float>(w.hi), failed);
    if (thread == 0) w.scale[c] = scale;
  } else {
    scale = w.scale[c / (w.channels / w.scales)];
  }
  if (thread == 0 && w.repeated != nullptr) w.repeated[c] = scale;
  const auto lo = static_cast<float>(w.lo), hi = static_cast<float>(w.hi);
#pragma unroll 4
  for (int64_t i = thread; i < w.depth; i += kChannelThreads) {
    codes[i] = static_cast<int8_t>(__float2int_rn(clip(x[i] / scale, lo, hi)));
  }
}

/// Weights on the grid of their channel's scale.
struct Grid {
  /// clip(t, lo - 1, hi + 1), rounded half to even.
  __device__ float wide(float t) const { return (clip(t, lo - 1.0f, hi + 1.0f) + kMagic) - kMagic; }
  __device__ bool inside(float t) const {
    const float decides = by_code ? wide(t) : t;
    return decides >= lo && decides <= hi;
  }

  static constexpr float kMagic = 12582912.0f;  // core/ops/round.h
  float lo, hi;
  bool by_code;
};

/// g (code - t) of one channel, a block's.
struct CodeTerms {
  using Item = double;
  struct Cursor {
    __device__ double operator()(int64_t i) const {
      const float t = p.x[i] / scale;
      const float code = clip(p.grid.wide(t), p.grid.lo, p.grid.hi), value = code - (p.grid.inside(t) ? t : 0.0f);
      return static_cast<double>(p.g[i]) * value;  // exact
    }
    const CodeTerms& p;
    float scale;
  };
  __device__ Cursor start(int64_t, int64_t) const { return {*this, scale[blockIdx.x]}; }
  const float* x;
  const float* g;
  const float* scale;
  Grid grid;
};

struct Doubles {
  using Result = Total;
  static __device__ Doubles none() { return {0.0}; }
  __device__ void add(double term) { total += term; }
  __device__ Total result() const { return {total}; }
  double total;
};

}  // namespace

void largest_scales(const float* x, int64_t channels, int64_t depth, double levels, float* scale, int32_t* failed,
                    cudaStream_t stream) {
  constexpr const char* kName = "largest_scales";
  require(channels >= 0 && depth >= 0, kName, "a weight has no negative sizes");
  require(levels > 0, kName, "the number of levels must be above 0");
  const int64_t segments = divide_up(depth, kSegment), blocks = divide_up(channels * segments, kThreads / kWarp);
  require(channels <= INT32_MAX && blocks <= INT32_MAX, kName, "the weight is too large");
  if (channels == 0) return;
  cudaMemsetAsync(scale, 0, static_cast<size_t>(channels) * sizeof(float), stream);
  if (blocks > 0) {
    launch_kernel(kName, largest_bits, static_cast<unsigned>(blocks), kThreads, 0, stream, x, channels, depth, segments,
                  aligned(x) && depth % kEight == 0, reinterpret_cast<int32_t*>(scale));
  }
  launch_kernel(kName, finish_scales, static_cast<unsigned>(divide_up(channels, kThreads)), kThreads, 0, stream,
                channels, static_cast<float>(levels), scale, failed);
}

void encode_weights(const EncodedWeight* list, int64_t count, int64_t channels, int32_t* failed, cudaStream_t stream) {
  require(count >= 0 && channels >= 0 && channels <= INT32_MAX, "encode_weights",
          "the weights must have fewer than 2^31 channels");
  if (channels == 0) return;
  launch_kernel("encode_weights", encode_channels, static_cast<unsigned>(channels), kChannelThreads, 0, stream, list,
                static_cast<int>(count), failed);
}

void encode_weights_gradient(const float* x, const float* g, int64_t channels, int64_t depth, const float* scale,
                             int32_t lo, int32_t hi, bool by_code, float* dx, double* dscale, cudaStream_t stream) {
  constexpr const char* kName = "encode_weights_gradient";
  require(channels >= 0 && depth >= 0, kName, "a weight has no negative sizes");
  require(channels <= INT32_MAX, kName, "the weight is too large");
  require(lo >= -128 && lo <= hi && hi <= 127, kName, "weight codes must fit [-128, 127]");
  const Grid grid{static_cast<float>(lo), static_cast<float>(hi), by_code};
  if (dscale != nullptr && channels > 0) {  // before dx, which may be g
    const CodeTerms terms{x, g, scale, grid};
    launch_kernel(kName, sum_columns<kSums, Doubles, CodeTerms>, static_cast<unsigned>(channels), kThreads, 0, stream,
                  Columns{channels * depth, depth, kSums}, terms, reinterpret_cast<Total*>(dscale));
  }
  if (dx == nullptr) return;
  for_parts(kName, channels * depth, aligned(x, g, dx), stream, [=] __device__(const Part& part) {
    const Eight<float> values = load(x, part), s = load_rows(scale, part, depth);
    Eight<float> gradient = load(g, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) gradient.at[k] = grid.inside(values.at[k] / s.at[k]) ? gradient.at[k] : 0.0f;
    store(dx, part, gradient);
  });
}

void scale_rows(const float* x, int64_t channels, int64_t depth, const double* factor, float* out,
                cudaStream_t stream) {
  require(channels >= 0 && depth >= 0, "scale_rows", "a weight has no negative sizes");
  for_parts("scale_rows", channels * depth, aligned(x, out), stream, [=] __device__(const Part& part) {
    Eight<float> values = load(x, part);
    const Eight<double> f = load_rows(factor, part, depth);
#pragma unroll
    for (int k = 0; k < kEight; ++k) values.at[k] = values.at[k] * static_cast<float>(f.at[k]);
    store(out, part, values);
  });
}

}  // namespace qat::ops::cuda
