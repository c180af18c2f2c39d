// Both gradients are implicit matrix products of bfloat16; copies of the codes as bfloat16, zeros for padding, are made
// first.
//   input:  rows are input pixels, columns input channels, the depth is taps * out_c. A stride leaves some taps out,
//   the
//           same ones for all pixels of a residue: each residue is a product of its own, of its own taps only.
//   weight: rows are output channels, columns taps * in_c, the depth is output pixels. Blocks sum parts of the depth; a
//           second kernel adds the parts in order.
#include <algorithm>

#include "core/ops/cuda/bfloat16_product.cuh"
#include "core/ops/cuda/convolve_gradient_kernels.h"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/launch.cuh"

namespace qat::ops::cuda::kernels {
namespace {

int padded(int channels) { return static_cast<int>(padded_channels(channels)); }

/// One axis of the input pixels first, first + stride, ... They are read by the taps tap, tap + step, ... of a kernel:
/// pixel i by tap t for the output base + i - t * dilation, if there is one.
struct ResidueAxis {
  __device__ ResidueAxis(int residue, int size, int kernel, int stride, int pad, int kernel_dilation)
      : first(residue), pixels((size - residue + stride - 1) / stride) {
    for (int k = 0; k < kernel; ++k) {
      if ((first + pad - k * kernel_dilation) % stride != 0) continue;
      if (taps == 0) {
        tap = k;
        base = (first + pad - k * kernel_dilation) / stride;
      } else if (taps == 1) {
        step = k - tap;
        dilation = step * kernel_dilation / stride;
      }
      ++taps;
    }
  }
  /// The taps (bits; bit 31 is clear) with an output for pixel i.
  __device__ uint32_t meeting(int i, int outputs) const {
    uint32_t bits = 0;
    for (int t = 0, out = base + i; t < taps; ++t, out -= dilation) {
      bits |= static_cast<uint32_t>(out >= 0 && out < outputs) << t;
    }
    return bits;
  }
  int first, pixels, taps = 0, tap = 0, step = 0, base = 0, dilation = 0;
};

/// Input pixels of one residue of both strides.
struct Residue {
  __device__ Residue(const ConvShape& s, int residue)
      : h(residue / min(s.stride_w, s.in_w), s.in_h, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h),
        w(residue % min(s.stride_w, s.in_w), s.in_w, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w),
        pixels(s.batch * h.pixels * w.pixels) {}
  struct Pixel {
    int sample, i, j;
  };
  __device__ Pixel pixel(int row) const {
    const int line = row / w.pixels, sample = line / h.pixels;
    return {sample, line - sample * h.pixels, row - line * w.pixels};
  }
  ResidueAxis h, w;
  int pixels;
};

/// What one thread copies: one chunk of some pixels' outputs and of some input channels' weights.
template <class T, int kPlanes>
class InputCopies {
 public:
  using Stage = kernels::Stage<LineSlice<T::kRows>, LineSlice<T::kColumns>, kPlanes>;

  __device__ InputCopies(const ConvShape& s, const Residue& residue, const Bfloat16* operand, const Bfloat16* w,
                         int channels, int row, int column)
      : s_(s),
        residue_(residue),
        operand_(operand),
        plane_(static_cast<int64_t>(s.rows) * channels),
        channels_(channels),
        columns_left_(s.in_c - column - line()) {
    w_ = w + static_cast<int64_t>(column + line()) * s.kernel_h * s.kernel_w * channels;
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i) {
      const int r = row + line() + i * kRowStep;
      if (r >= residue.pixels) continue;
      const Residue::Pixel at = residue.pixel(r);
      taps_h_[i] = residue.h.meeting(at.i, s.out_h);
      taps_w_[i] = residue.w.meeting(at.j, s.out_w);
      const int y = residue.h.base + at.i, x = residue.w.base + at.j;
      start_[i] = ((static_cast<int64_t>(at.sample) * s.out_h + y) * s.out_w + x) * channels;
    }
    c_ = chunk() * kChunk;
    carry();
  }

