// The weight's gradient as an implicit matrix product of bfloat16: rows are output channels, columns taps * in_c, the
// depth is output pixels. Codes are copied as bfloat16 first, zeros for padding. Blocks sum parts of the depth; a
// second kernel adds the parts in order.
#include <algorithm>

#include "core/ops/cuda/bfloat16_product.cuh"
#include "core/ops/cuda/convolve_gradient_kernels.h"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/launch.cuh"

namespace qat::ops::cuda::kernels {
namespace {

int padded(int channels) { return static_cast<int>(padded_channels(channels)); }

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
  await_previous();
  const int block_row = static_cast<int>(blockIdx.x) / column_blocks;
  const int row = block_row * T::kRows;
  const int column = (static_cast<int>(blockIdx.x) - block_row * column_blocks) * T::kColumns;
  const int first = static_cast<int>(blockIdx.y) * part_rows, rows = min(part_rows, s.rows - first);

  WeightCopies<T, kPlanes> copies(s, operand, x, first, row, column);
  WarpProduct<T> product;
  multiply_slices<typename WeightCopies<T, kPlanes>::Stage, kStages>(product, copies,
                                                                     (rows + kSliceDepth - 1) / kSliceDepth);

  product.for_pairs([&](int r, int c, float2 value) {
    r += row;
    c += column;
    if (r >= s.out_c || c >= columns) return;
    const int64_t line = static_cast<int64_t>(blockIdx.y) * s.out_c + r;
    *reinterpret_cast<float2*>(partial + line * columns + c) = value;
  });
}

/// kEach neighbouring weights of one tap.
template <int kEach>
struct alignas(sizeof(float) * kEach) Weights {
  float at[kEach];
};

/// dw = factor * the sum of the parts. kLines threads of a block take every kLines-th part of some weights; one adds
/// their sums.
template <int kEach, int kLines>
__global__ void __launch_bounds__(kThreads)
    join_parts(const __grid_constant__ ConvShape s, const float* __restrict__ partial, int parts, int channels,
               int columns, const float* __restrict__ factor, float* __restrict__ dw) {
  await_previous();
  constexpr int kLanes = kThreads / kLines;
  __shared__ double sums[kLines][kLanes][kEach];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, line = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kLanes + lane) * kEach;
  const int64_t co = quotient(i, s.depth);
  const bool valid = co < s.out_c;
  double sum[kEach] = {};
  if (valid) {
    const int k = static_cast<int>(i - co * s.depth), tap = k / s.in_c;
    const float* from = partial + co * columns + tap * channels + (k - tap * s.in_c);
    const int64_t part = static_cast<int64_t>(s.out_c) * columns;
#pragma unroll 4
    for (int p = line; p < parts; p += kLines) {
      const auto values = *reinterpret_cast<const Weights<kEach>*>(from + p * part);
#pragma unroll
      for (int e = 0; e < kEach; ++e) sum[e] += values.at[e];
    }
  }
  if constexpr (kLines > 1) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) sums[line][lane][e] = sum[e];
    __syncthreads();
  }
  if (line > 0 || !valid) return;
  Weights<kEach> result;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
#pragma unroll
    for (int k = 1; k < kLines; ++k) sum[e] += sums[k][lane][e];
    result.at[e] = static_cast<float>(factor[co] * sum[e]);
  }
  *reinterpret_cast<Weights<kEach>*>(dw + i) = result;
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

template <int kEach, int kLines>
void launch_join(const ConvShape& s, const WeightPlan& plan, const float* partial, const float* factor, float* dw,
                 cudaStream_t stream) {
  const int64_t blocks = divide_up(int64_t{1} * s.out_c * s.depth, kThreads / kLines * kEach);
  require(blocks <= INT32_MAX, "weight_gradient", "the weights are too many for the GPU's kernels");
  launch_kernel("weight_gradient", join_parts<kEach, kLines>, static_cast<unsigned>(blocks), kThreads, 0, stream, s,
                partial, static_cast<int>(plan.parts), padded(s.in_c), static_cast<int>(plan.columns), factor, dw);
}

template <int kEach>
void launch_join(const ConvShape& s, const WeightPlan& plan, const float* partial, const float* factor, float* dw,
                 cudaStream_t stream) {
  if (plan.parts < 16) {
    launch_join<kEach, 1>(s, plan, partial, factor, dw, stream);
  } else {
    launch_join<kEach, 8>(s, plan, partial, factor, dw, stream);
  }
}

}  // namespace

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
  if (s.in_c % 4 == 0 && aligned(partial, dw)) {
    launch_join<4>(s, plan, partial, factor, dw, stream);
  } else {
    launch_join<1>(s, plan, partial, factor, dw, stream);
  }
}

}  // namespace qat::ops::cuda::kernels
