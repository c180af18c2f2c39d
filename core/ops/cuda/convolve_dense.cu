// An implicit matrix product: rows are output pixels, columns output channels, the depth is kernel_h * kernel_w * in_c.
// Blocks copy slices of both operands to shared memory, some stages ahead of the tensor cores. A padded pixel is the
// code z, so that sum((x - z) w) = sum(x w) - z sum(w) holds everywhere; the warps sum w from the operands in
// registers.
#include <algorithm>
#include <utility>

#include "core/ops/cuda/channel_sums.cuh"
#include "core/ops/cuda/convolve_kernels.h"
#include "core/ops/cuda/instructions.cuh"
#include "core/ops/cuda/launch.cuh"

namespace qat::ops::cuda::kernels {
namespace {

constexpr int kSlice = 64;  // bytes of the depth in a stage
constexpr int kChunk = 16;  // bytes of a 128-bit access
constexpr int kStages = 4;

/// kGranule: bytes of the depth that surely lie in one tap and are aligned: 16, 4 or 1.
template <int kRowsOfBlock, int kColumnsOfBlock, int kWarpsDown, int kWarpsAcross, int kGranuleBytes>
struct Tile {
  static constexpr int kRows = kRowsOfBlock, kColumns = kColumnsOfBlock, kGranule = kGranuleBytes;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * 32;
  static constexpr int kAcross = kWarpsAcross;
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpColumns = kColumns / kWarpsAcross;
  static constexpr int kRowTiles = kWarpRows / 16, kColumnTiles = kWarpColumns / 8;  // of one instruction
  static constexpr int kRowStep = kThreads / (kSlice / kChunk);  // rows that one copy of all threads covers
  static constexpr int kRowCopies = kRows / kRowStep;
  static constexpr int kColumnCopies = kColumns / kRowStep;
  static constexpr int kMinBlocks = kWarpColumns == 64 ? 2 : 3;  // of a multiprocessor, by registers
};

/// Place of a chunk of a row in shared memory: eight rows of one chunk column lie in eight different groups of banks.
__device__ int place(int row, int chunk) { return row * kSlice + (chunk ^ ((row >> 1) & 3)) * kChunk; }

/// A place in the depth: tap and channel, and how far it lies behind the first one in the input.
struct DepthPlace {
  __device__ DepthPlace(const ConvShape& s, int k) {
    const int tap = k / s.in_c;
    c = k - tap * s.in_c;
    kh = tap / s.kernel_w;
    kw = tap - kh * s.kernel_w;
    offset = (kh * s.dilation_h * s.in_w + kw * s.dilation_w) * s.in_c + c;
  }
  __device__ void advance(const ConvShape& s, int bytes) {
    c += bytes;
    offset += bytes;
    while (c >= s.in_c) {
      c -= s.in_c;
      offset += (s.dilation_w - 1) * s.in_c;
      if (++kw < s.kernel_w) continue;
      kw = 0;
      ++kh;
      offset += (s.dilation_h * s.in_w - s.kernel_w * s.dilation_w) * s.in_c;
    }
  }
  int c, kh, kw, offset;
};

/// The part of the input under one output pixel: where it starts, and which rows and columns of the kernel meet the
/// input (bits; bit 31 is clear).
struct PixelPlace {
  PixelPlace() = default;
  __device__ PixelPlace(const ConvShape& s, int row) {
    const int line = row / s.out_w, sample = line / s.out_h;
    const int top = (line - sample * s.out_h) * s.stride_h - s.pad_top;
    const int left = (row - line * s.out_w) * s.stride_w - s.pad_left;
    start = (static_cast<int64_t>(sample) * s.in_h * s.in_w + top * s.in_w + left) * s.in_c;
    if (row < s.rows) {
      rows = taps(s.kernel_h, top, s.dilation_h, s.in_h);
      columns = taps(s.kernel_w, left, s.dilation_w, s.in_w);
    }
  }
  __device__ bool meets(const DepthPlace& d) const { return ((rows >> min(d.kh, 31)) & (columns >> d.kw) & 1) != 0; }