  __device__ void next(Stage& stage) {
    const int64_t behind = static_cast<int64_t>(th_ * residue_.h.dilation * s_.out_w + tw_ * residue_.w.dilation);
    const int64_t offset = c_ - behind * channels_;
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i) {
      const bool meets = ((taps_h_[i] >> min(th_, 31)) & (taps_w_[i] >> tw_) & 1) != 0;
      const Bfloat16* from = operand_ + (meets ? start_[i] + offset : 0);
      const int place = LineSlice<T::kRows>::place(line() + i * kRowStep, chunk());
#pragma unroll
      for (int p = 0; p < kPlanes; ++p)
        copy_async<16>(shared_address(stage.left[p].at + place), from + p * plane_, meets);
    }
    const int tap_h = residue_.h.tap + th_ * residue_.h.step, tap_w = residue_.w.tap + tw_ * residue_.w.step;
    const int64_t weight = static_cast<int64_t>(tap_h * s_.kernel_w + tap_w) * channels_ + c_;
    const int64_t line_step = static_cast<int64_t>(kRowStep) * s_.kernel_h * s_.kernel_w * channels_;
#pragma unroll
    for (int i = 0; i < kColumnCopies; ++i) {
      const bool valid = th_ < residue_.h.taps && i * kRowStep < columns_left_;
      const int place = LineSlice<T::kColumns>::place(line() + i * kRowStep, chunk());
      copy_async<16>(shared_address(stage.right.at + place), valid ? w_ + (i * line_step + weight) : operand_, valid);
    }
    c_ += kSliceDepth;
    carry();
  }

 private:
  static constexpr int kChunks = kSliceDepth / kChunk, kRowStep = T::kThreads / kChunks;
  static constexpr int kRowCopies = T::kRows / kRowStep, kColumnCopies = T::kColumns / kRowStep;
  static __device__ int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  static __device__ int line() { return static_cast<int>(threadIdx.x) / kChunks; }

  __device__ void carry() {
    while (c_ >= channels_) {
      c_ -= channels_;
      if (++tw_ < residue_.w.taps) continue;
      tw_ = 0;
      ++th_;
    }
  }

  const ConvShape& s_;
  const Residue& residue_;
  const Bfloat16 *operand_, *w_;
  int64_t plane_;
  int channels_, columns_left_;
  int c_, th_ = 0, tw_ = 0;  // the place in the depth
  int64_t start_[kRowCopies] = {};
  uint32_t taps_h_[kRowCopies] = {}, taps_w_[kRowCopies] = {};
};

/// Blocks of all residues, the same number for each.
template <class T, int kPlanes>
__global__ void __launch_bounds__(T::kThreads, T::kMinBlocks)
    multiply_inputs(const __grid_constant__ ConvShape s, const Bfloat16* __restrict__ operand,
                    const Bfloat16* __restrict__ w, int channels, bool add, float* __restrict__ dx, int column_blocks,
                    int residue_blocks) {
  const int block = static_cast<int>(blockIdx.x), residue_index = block / residue_blocks;
  const int block_row = (block - residue_index * residue_blocks) / column_blocks;
  const int row = block_row * T::kRows, column = block % column_blocks * T::kColumns;
  const Residue residue(s, residue_index);
  const int64_t depth = static_cast<int64_t>(residue.h.taps * residue.w.taps) * channels;
  if (row >= residue.pixels || (add && depth == 0)) return;

  InputCopies<T, kPlanes> copies(s, residue, operand, w, channels, row, column);
  WarpProduct<T> product;
  multiply_slices<T, typename InputCopies<T, kPlanes>::Stage>(
      product, copies, static_cast<int>((depth + kSliceDepth - 1) / kSliceDepth));

  const bool pairs = s.in_c % 2 == 0 && reinterpret_cast<uintptr_t>(dx) % 8 == 0;
  product.for_pairs([&](int r, int c, float2 value) {
    r += row;
    c += column;
    if (r >= residue.pixels || c >= s.in_c) return;
    const Residue::Pixel at = residue.pixel(r);
    const int y = residue.h.first + at.i * s.stride_h, x = residue.w.first + at.j * s.stride_w;
    float* to = dx + ((static_cast<int64_t>(at.sample) * s.in_h + y) * s.in_w + x) * s.in_c + c;
    if (pairs) {
      const float2 before = add ? *reinterpret_cast<const float2*>(to) : make_float2(0.0f, 0.0f);
      *reinterpret_cast<float2*>(to) = make_float2(before.x + value.x, before.y + value.y);
      return;
    }
    to[0] = add ? to[0] + value.x : value.x;
    if (c + 1 < s.in_c) to[1] = add ? to[1] + value.y : value.y;
  });
}

