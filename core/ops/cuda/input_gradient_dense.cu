// The input's gradient as an implicit matrix product of bfloat16: rows are input pixels, columns input channels, the
// depth is taps * out_c. A stride leaves some taps out, the same ones for all pixels of a residue: each residue is a
// product of its own, of its own taps only.
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
        columns_left_(s.in_c - column - line()),
        row_place_(LineSlice<T::kRows>::place(line(), chunk())),
        column_place_(LineSlice<T::kColumns>::place(line(), chunk())) {
    w_ = w + static_cast<int64_t>(column + line()) * s.kernel_h * s.kernel_w * channels;
    line_step_ = static_cast<int64_t>(kRowStep) * s.kernel_h * s.kernel_w * channels;
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
    while (c_ >= channels_) {
      c_ -= channels_;
      next_tap();
    }
    enter_tap();
  }

  __device__ void next(Stage& stage) {
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i) {
      const int place = row_place_ + i * kRowStep * kSliceDepth;
      const bool meets = (meets_ >> i & 1) != 0;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        copy_async<16>(shared_address(stage.left[p].at + place), from_[i] + (meets ? p * plane_ : 0), meets);
      }
      from_[i] += meets ? kSliceDepth : 0;
    }
#pragma unroll
    for (int i = 0; i < kColumnCopies; ++i) {
      const bool valid = weight_ != nullptr && i * kRowStep < columns_left_;
      const int place = column_place_ + i * kRowStep * kSliceDepth;
      copy_async<16>(shared_address(stage.right.at + place), valid ? weight_ + i * line_step_ : operand_, valid);
    }
    if (weight_ != nullptr) weight_ += kSliceDepth;
    c_ += kSliceDepth;
    if (c_ < channels_) return;
    while (c_ >= channels_) {
      c_ -= channels_;
      next_tap();
    }
    enter_tap();
  }

 private:
  static constexpr int kChunks = kSliceDepth / kChunk, kRowStep = T::kThreads / kChunks;
  static constexpr int kRowCopies = T::kRows / kRowStep, kColumnCopies = T::kColumns / kRowStep;
  static_assert(kRowStep % 8 == 0 && kRowCopies > 0 &&
                kColumnCopies > 0);  // places of copies are as far apart as lines
  static __device__ int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  static __device__ int line() { return static_cast<int>(threadIdx.x) / kChunks; }

  __device__ void next_tap() {
    if (++tw_ < residue_.w.taps) return;
    tw_ = 0;
    ++th_;
  }

  /// Addresses of channel c_ under the tap; behind the last one nothing meets.
  __device__ void enter_tap() {
    const bool is_tap = th_ < residue_.h.taps && tw_ < residue_.w.taps;
    const int64_t behind = static_cast<int64_t>(th_ * residue_.h.dilation * s_.out_w + tw_ * residue_.w.dilation);
    const int64_t offset = c_ - behind * channels_;
    meets_ = 0;
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i) {
      const bool meets = is_tap && ((taps_h_[i] >> th_) & (taps_w_[i] >> tw_) & 1) != 0;
      meets_ |= static_cast<uint32_t>(meets) << i;
      from_[i] = operand_ + (meets ? start_[i] + offset : 0);
    }
    const int tap_h = residue_.h.tap + th_ * residue_.h.step, tap_w = residue_.w.tap + tw_ * residue_.w.step;
    weight_ = is_tap ? w_ + (static_cast<int64_t>(tap_h * s_.kernel_w + tap_w) * channels_ + c_) : nullptr;
  }

  const ConvShape& s_;
  const Residue& residue_;
  const Bfloat16 *operand_, *w_, *weight_;
  int64_t plane_, line_step_;
  int channels_, columns_left_, row_place_, column_place_;
  int c_, th_ = 0, tw_ = 0;  // the place in the depth
  uint32_t meets_;           // a bit a row
  const Bfloat16* from_[kRowCopies];
  int64_t start_[kRowCopies] = {};
  uint32_t taps_h_[kRowCopies] = {}, taps_w_[kRowCopies] = {};
};

/// Blocks of all residues, the same number for each.
template <class T, int kPlanes>
__global__ void __launch_bounds__(T::kThreads, T::kMinBlocks)
    multiply_inputs(const __grid_constant__ ConvShape s, const Bfloat16* __restrict__ operand,
                    const Bfloat16* __restrict__ w, int channels, bool add, float* __restrict__ dx, int column_blocks,
                    int residue_blocks) {
  await_previous();
  const int block = static_cast<int>(blockIdx.x), residue_index = block / residue_blocks;
  const int block_row = (block - residue_index * residue_blocks) / column_blocks;
  const int row = block_row * T::kRows, column = block % column_blocks * T::kColumns;
  const Residue residue(s, residue_index);
  const int64_t depth = static_cast<int64_t>(residue.h.taps * residue.w.taps) * channels;
  if (row >= residue.pixels || (add && depth == 0)) return;

  InputCopies<T, kPlanes> copies(s, residue, operand, w, channels, row, column);
  WarpProduct<T> product;
  multiply_slices<typename InputCopies<T, kPlanes>::Stage, kStages>(
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
  await_previous();
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
  // Few blocks: smaller ones, for more multiprocessors.
  const int64_t rows = residues(s) * residue_pixels(s);
  const bool few = divide_up(rows, 128) * divide_up(s.in_c, 64) < 2 * processors();
  if (s.in_c <= 32) {
    few ? launch_inputs<Tile<64, 32, 4, 1>, kPlanes>(s, operand, w, add, dx, stream)
        : launch_inputs<Tile<128, 32, 4, 1>, kPlanes>(s, operand, w, add, dx, stream);
  } else if (few) {
    launch_inputs<Tile<64, 64, 2, 2>, kPlanes>(s, operand, w, add, dx, stream);
  } else if (s.in_c <= 64 || divide_up(rows, 128) * divide_up(s.in_c, 128) < 4 * processors()) {
    launch_inputs<Tile<128, 64, 2, 2>, kPlanes>(s, operand, w, add, dx, stream);
  } else {
    launch_inputs<Tile<128, 128, 2, 2>, kPlanes>(s, operand, w, add, dx, stream);
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
  if (is_same(s)) {
    input_gradient_same(s, precision, gradients, weights, add, dx, stream);
  } else if (planes(precision) == 2) {
    launch_inputs<2>(s, gradients, weights, add, dx, stream);
  } else {
    launch_inputs<1>(s, gradients, weights, add, dx, stream);
  }
}

}  // namespace qat::ops::cuda::kernels
