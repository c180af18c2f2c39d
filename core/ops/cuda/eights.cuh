// Element-wise kernels: a thread takes eight elements (a byte of a mask) and moves them in 128-bit accesses where the
// arrays are aligned and the eight are whole. Internal to core/ops/cuda.
#pragma once

#include <cstdint>

#include "core/ops/cuda/launch.cuh"

namespace qat::ops::cuda {

inline constexpr int kEight = 8;
inline constexpr int kThreads = 256;

template <class T>
struct alignas(sizeof(T) * kEight < 16 ? sizeof(T) * kEight : 16) Eight {
  T at[kEight];
};

/// The elements of a thread. begin is a multiple of eight where they are whole, and for load_mask and store_mask.
struct Part {
  int64_t begin;
  int count;     // 1 to 8
  bool aligned;  // all arrays start at multiples of 16 bytes
  __device__ bool whole() const { return aligned && count == kEight; }
};

template <class T>
__device__ Eight<T> load(const T* values, const Part& part) {
  const T* from = values + part.begin;
  if (part.whole()) return *reinterpret_cast<const Eight<T>*>(from);
  Eight<T> result = {};
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    if (k < part.count) result.at[k] = from[k];
  }
  return result;
}

template <class T>
__device__ void store(T* values, const Part& part, const Eight<T>& eight) {
  T* to = values + part.begin;
  if (part.whole()) {
    *reinterpret_cast<Eight<T>*>(to) = eight;
    return;
  }
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    if (k < part.count) to[k] = eight.at[k];
  }
}

/// The part's byte of a mask, unused bits 0; no mask is all ones.
__device__ inline unsigned load_mask(const uint8_t* mask, const Part& part) {
  return mask == nullptr ? 0xff : mask[part.begin / kEight];
}
__device__ inline void store_mask(uint8_t* mask, const Part& part, unsigned bits) {
  if (mask != nullptr) mask[part.begin / kEight] = static_cast<uint8_t>(bits & (0xff >> (kEight - part.count)));
}

/// Bits of a mask, all set where there is none. Without a branch, so that the loads of several elements overlap: no
/// mask reads some other memory, one byte of it. __ldg, since nvcc 13.0 takes the chosen pointer for one to local
/// memory.
struct MaskBits {
  __device__ MaskBits(const uint8_t* mask, const void* readable)
      : bytes(mask == nullptr ? static_cast<const uint8_t*>(readable) : mask),
        places(mask == nullptr ? 0 : -1),
        always(mask == nullptr) {}
  __device__ bool operator()(int64_t i) const {
    return (((__ldg(bytes + ((i / 8) & places)) >> (i % 8)) & 1) | always) != 0;
  }
  /// Of elements i, i + 1, ..., last, eight at most; bits behind them are anything.
  __device__ unsigned eight(int64_t i, int64_t last) const {
    const unsigned low = __ldg(bytes + ((i / 8) & places)), high = __ldg(bytes + ((last / 8) & places));
    return ((low | high << 8) >> (i % 8)) | (0u - always);
  }
  const uint8_t* bytes;
  int64_t places;
  unsigned always;
};

/// a / b and a % b without 64-bit division where the numbers are small.
__device__ inline int64_t quotient(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? static_cast<uint32_t>(a) / static_cast<uint32_t>(b) : a / b;
}
__device__ inline int64_t remainder(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? static_cast<uint32_t>(a) % static_cast<uint32_t>(b) : a % b;
}

/// The channels of a part of a matrix [rows][channels].
struct PartChannels {
  __device__ PartChannels(const Part& part, int64_t channels)
      : first(remainder(part.begin, channels)), channels(channels), together(part.whole() && channels % kEight == 0) {}

  /// Per-channel values of the part's elements; the array is aligned like the others.
  template <class T>
  __device__ Eight<T> load(const T* values) const {
    if (together) return *reinterpret_cast<const Eight<T>*>(values + first);
    Eight<T> result;
    int64_t c = first;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      result.at[k] = values[c];
      c = c + 1 == channels ? 0 : c + 1;
    }
    return result;
  }

  int64_t first, channels;
  bool together;
};