/// w [out_c][taps][in_c] as [in_c][taps][channels]: a thread takes eight outputs of a weight; neighbours read and write
/// neighbours.
__global__ void __launch_bounds__(kThreads)
    transpose_weights(const __grid_constant__ ConvShape s, const int8_t* __restrict__ w, int channels,
                      Bfloat16* __restrict__ to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t chunk = quotient(i, s.depth);
  if (chunk * kChunk >= channels) return;
  const int place = static_cast<int>(i - chunk * s.depth);
  const int tap = place / s.in_c, c = place - tap * s.in_c;
  Eight<Bfloat16> values = {};
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    const int64_t co = chunk * kChunk + k;
    if (co < s.out_c) values.at[k] = to_bfloat16(w[co * s.depth + place]);
  }
  const int64_t taps = s.kernel_h * s.kernel_w;
  *reinterpret_cast<Eight<Bfloat16>*>(to + (c * taps + tap) * channels + chunk * kChunk) = values;
}

template <class Kernel, class... Arguments>
void launch_product(const char* name, Kernel* kernel, dim3 grid, int threads, size_t memory, cudaStream_t stream,
                    const Arguments&... arguments) {
  if (memory > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(memory));
  }
  launch_kernel(name, kernel, grid, threads, memory, stream, arguments...);
}

int64_t residues(const ConvShape& s) {
  return int64_t{1} * std::min(s.stride_h, s.in_h) * std::min(s.stride_w, s.in_w);
}

/// The largest number of input pixels of a residue.
int64_t residue_pixels(const ConvShape& s) {
  return s.batch * divide_up(s.in_h, s.stride_h) * divide_up(s.in_w, s.stride_w);
}

template <class T, int kPlanes>
void launch_inputs(const ConvShape& s, const Bfloat16* operand, const Bfloat16* w, bool add, float* dx,
                   cudaStream_t stream) {
  const int64_t column_blocks = divide_up(s.in_c, T::kColumns);
  const int64_t blocks = divide_up(residue_pixels(s), T::kRows) * column_blocks;
  require(blocks <= INT32_MAX / residues(s), "input_gradient", "the input is too large for the GPU's kernels");
  launch_product("input_gradient", multiply_inputs<T, kPlanes>, static_cast<unsigned>(residues(s) * blocks),
                 T::kThreads, kStages * sizeof(typename InputCopies<T, kPlanes>::Stage), stream, s, operand, w,
                 padded(s.out_c), add, dx, static_cast<int>(column_blocks), static_cast<int>(blocks));
}

template <int kPlanes>
void launch_inputs(const ConvShape& s, const Bfloat16* operand, const Bfloat16* w, bool add, float* dx,
                   cudaStream_t stream) {
  if (s.in_c <= 32) {
    launch_inputs<Tile<128, 32, 4, 1>, kPlanes>(s, operand, w, add, dx, stream);
  } else if (s.in_c <= 64 ||
             residues(s) * divide_up(residue_pixels(s), 128) * divide_up(s.in_c, 128) < 4 * processors()) {
    launch_inputs<Tile<128, 64, 2, 2>, kPlanes>(s, operand, w, add, dx, stream);
  } else {
    launch_inputs<Tile<128, 128, 2, 2>, kPlanes>(s, operand, w, add, dx, stream);
  }
}

/// What one thread copies: chunks of output channels, and of input channels of one tap, of some rows.
template <class T, int kPlanes>
class WeightCopies {
 public:
  using Stage = kernels::Stage<DepthSlice<T::kRows>, DepthSlice<T::kColumns>, kPlanes>;

  __device__ WeightCopies(const ConvShape& s, const Bfloat16* operand, const Bfloat16* x, int first_row, int row,
                          int column)
      : s_(s), x_(x), left_channels_(channels(s.out_c)), right_channels_(channels(s.in_c)), row_(first_row) {
    const int co = row + left_chunk() * kChunk;
    has_left_ = co < left_channels_;
    plane_ = static_cast<int64_t>(s.rows) * left_channels_;
    operand_ = operand;
    left_ = static_cast<int64_t>(first_row + left_line()) * left_channels_ + co;

    const int place = column + right_chunk() * kChunk, tap = place / right_channels_, kh = tap / s.kernel_w;
    has_right_ = kh < s.kernel_h;
    c_ = place - tap * right_channels_;
    top_ = kh * s.dilation_h - s.pad_top;
    left_edge_ = (tap - kh * s.kernel_w) * s.dilation_w - s.pad_left;
#pragma unroll
    for (int i = 0; i < kRightCopies; ++i) {
      const int r = first_row + right_line() + i * kRightStep, line = r / s.out_w;
      sample_[i] = line / s.out_h;
      y_[i] = line - sample_[i] * s.out_h;
      x_out_[i] = r - line * s.out_w;
    }
    const int lines = kSliceDepth / s.out_w;
    step_samples_ = lines / s.out_h;
    step_y_ = lines - step_samples_ * s.out_h;
    step_x_ = kSliceDepth - lines * s.out_w;
  }

