// A block's matrix product of bfloat16 on the tensor cores, float32 sums: slices of both operands come through shared
// memory some stages ahead. Left operands of two planes are added up, each times the right operand. Internal to
// core/ops/cuda.
#pragma once

#include <cstdint>

#include "core/ops/cuda/bfloat16.cuh"
#include "core/ops/cuda/instructions.cuh"
#include "core/ops/cuda/launch.cuh"

namespace qat::ops::cuda::kernels {

constexpr int kSliceDepth = 32;  // elements of the depth in a stage
constexpr int kChunk = 8;        // elements of a 128-bit access
constexpr int kStages = 4;

template <int kRowsOfBlock, int kColumnsOfBlock, int kWarpsDown, int kWarpsAcross>
struct Tile {
  static constexpr int kRows = kRowsOfBlock, kColumns = kColumnsOfBlock;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * 32;
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpColumns = kColumns / kWarpsAcross;
  static constexpr int kRowTiles = kWarpRows / 16, kColumnTiles = kWarpColumns / 8;  // of one instruction
  static constexpr int kMinBlocks = kRowTiles * kColumnTiles < 32 ? 3 : 2;  // of a multiprocessor, by registers
  static __device__ int warp_row() { return static_cast<int>(threadIdx.x) / 32 / kWarpsAcross * kWarpRows; }
  static __device__ int warp_column() { return static_cast<int>(threadIdx.x) / 32 % kWarpsAcross * kWarpColumns; }
};

/// A slice [kLines][kSliceDepth] of an operand.
template <int kLines>
struct LineSlice {
  /// Of a chunk: eight lines of one chunk column lie in eight different groups of banks.
  static __device__ int place(int line, int chunk) { return line * kSliceDepth + (chunk ^ (line >> 1 & 3)) * kChunk; }
  alignas(128) Bfloat16 at[kLines * kSliceDepth];
};

/// A slice [kSliceDepth][kLines] of an operand.
template <int kLines>
struct DepthSlice {
  /// Of a chunk: eight places of the depth of one chunk column lie in eight different groups of banks.
  static __device__ int place(int depth, int chunk) {
    const int shuffled = kLines < 64 ? chunk ^ (depth >> 1 & 3) : chunk ^ (depth & 7);
    return depth * kLines + shuffled * kChunk;
  }
  alignas(128) Bfloat16 at[kLines * kSliceDepth];
};

/// Operands of a warp's 16 rows and 16 elements of the depth from `depth` on.
template <int kLines>
__device__ void load_left(uint32_t (&a)[4], const LineSlice<kLines>& slice, int row, int depth) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices(a, shared_address(slice.at + slice.place(row + lane % 16, depth / kChunk + lane / 16)));
}
template <int kLines>
__device__ void load_left(uint32_t (&a)[4], const DepthSlice<kLines>& slice, int row, int depth) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int chunk = row / kChunk + lane / 8 % 2;
  load_matrices_transposed(a, shared_address(slice.at + slice.place(depth + lane / 16 * 8 + lane % 8, chunk)));
}

/// Of 16 columns: two words of the first eight, two of the others.
template <int kLines>
__device__ void load_right(uint32_t (&b)[4], const LineSlice<kLines>& slice, int column, int depth) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int line = column + lane / 16 * 8 + lane % 8;
  load_matrices(b, shared_address(slice.at + slice.place(line, depth / kChunk + lane / 8 % 2)));
}
template <int kLines>
__device__ void load_right(uint32_t (&b)[4], const DepthSlice<kLines>& slice, int column, int depth) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int chunk = column / kChunk + lane / 16;
  load_matrices_transposed(b, shared_address(slice.at + slice.place(depth + lane / 8 % 2 * 8 + lane % 8, chunk)));
}

template <class Left, class Right, int kPlanes>
struct Stage {
  Left left[kPlanes];
  Right right;
};

/// One warp's outputs.
template <class T>
struct WarpProduct {
  float acc[T::kRowTiles][T::kColumnTiles][4] = {};

  template <class Left, class Right, int kPlanes>
  __device__ void add(const Stage<Left, Right, kPlanes>& stage) {
#pragma unroll
    for (int depth = 0; depth < kSliceDepth; depth += 16) {
      uint32_t a[kPlanes][T::kRowTiles][4], b[T::kColumnTiles / 2][4];
#pragma unroll
      for (int n = 0; n < T::kColumnTiles / 2; ++n) load_right(b[n], stage.right, T::warp_column() + n * 16, depth);
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) load_left(a[p][m], stage.left[p], T::warp_row() + m * 16, depth);
      }
      add(a, b);
    }
  }

  /// 16 elements of the depth.
  template <int kPlanes>
  __device__ void add(const uint32_t (&a)[kPlanes][T::kRowTiles][4], const uint32_t (&b)[T::kColumnTiles / 2][4]) {
#pragma unroll
    for (int p = kPlanes - 1; p >= 0; --p) {  // the plane of small numbers first
#pragma unroll
      for (int n = 0; n < T::kColumnTiles; ++n) {
        const uint32_t b0 = b[n / 2][n % 2 * 2], b1 = b[n / 2][n % 2 * 2 + 1];
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) multiply_add(acc[m][n], a[p][m], b0, b1);
      }
    }
  }

  /// Calls write(row, column, values) for pairs of neighbours; row and column of the block.
  template <class Write>
  __device__ void for_pairs(const Write& write) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = T::warp_row() + m * 16 + half * 8 + lane / 4;
#pragma unroll
        for (int n = 0; n < T::kColumnTiles; ++n) {
          write(row, T::warp_column() + n * 8 + lane % 4 * 2,
                make_float2(acc[m][n][half * 2], acc[m][n][half * 2 + 1]));
        }
      }
    }
  }
};

/// copies.next(stage) begins to copy the next slice, product.add(stage) adds one that is there.
template <class Stage, int kCount, class Product, class Copies>
__device__ void multiply_slices(Product& product, Copies& copies, int slices) {
  auto* stages = reinterpret_cast<Stage*>(dynamic_shared());
#pragma unroll
  for (int k = 0; k < kCount - 1; ++k) {
    if (k < slices) copies.next(stages[k]);
    end_stage();
  }
  int now = 0, ahead = kCount - 1;
  for (int k = 0; k < slices; ++k) {
    wait_for_stages<kCount - 2>();
    __syncthreads();  // the slice is there, and nobody reads the one that is overwritten next
    if (k + kCount - 1 < slices) copies.next(stages[ahead]);
    end_stage();
    product.add(stages[now]);
    now = now + 1 == kCount ? 0 : now + 1;
    ahead = ahead + 1 == kCount ? 0 : ahead + 1;
  }
}

/// Starts a kernel that multiplies: it may need more shared memory than kernels get unasked.
template <class Kernel, class... Arguments>
void launch_product(const char* name, Kernel* kernel, dim3 grid, int threads, size_t memory, cudaStream_t stream,
                    const Arguments&... arguments) {
  if (memory > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(memory));
  }
  launch_kernel(name, kernel, grid, threads, memory, stream, arguments...);
}

}  // namespace qat::ops::cuda::kernels