  static __device__ uint32_t taps(int kernel, int first, int dilation, int size) {
    uint32_t bits = 0;
    for (int k = 0; k < kernel; ++k, first += dilation) bits |= static_cast<uint32_t>(first >= 0 && first < size) << k;
    return bits;
  }
  int64_t start = 0;
  uint32_t rows = 0, columns = 0;
};

template <class T>
struct Stage {
  alignas(128) uint8_t pixels[T::kRows * kSlice];
  alignas(128) uint8_t weights[T::kColumns * kSlice];
};

/// What one thread copies: one chunk of 16 bytes of some rows of both operands.
template <class T>
class Copies {
 public:
  __device__ Copies(const ConvShape& s, const uint8_t* x, const int8_t* w, int row, int column, int first_slice,
                    uint32_t zero_code)
      : s_(s),
        x_(x),
        w_(w),
        depth_(s, first_slice * kSlice + chunk() * kChunk),
        k_(first_slice * kSlice + chunk() * kChunk),
        column_(column + line()),
        padding_(zero_code * 0x01010101u) {
#pragma unroll
    for (int i = 0; i < T::kRowCopies; ++i) pixels_[i] = PixelPlace(s, row + line() + i * T::kRowStep);
  }

  __device__ void next(Stage<T>& stage) {
    copy_pixels(stage.pixels);
    copy_weights(stage.weights);
    depth_.advance(s_, kSlice);
    k_ += kSlice;
  }

 private:
  static __device__ int chunk() { return static_cast<int>(threadIdx.x) % (kSlice / kChunk); }
  static __device__ int line() { return static_cast<int>(threadIdx.x) / (kSlice / kChunk); }

  __device__ void copy_pixels(uint8_t* to) {
    DepthPlace d = depth_;
    uint32_t bytes[T::kRowCopies][4] = {};
#pragma unroll
    for (int b = 0; b < kChunk; b += T::kGranule) {
#pragma unroll
      for (int i = 0; i < T::kRowCopies; ++i) {
        const bool inside = pixels_[i].meets(d);
        const uint8_t* from = x_ + (pixels_[i].start + d.offset);
        uint8_t* target = to + place(line() + i * T::kRowStep, chunk()) + b;
        if constexpr (T::kGranule == 1) {
          const uint32_t code = inside ? *from : padding_ & 0xff;
          bytes[i][b / 4] |= code << (b % 4 * 8);
        } else if (inside) {
          copy_async<T::kGranule>(shared_address(target), from, true);
        } else if constexpr (T::kGranule == 16) {
          *reinterpret_cast<uint4*>(target) = make_uint4(padding_, padding_, padding_, padding_);
        } else {
          *reinterpret_cast<uint32_t*>(target) = padding_;
        }
      }
      if constexpr (T::kGranule < kChunk) d.advance(s_, T::kGranule);
    }
    if constexpr (T::kGranule == 1) {
#pragma unroll
      for (int i = 0; i < T::kRowCopies; ++i) {
        *reinterpret_cast<uint4*>(to + place(line() + i * T::kRowStep, chunk())) =
            make_uint4(bytes[i][0], bytes[i][1], bytes[i][2], bytes[i][3]);
      }
    }
  }

  __device__ void copy_weights(uint8_t* to) {
#pragma unroll
    for (int i = 0; i < T::kColumnCopies; ++i) {
      const int row = line() + i * T::kRowStep, column = column_ + i * T::kRowStep;
      const int8_t* from = w_ + static_cast<int64_t>(column) * s_.depth + k_;
      uint8_t* target = to + place(row, chunk());
      uint32_t bytes[4] = {};
#pragma unroll
      for (int b = 0; b < kChunk; b += T::kGranule) {
        const bool valid = column < s_.out_c && k_ + b < s_.depth;
        if constexpr (T::kGranule == 1) {
          if (valid) bytes[b / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(from[b])) << (b % 4 * 8);
        } else {
          copy_async<T::kGranule>(shared_address(target + b), valid ? from + b : w_, valid);
        }
      }
      if constexpr (T::kGranule == 1) {
        *reinterpret_cast<uint4*>(target) = make_uint4(bytes[0], bytes[1], bytes[2], bytes[3]);
      }
    }
  }

  const ConvShape& s_;
  const uint8_t* x_;
  const int8_t* w_;
  DepthPlace depth_;
  int k_, column_;
  uint32_t padding_;
  PixelPlace pixels_[T::kRowCopies];
};

/// 32 bytes of the depth of a stage, as one warp's operands.
template <class T>
struct Operands {
  __device__ Operands(const Stage<T>& stage, int half, int warp_row, int warp_column) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint32_t pixels = shared_address(stage.pixels), weights = shared_address(stage.weights);
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      load_matrices(a[m], pixels + place(warp_row + m * 16 + lane % 16, half * 2 + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < T::kColumnTiles / 2; ++n) {
      const int column = warp_column + n * 16 + lane / 16 * 8 + lane % 8;
      load_matrices(b[n], weights + place(column, half * 2 + lane / 8 % 2));
    }
  }
  uint32_t a[T::kRowTiles][4], b[T::kColumnTiles / 2][4];
};

/// Place of an accumulator in a block's tile of them, in the memory of the stages. Eight columns lie side by side, and
/// those of four rows in different banks.
template <class T>
__device__ int tile_place(int row, int column) {
  static_assert(T::kRows * T::kColumns * sizeof(int32_t) <= kStages * sizeof(Stage<T>));
  return row * T::kColumns + (column ^ (row & 3) * 8);
}

/// One warp's outputs and the sums of its columns' weights.
template <class T>
struct Product {
  int32_t acc[T::kRowTiles][T::kColumnTiles][4] = {};
  int32_t weight_sum[T::kColumnTiles] = {};