  __device__ void next(Stage& stage) {
#pragma unroll
    for (int i = 0; i < kLeftCopies; ++i) {
      const int line = left_line() + i * kLeftStep;
      const bool valid = has_left_ && row_ + line < s_.rows;
      const Bfloat16* from = operand_ + (valid ? left_ + static_cast<int64_t>(i * kLeftStep) * left_channels_ : 0);
      const int place = DepthSlice<T::kRows>::place(line, left_chunk());
#pragma unroll
      for (int p = 0; p < kPlanes; ++p)
        copy_async<16>(shared_address(stage.left[p].at + place), from + p * plane_, valid);
    }
#pragma unroll
    for (int i = 0; i < kRightCopies; ++i) {
      const int line = right_line() + i * kRightStep;
      const int y = top_ + y_[i] * s_.stride_h, x = left_edge_ + x_out_[i] * s_.stride_w;
      const bool valid = has_right_ && row_ + line < s_.rows && y >= 0 && y < s_.in_h && x >= 0 && x < s_.in_w;
      const Bfloat16* from = x_;
      if (valid) from += (static_cast<int64_t>(sample_[i] * s_.in_h + y) * s_.in_w + x) * right_channels_ + c_;
      copy_async<16>(shared_address(stage.right.at + DepthSlice<T::kColumns>::place(line, right_chunk())), from, valid);
      advance(i);
    }
    row_ += kSliceDepth;
    left_ += static_cast<int64_t>(kSliceDepth) * left_channels_;
  }

 private:
  static constexpr int kLeftChunks = T::kRows / kChunk, kRightChunks = T::kColumns / kChunk;
  static constexpr int kLeftStep = T::kThreads / kLeftChunks, kRightStep = T::kThreads / kRightChunks;
  static constexpr int kLeftCopies = kSliceDepth / kLeftStep, kRightCopies = kSliceDepth / kRightStep;
  static __device__ int left_chunk() { return static_cast<int>(threadIdx.x) % kLeftChunks; }
  static __device__ int left_line() { return static_cast<int>(threadIdx.x) / kLeftChunks; }
  static __device__ int right_chunk() { return static_cast<int>(threadIdx.x) % kRightChunks; }
  static __device__ int right_line() { return static_cast<int>(threadIdx.x) / kRightChunks; }
  static __device__ int channels(int count) { return (count + kChunk - 1) / kChunk * kChunk; }

  /// A row moves on by a slice.
  __device__ void advance(int i) {
    x_out_[i] += step_x_;
    y_[i] += step_y_;
    sample_[i] += step_samples_;
    if (x_out_[i] >= s_.out_w) {
      x_out_[i] -= s_.out_w;
      ++y_[i];
    }
    if (y_[i] >= s_.out_h) {
      y_[i] -= s_.out_h;
      ++sample_[i];
    }
  }

  const ConvShape& s_;
  const Bfloat16 *operand_, *x_;
  int left_channels_, right_channels_, row_;
  bool has_left_, has_right_;
  int64_t plane_, left_;
  int c_, top_, left_edge_;
  int step_samples_, step_y_, step_x_;
  int sample_[kRightCopies], y_[kRightCopies], x_out_[kRightCopies];
};