template <class... T>
bool aligned(const T*... arrays) {
  return ((reinterpret_cast<uintptr_t>(arrays) % 16 == 0) && ...);
}

template <class Body>
__global__ void __launch_bounds__(kThreads) run_parts(int64_t n, bool aligned, Body body) {
  await_previous();
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kEight;
  if (begin >= n) return;
  body(Part{begin, n - begin < kEight ? static_cast<int>(n - begin) : kEight, aligned});
}

/// Calls body(part) on the GPU for all parts of n elements.
template <class Body>
void for_parts(const char* kernel, int64_t n, bool aligned, cudaStream_t stream, const Body& body) {
  if (n == 0) return;
  const int64_t blocks = divide_up(n, kThreads * kEight);
  require(n > 0 && blocks <= INT32_MAX, kernel, "the number of elements must be in [0, 2^42)");
  launch_kernel(kernel, run_parts<Body>, static_cast<unsigned>(blocks), kThreads, 0, stream, n, aligned, body);
}

/// Rows that a thread of for_rows takes.
inline constexpr int kRowsOfThread = 4;

template <class Setup, class Body>
__global__ void __launch_bounds__(kThreads) run_rows(int64_t rows, int64_t apart, int groups, Setup setup, Body body) {
  await_previous();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, first = quotient(index, groups);
  if (first >= apart) return;
  const int64_t channels = int64_t{kEight} * groups, c = (index - first * groups) * kEight;
  const auto numbers = setup(PartChannels(Part{c, kEight, true}, channels));
#pragma unroll
  for (int k = 0; k < kRowsOfThread; ++k) {
    const int64_t row = first + k * apart;
    if (row < rows) body(Part{row * channels + c, kEight, true}, numbers);
  }
}

/// Calls body(part, setup(channels)) on the GPU for all parts of a matrix [rows][channels]. Where all arrays are
/// aligned and channels come in eights, a thread takes several parts of the same channels and calls setup once.
template <class Setup, class Body>
void for_rows(const char* kernel, int64_t rows, int64_t channels, bool aligned, cudaStream_t stream, const Setup& setup,
              const Body& body) {
  if (!aligned || channels % kEight != 0) {
    for_parts(kernel, rows * channels, aligned, stream,
              [=] __device__(const Part& part) { body(part, setup(PartChannels(part, channels))); });
    return;
  }
  if (rows * channels == 0) return;
  const int64_t apart = divide_up(rows, kRowsOfThread), groups = channels / kEight;
  const int64_t blocks = divide_up(apart * groups, kThreads);
  require(rows > 0 && blocks <= INT32_MAX && groups <= INT32_MAX, kernel, "the matrix is too large");
  launch_kernel(kernel, run_rows<Setup, Body>, static_cast<unsigned>(blocks), kThreads, 0, stream, rows, apart,
                static_cast<int>(groups), setup, body);
}

/// lo <= result <= hi; NaN gives lo.
__device__ inline float clip(float t, float lo, float hi) {
  const float v = t > lo ? t : lo;
  return v < hi ? v : hi;
}

/// Bounds of t, the value of a code without its zero point.
struct Bounds {
  __device__ explicit Bounds(const DeviceRange& range)
      : zero_point(*range.zero_point),
        lo(static_cast<float>(range.lo - zero_point)),
        hi(static_cast<float>(range.hi - zero_point)) {}
  __device__ uint8_t code(float t) const { return static_cast<uint8_t>(__float2int_rn(clip(t, lo, hi)) + zero_point); }
  __device__ bool inside(float t, bool relu = false) const { return t >= lo && t <= hi && (!relu || t > 0.0f); }

  int32_t zero_point;
  float lo, hi;
};

}  // namespace qat::ops::cuda