  __device__ void add(const Operands<T>& operands) {
#pragma unroll
    for (int n = 0; n < T::kColumnTiles; ++n) {
      const uint32_t b0 = operands.b[n / 2][n % 2 * 2], b1 = operands.b[n / 2][n % 2 * 2 + 1];
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) multiply_add(acc[m][n], operands.a[m], b0, b1);
      weight_sum[n] = __dp4a(static_cast<int>(b0), 0x01010101, weight_sum[n]);
      weight_sum[n] = __dp4a(static_cast<int>(b1), 0x01010101, weight_sum[n]);
    }
  }

  /// Lays acc - z * the sums of the weights into the block's tile.
  __device__ void lay_out(int32_t* tile, int warp_row, int warp_column, uint32_t zero_code) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, pair = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < T::kColumnTiles; ++n) {
      // The four lanes of a column hold parts of its weights' sum.
      int32_t sum = weight_sum[n];
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      uint32_t correction[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        correction[e] = zero_code * static_cast<uint32_t>(__shfl_sync(0xffffffff, sum, (pair + e) * 4));
      }
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int32_t value[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            value[e] = static_cast<int32_t>(static_cast<uint32_t>(acc[m][n][half * 2 + e]) - correction[e]);
          }
          int32_t* to = tile + tile_place<T>(warp_row + m * 16 + lane / 4 + half * 8, warp_column + n * 8 + pair);
          *reinterpret_cast<int2*>(to) = make_int2(value[0], value[1]);
        }
      }
    }
  }
};

/// Writes (or, for one of several parts of the depth, adds) a tile whose first element is that of `row` and `column`.
template <class T>
__device__ void write_tile(const ConvShape& s, const int32_t* tile, int32_t* out, int row, int column, bool add_up) {
  constexpr int kTogether = 4, kGroups = T::kColumns / kTogether;
  const int thread = static_cast<int>(threadIdx.x);
  if (!add_up && s.out_c % kTogether == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(int4) == 0) {
#pragma unroll 4
    for (int i = thread; i < T::kRows * kGroups; i += T::kThreads) {
      const int r = i / kGroups, c = i % kGroups * kTogether;
      if (row + r >= s.rows || column + c >= s.out_c) continue;
      *reinterpret_cast<int4*>(out + static_cast<int64_t>(row + r) * s.out_c + column + c) =
          *reinterpret_cast<const int4*>(tile + tile_place<T>(r, c));
    }
    return;
  }
#pragma unroll 4
  for (int i = thread; i < T::kRows * T::kColumns; i += T::kThreads) {
    const int r = i / T::kColumns, c = i % T::kColumns;
    if (row + r >= s.rows || column + c >= s.out_c) continue;
    int32_t* to = out + static_cast<int64_t>(row + r) * s.out_c + column + c;
    const int32_t value = tile[tile_place<T>(r, c)];
    if (add_up) {
      atomicAdd(to, value);  // integers: the order does not matter
    } else {
      *to = value;
    }
  }
}