/// partial [parts][out_c][columns]: blockIdx.y is the part.
template <class T, int kPlanes>
__global__ void __launch_bounds__(T::kThreads, T::kMinBlocks)
    multiply_weights(const __grid_constant__ ConvShape s, const Bfloat16* __restrict__ operand,
                     const Bfloat16* __restrict__ x, float* __restrict__ partial, int columns, int column_blocks,
                     int part_rows) {
  const int block_row = static_cast<int>(blockIdx.x) / column_blocks;
  const int row = block_row * T::kRows;
  const int column = (static_cast<int>(blockIdx.x) - block_row * column_blocks) * T::kColumns;
  const int first = static_cast<int>(blockIdx.y) * part_rows, rows = min(part_rows, s.rows - first);

  WeightCopies<T, kPlanes> copies(s, operand, x, first, row, column);
  WarpProduct<T> product;
  multiply_slices<T, typename WeightCopies<T, kPlanes>::Stage>(product, copies, (rows + kSliceDepth - 1) / kSliceDepth);

  product.for_pairs([&](int r, int c, float2 value) {
    r += row;
    c += column;
    if (r >= s.out_c || c >= columns) return;
    const int64_t line = static_cast<int64_t>(blockIdx.y) * s.out_c + r;
    *reinterpret_cast<float2*>(partial + line * columns + c) = value;
  });
}

constexpr int kJoined = 32;  // weights of a block of join_parts

/// Eight threads a weight add every eighth part; one adds their sums.
__global__ void __launch_bounds__(kThreads)
    join_parts(const __grid_constant__ ConvShape s, const float* __restrict__ partial, int parts, int channels,
               int columns, const float* __restrict__ factor, float* __restrict__ dw) {
  constexpr int kLines = kThreads / kJoined;
  __shared__ double sums[kLines][kJoined];
  const int lane = static_cast<int>(threadIdx.x) % kJoined, line = static_cast<int>(threadIdx.x) / kJoined;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kJoined + lane;
  const int64_t co = quotient(i, s.depth);
  const bool valid = co < s.out_c;
  double sum = 0.0;
  if (valid) {
    const int k = static_cast<int>(i - co * s.depth), tap = k / s.in_c;
    const float* from = partial + co * columns + tap * channels + (k - tap * s.in_c);
    const int64_t part = static_cast<int64_t>(s.out_c) * columns;
#pragma unroll 4
    for (int p = line; p < parts; p += kLines) sum += from[p * part];
  }
  sums[line][lane] = sum;
  __syncthreads();
  if (line > 0 || !valid) return;
#pragma unroll
  for (int k = 1; k < kLines; ++k) sum += sums[k][lane];
  dw[i] = static_cast<float>(factor[co] * sum);
}

/// How the rows are shared; from the geometry and the GPU alone.
struct WeightPlan {
  explicit WeightPlan(const ConvShape& s) : columns(static_cast<int64_t>(s.kernel_h * s.kernel_w) * padded(s.in_c)) {
    constexpr int64_t kMostRows = 4096;  // a long sum in float loses digits
    constexpr int64_t kFewestRows = 8 * kSliceDepth, kMostParts = 4096;
    tile_rows = s.out_c <= 32 ? 32 : s.out_c <= 64 ? 64 : 128;
    tile_columns = tile_rows == 128 && columns <= 64 ? 64 : 128;
    column_blocks = divide_up(columns, tile_columns);
    blocks = divide_up(s.out_c, tile_rows) * column_blocks;
    const int64_t filling = std::min(int64_t{4} * processors() / blocks, divide_up(s.rows, kFewestRows));
    const int64_t wanted = std::clamp<int64_t>(std::max(filling, divide_up(s.rows, kMostRows)), 1, kMostParts);
    part_rows = divide_up(divide_up(s.rows, wanted), kSliceDepth) * kSliceDepth;
    parts = divide_up(s.rows, part_rows);
  }
  size_t partial_bytes(const ConvShape& s) const {
    return static_cast<size_t>(parts) * static_cast<size_t>(s.out_c) * static_cast<size_t>(columns) * sizeof(float);
  }
  int64_t columns, tile_rows, tile_columns, column_blocks, blocks, part_rows, parts;
};

int64_t copied_codes(const ConvShape& s) { return int64_t{1} * s.batch * s.in_h * s.in_w * padded(s.in_c); }

template <class T, int kPlanes>
void launch_weights(const ConvShape& s, const WeightPlan& plan, const Bfloat16* operand, const Bfloat16* x,
                    float* partial, cudaStream_t stream) {
  require(plan.blocks <= INT32_MAX && plan.columns <= INT32_MAX, "weight_gradient",
          "the weights are too many for the GPU's kernels");
  const dim3 grid(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.parts));
  launch_product("weight_gradient", multiply_weights<T, kPlanes>, grid, T::kThreads,
                 kStages * sizeof(typename WeightCopies<T, kPlanes>::Stage), stream, s, operand, x, partial,
                 static_cast<int>(plan.columns), static_cast<int>(plan.column_blocks),
                 static_cast<int>(plan.part_rows));
}

