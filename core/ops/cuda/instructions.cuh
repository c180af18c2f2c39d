// Instructions of the GPU that CUDA's C++ has no name for. Internal to core/ops/cuda.
#pragma once

#include <cstdint>

namespace qat::ops::cuda {

#ifdef __CUDACC__

/// The launch's shared bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

/// Copies kBytes (4 or 16) behind the back of the thread, or writes zeros.
template <int kBytes>
__device__ void copy_async(uint32_t to, const void* from, bool valid) {
  const int size = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(size) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes), "r"(size)
                 : "memory");
  }
}

/// The copies since the last call are a stage.
__device__ inline void end_stage() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Until only kLeft of the thread's stages may be under way.
template <int kLeft>
__device__ void wait_for_stages() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// Four matrices of 8 rows of 16 bytes, whose rows are at the addresses of eight lanes each: r[i] has bytes 4 (lane %
/// 4) to 4 (lane % 4) + 3 of row lane / 4.
__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// The same with each matrix, of 2-byte elements, transposed: r[i] has elements lane / 4 of rows 2 (lane % 4) and the
/// next one.
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// acc [16][8] += a [16][32] (unsigned) * b [32][8] (signed) by a warp; wraps.
__device__ inline void multiply_add(int32_t (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// acc [16][8] += a [16][16] * b [16][8] of bfloat16 by a warp.
__device__ inline void multiply_add(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c + the sum of four unsigned codes times four signed weights; wraps.
__device__ inline int32_t dot(uint32_t codes, uint32_t weights, int32_t c) {
  int32_t sum;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(codes), "r"(weights), "r"(c));
  return sum;
}

#endif  // tests/ops/cuda/emulated has its own

}  // namespace qat::ops::cuda
