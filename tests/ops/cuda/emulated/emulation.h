// What nvcc adds to C++, as far as the kernels use it, for the compiler of the CPU: they run as written, block after
// block, a fiber for each thread of a block. Included before each of their sources. No tensor cores, no assembly.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __grid_constant__
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

namespace qat::ops::cuda::emulation {

struct Place {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
/// Of the thread that runs.
const Place& place();
/// Does work, or records it while the stream is captured. Throws std::logic_error if another one is.
void submit(cudaStream_t stream, std::function<void()> work);
bool capturing();
/// Runs body as every thread of every block.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);
/// Until all threads of the block, or of the warp, that still run are here.
void join_block();
void join_warp();
/// kMail bytes of a thread of this warp.
constexpr size_t kMail = 32;
void* mailbox(int lane);
int lane();
/// A copy that this thread has begun, the end of a stage of them, and the wait for all but the last `left` stages: only
/// then what was copied is there.
void begin_copy(uint32_t to, const void* from, size_t bytes, size_t valid);
void end_stage();
void wait_for_stages(size_t left);

template <class T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= kMail);
  std::memcpy(mailbox(lane()), &value, sizeof(T));
  join_warp();
  std::memcpy(&value, mailbox(from), sizeof(T));
  join_warp();
  return value;
}

}  // namespace qat::ops::cuda::emulation

#define threadIdx (qat::ops::cuda::emulation::place().thread)
#define blockIdx (qat::ops::cuda::emulation::place().block)
#define blockDim (qat::ops::cuda::emulation::place().block_size)
#define gridDim (qat::ops::cuda::emulation::place().grid_size)

using std::max;
using std::min;

inline void __syncthreads() { qat::ops::cuda::emulation::join_block(); }
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned, T value, int from, int width = 32) {
  const int lane = qat::ops::cuda::emulation::lane();
  return qat::ops::cuda::emulation::exchange(value, lane / width * width + from % width);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int bits) {
  return qat::ops::cuda::emulation::exchange(value, qat::ops::cuda::emulation::lane() ^ bits);
}

template <class T>
T __ldg(const T* value) {
  return *value;
}

/// NaN gives 0 there; the kernels clip before.
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }

/// a * b, byte by byte, all signed; wraps.
inline int __dp4a(int a, int b, int c) {
  auto sum = static_cast<unsigned>(c);
  for (int k = 0; k < 4; ++k) {
    sum += static_cast<unsigned>(static_cast<int8_t>(a >> (8 * k)) * static_cast<int8_t>(b >> (8 * k)));
  }
  return static_cast<int>(sum);
}

inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selectors) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int k = 0; k < 4; ++k) {
    result |= static_cast<unsigned>(bytes >> (8 * (selectors >> (4 * k) & 7)) & 0xff) << (8 * k);
  }
  return result;
}

inline int atomicAdd(int* to, int value) {
  return std::exchange(*to, static_cast<int>(static_cast<unsigned>(*to) + static_cast<unsigned>(value)));
}

inline int atomicMax(int* to, int value) { return std::exchange(*to, std::max(*to, value)); }

inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
  return std::exchange(*to, *to + value);
}
inline unsigned long long atomicMax(unsigned long long* to, unsigned long long value) {
  return std::exchange(*to, std::max(*to, value));
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*)(Parameters...), cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace qat::ops::cuda {

inline void await_previous() {}

template <class... Parameters, class... Arguments>
void launch_kernel(const char*, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  emulation::submit(stream, [=] { emulation::run(grid, block, shared_bytes, [&] { kernel(arguments...); }); });
}

// core/ops/cuda/instructions.cuh.

unsigned char* dynamic_shared();

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - dynamic_shared());
}

template <int kBytes>
void copy_async(uint32_t to, const void* from, bool valid) {
  emulation::begin_copy(to, from, kBytes, valid ? kBytes : 0);
}

inline void end_stage() { emulation::end_stage(); }

template <int kLeft>
void wait_for_stages() {
  emulation::wait_for_stages(kLeft);
}

/// The addresses of a warp's 32 rows.
struct Rows {
  uint32_t at[32];
};
Rows matrix_rows(uint32_t address);

inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  const int lane = emulation::lane();
  const Rows rows = matrix_rows(address);
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], dynamic_shared() + rows.at[8 * i + lane / 4] + 4 * (lane % 4), 4);
}

inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  const int lane = emulation::lane();
  const Rows rows = matrix_rows(address);
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int k = 0; k < 2; ++k) {
      std::memcpy(&pair[k], dynamic_shared() + rows.at[8 * i + lane % 4 * 2 + k] + 2 * (lane / 4), sizeof(pair[k]));
    }
    r[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

void multiply_add(int32_t (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void multiply_add(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

inline int32_t dot(uint32_t codes, uint32_t weights, int32_t c) {
  auto sum = static_cast<uint32_t>(c);
  for (int k = 0; k < 4; ++k) {
    sum += static_cast<uint32_t>(static_cast<uint8_t>(codes >> (8 * k)) * static_cast<int8_t>(weights >> (8 * k)));
  }
  return static_cast<int32_t>(sum);
}

}  // namespace qat::ops::cuda