template <int kPlanes>
void launch_weights(const ConvShape& s, const WeightPlan& plan, const Bfloat16* operand, const Bfloat16* x,
                    float* partial, cudaStream_t stream) {
  if (plan.tile_rows == 32) {
    launch_weights<Tile<32, 128, 1, 4>, kPlanes>(s, plan, operand, x, partial, stream);
  } else if (plan.tile_rows == 64) {
    launch_weights<Tile<64, 128, 2, 2>, kPlanes>(s, plan, operand, x, partial, stream);
  } else if (plan.tile_columns == 64) {
    launch_weights<Tile<128, 64, 2, 2>, kPlanes>(s, plan, operand, x, partial, stream);
  } else {
    launch_weights<Tile<128, 128, 2, 2>, kPlanes>(s, plan, operand, x, partial, stream);
  }
}

}  // namespace

size_t input_gradient_dense_scratch(const ConvShape& s) {
  return static_cast<size_t>(s.in_c) * static_cast<size_t>(s.kernel_h * s.kernel_w) *
         static_cast<size_t>(padded(s.out_c)) * sizeof(Bfloat16);
}

void input_gradient_dense(const ConvShape& s, GradientPrecision precision, const void* operand, const int8_t* w,
                          bool add, float* dx, void* scratch, cudaStream_t stream) {
  const auto* gradients = static_cast<const Bfloat16*>(operand);
  auto* weights = static_cast<Bfloat16*>(scratch);
  const int channels = padded(s.out_c);
  const int64_t blocks = divide_up(int64_t{1} * (channels / kChunk) * s.depth, kThreads);
  require(blocks <= INT32_MAX, "input_gradient", "the weights are too many for the GPU's kernels");
  launch_kernel("input_gradient", transpose_weights, static_cast<unsigned>(blocks), kThreads, 0, stream, s, w, channels,
                weights);
  if (planes(precision) == 2) {
    launch_inputs<2>(s, gradients, weights, add, dx, stream);
  } else {
    launch_inputs<1>(s, gradients, weights, add, dx, stream);
  }
}

size_t weight_gradient_dense_scratch(const ConvShape& s) {
  if (s.rows == 0) return 0;
  return static_cast<size_t>(copied_codes(s)) * sizeof(Bfloat16) + WeightPlan(s).partial_bytes(s);
}

void weight_gradient_dense(const ConvShape& s, GradientPrecision precision, const uint8_t* x, const int32_t* zero_point,
                           const void* operand, const float* factor, float* dw, void* scratch, cudaStream_t stream) {
  const auto* gradients = static_cast<const Bfloat16*>(operand);
  auto* codes = static_cast<Bfloat16*>(scratch);
  auto* partial = reinterpret_cast<float*>(codes + copied_codes(s));
  const int64_t channels = padded(s.in_c), in_c = s.in_c;
  const bool vectors = aligned(x) && in_c % kEight == 0;
  for_parts("weight_gradient", copied_codes(s), true, stream, [=] __device__(const Part& part) {
    const int64_t pixel = quotient(part.begin, channels), c = part.begin - pixel * channels, left = in_c - c;
    const int32_t z = *zero_point;
    const int count = left < kEight ? static_cast<int>(left) : kEight;
    const Eight<uint8_t> from = load(x + (pixel * in_c + c), Part{0, count, vectors});
    Eight<Bfloat16> values = {};
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < count) values.at[k] = to_bfloat16(static_cast<float>(from.at[k] - z));
    }
    store(codes, part, values);
  });
  const WeightPlan plan(s);
  if (planes(precision) == 2) {
    launch_weights<2>(s, plan, gradients, codes, partial, stream);
  } else {
    launch_weights<1>(s, plan, gradients, codes, partial, stream);
  }
  const int64_t blocks = divide_up(int64_t{1} * s.out_c * s.depth, kJoined);
  require(blocks <= INT32_MAX, "weight_gradient", "the weights are too many for the GPU's kernels");
  launch_kernel("weight_gradient", join_parts, static_cast<unsigned>(blocks), kThreads, 0, stream, s, partial,
                static_cast<int>(plan.parts), static_cast<int>(channels), static_cast<int>(plan.columns), factor, dw);
}

}  // namespace qat::ops::cuda::kernels