/// Adds the sums of a tile's columns; its memory is used up.
template <class T>
__device__ void sum_tile(const ConvShape& s, int32_t* tile, int row, int column, const ChannelSums& sums) {
  constexpr int kLines = T::kThreads / T::kColumns;
  const int thread = static_cast<int>(threadIdx.x), c = thread % T::kColumns, rows = min(T::kRows, s.rows - row);
  IntegerSums mine = IntegerSums::none();
#pragma unroll 4
  for (int r = thread / T::kColumns; r < rows; r += kLines) mine.add(tile[tile_place<T>(r, c)]);
  __syncthreads();
  add_columns<kLines, T::kColumns>(mine, reinterpret_cast<IntegerSums*>(tile), column + c < s.out_c ? column + c : -1,
                                   sums);
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kMinBlocks)
    multiply(const __grid_constant__ ConvShape s, const uint8_t* __restrict__ x, const int32_t* zero_point,
             const int8_t* __restrict__ w, int32_t* __restrict__ acc, ChannelSums sums, int column_blocks,
             int part_slices) {
  await_previous();
  auto* stages = reinterpret_cast<Stage<T>*>(dynamic_shared());
  const int block_row = static_cast<int>(blockIdx.x) / column_blocks;
  const int row = block_row * T::kRows;
  const int column = (static_cast<int>(blockIdx.x) - block_row * column_blocks) * T::kColumns;
  const int slices = (s.depth + kSlice - 1) / kSlice;
  const int first = static_cast<int>(blockIdx.y) * part_slices, count = min(part_slices, slices - first);
  const auto zero_code = static_cast<uint32_t>(*zero_point);

  Copies<T> copies(s, x, w, row, column, first, zero_code);
#pragma unroll
  for (int k = 0; k < kStages - 1; ++k) {
    if (k < count) copies.next(stages[k]);
    end_stage();
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_row = warp / T::kAcross * T::kWarpRows, warp_column = warp % T::kAcross * T::kWarpColumns;
  Product<T> product;
  int now = 0, ahead = kStages - 1;
  for (int k = 0; k < count; ++k) {
    wait_for_stages<kStages - 2>();
    __syncthreads();  // the slice is there, and nobody reads the one that is overwritten next
    const Operands<T> first_half(stages[now], 0, warp_row, warp_column);
    if (k + kStages - 1 < count) copies.next(stages[ahead]);
    end_stage();
    const Operands<T> second_half(stages[now], 1, warp_row, warp_column);
    product.add(first_half);
    product.add(second_half);
    now = now + 1 == kStages ? 0 : now + 1;
    ahead = ahead + 1 == kStages ? 0 : ahead + 1;
  }
  __syncthreads();  // nobody reads the stages any more
  auto* tile = reinterpret_cast<int32_t*>(stages);
  product.lay_out(tile, warp_row, warp_column, zero_code);
  __syncthreads();
  write_tile<T>(s, tile, acc, row, column, gridDim.y > 1);
  if (sums.words != nullptr) sum_tile<T>(s, tile, row, column, sums);
}

/// Few blocks: several of them share the depth of one output and add up.
constexpr int kMinSlicesOfPart = 4;

template <class T>
void launch(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc,
            const ChannelSums& sums, cudaStream_t stream) {
  const int64_t column_blocks = divide_up(s.out_c, T::kColumns);
  const int64_t blocks = divide_up(s.rows, T::kRows) * column_blocks;
  const int64_t slices = divide_up(s.depth, kSlice);
  const int64_t wanted =
      std::clamp<int64_t>(T::kMinBlocks * processors() / blocks, 1, std::max<int64_t>(1, slices / kMinSlicesOfPart));
  const int64_t part_slices = divide_up(slices, wanted), parts = divide_up(slices, part_slices);
  require(blocks <= INT32_MAX, "convolve", "the output is too large for the GPU's kernels");
  if (parts > 1) {
    cudaMemsetAsync(acc, 0, static_cast<size_t>(s.rows) * static_cast<size_t>(s.out_c) * sizeof(int32_t), stream);
  }
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
  constexpr int kMemory = kStages * sizeof(Stage<T>);
  if (kMemory > 48 * 1024) cudaFuncSetAttribute(multiply<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMemory);
  launch_kernel("convolve", multiply<T>, grid, T::kThreads, kMemory, stream, s, x, zero_point, w, acc,
                parts > 1 ? ChannelSums{} : sums, static_cast<int>(column_blocks), static_cast<int>(part_slices));
  if (parts > 1 && sums.words != nullptr) channel_statistics(acc, s.rows, sums, stream);
}

}  // namespace

void convolve_dense(const ConvShape& s, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc,
                    const ChannelSums& sums, cudaStream_t stream) {
  const uintptr_t low_bits =
      reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(w) | static_cast<uintptr_t>(s.in_c);
  if (low_bits % 16 == 0) {
    if (s.out_c <= 32) {
      launch<Tile<128, 32, 4, 1, 16>>(s, x, zero_point, w, acc, sums, stream);
    } else if (s.out_c <= 64 || s.depth < 8 * kSlice ||
               divide_up(s.rows, 128) * divide_up(s.out_c, 128) < 8 * processors()) {
      launch<Tile<128, 64, 2, 2, 16>>(s, x, zero_point, w, acc, sums, stream);
    } else {
      launch<Tile<128, 128, 2, 2, 16>>(s, x, zero_point, w, acc, sums, stream);
    }
  } else if (low_bits % 4 == 0) {
    launch<Tile<128, 64, 2, 2, 4>>(s, x, zero_point, w, acc, sums, stream);
  } else {
    launch<Tile<128, 64, 2, 2, 1>>(s, x, zero_point, w, acc, sums, stream);
  }
}

}  // namespace qat::ops::cuda::kernels
