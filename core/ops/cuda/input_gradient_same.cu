// The input's gradient of a convolution with stride 1, a kernel three wide and an output of the input's size: an
// implicit matrix product like that of input_gradient_dense.cu. A pixel's neighbours in the map are neighbours in the
// operand, so that the three taps of a kernel's row read the same lines of a slice, each shifted by one; what lies
// outside of the map is a line of zeros.
#include "core/ops/cuda/bfloat16_product.cuh"
#include "core/ops/cuda/convolve_gradient_kernels.h"
#include "core/ops/cuda/launch.cuh"

namespace qat::ops::cuda::kernels {
namespace {

constexpr int kTaps = 3, kSameStages = 3;

template <class T, int kPlanes>
struct SameStage {
  LineSlice<T::kRows + 8> left[kPlanes];  // of which kLines are used
  LineSlice<T::kColumns> right[kTaps];
};

/// What one thread copies: one chunk of some of the operand's lines and of some input channels' weights.
template <class T, int kPlanes>
class SameCopies {
 public:
  __device__ SameCopies(const ConvShape& s, const Bfloat16* operand, const Bfloat16* w, int channels, int row,
                        int column)
      : s_(s),
        operand_(operand),
        plane_(static_cast<int64_t>(s.rows) * channels),
        channels_(channels),
        columns_left_(s.in_c - column - line()),
        first_(row + s.pad_top * s.out_w + s.pad_left - (kTaps - 1)) {
    w_ = w + static_cast<int64_t>(column + line()) * s.kernel_h * kTaps * channels + chunk() * kChunk;
  }

  __device__ void next(SameStage<T, kPlanes>& stage) {
    const bool has_channels = c_ + chunk() * kChunk < channels_;
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i) {
      const int place_line = line() + i * kRowStep, from_line = first_ + place_line;
      if (place_line >= kLines) continue;
      const bool valid = has_channels && from_line >= 0 && from_line < s_.rows;
      const Bfloat16* from = operand_;
      if (valid) from += static_cast<int64_t>(from_line) * channels_ + c_ + chunk() * kChunk;
      const int place = stage.left[0].place(place_line, chunk());
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        copy_async<16>(shared_address(stage.left[p].at + place), from + (valid ? p * plane_ : 0), valid);
      }
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int64_t tap = static_cast<int64_t>(th_ * kTaps + t) * channels_ + c_;
#pragma unroll
      for (int i = 0; i < kColumnCopies; ++i) {
        const bool valid = has_channels && i * kRowStep < columns_left_;
        const int place = stage.right[t].place(line() + i * kRowStep, chunk());
        const int64_t behind = static_cast<int64_t>(i * kRowStep) * s_.kernel_h * kTaps * channels_;
        copy_async<16>(shared_address(stage.right[t].at + place), valid ? w_ + (behind + tap) : operand_, valid);
      }
    }
    c_ += kSliceDepth;
    if (c_ < channels_) return;
    c_ = 0;
    ++th_;
    first_ -= s_.dilation_h * s_.out_w;
  }

 private:
  static constexpr int kLines = T::kRows + kTaps - 1;
  static constexpr int kChunks = kSliceDepth / kChunk, kRowStep = T::kThreads / kChunks;
  static constexpr int kRowCopies = (kLines + kRowStep - 1) / kRowStep, kColumnCopies = T::kColumns / kRowStep;
  static_assert(kColumnCopies > 0);
  static __device__ int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  static __device__ int line() { return static_cast<int>(threadIdx.x) / kChunks; }

  const ConvShape& s_;
  const Bfloat16 *operand_, *w_;
  int64_t plane_;
  int channels_, columns_left_;
  int c_ = 0, th_ = 0;  // the place in the depth
  int first_;           // the operand's line that is the slice's first one
};

/// One warp's outputs.
template <class T, int kPlanes>
class SameProduct {
 public:
  /// zeros: the shared address of 16 bytes of them. slices: of each row of the kernel.
  __device__ SameProduct(const ConvShape& s, int row, uint32_t zeros, int slices) : zeros_(zeros), slices_(slices) {
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      const int pixel = row + line(m);
      if (pixel >= s.rows) continue;
      const int map_line = pixel / s.in_w, i = map_line % s.in_h, j = pixel - map_line * s.in_w;
      for (int t = 0; t < s.kernel_h; ++t) {
        const int y = s.pad_top + i - t * s.dilation_h;
        taps_h_[m] |= static_cast<uint32_t>(y >= 0 && y < s.out_h) << t;
      }
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        const int x = s.pad_left + j - t;
        taps_w_[m] |= static_cast<uint32_t>(x >= 0 && x < s.out_w) << t;
      }
    }
  }

  __device__ void add(const SameStage<T, kPlanes>& stage) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int depth = 0; depth < kSliceDepth; depth += 16) {
        uint32_t a[kPlanes][T::kRowTiles][4], b[T::kColumnTiles / 2][4];
#pragma unroll
        for (int n = 0; n < T::kColumnTiles / 2; ++n)
          load_right(b[n], stage.right[t], T::warp_column() + n * 16, depth);
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) {
          const bool meets = ((taps_h_[m] >> th_) & (taps_w_[m] >> t) & 1) != 0;
          const int place = stage.left[0].place(line(m) + kTaps - 1 - t, depth / kChunk + lane / 16);
#pragma unroll
          for (int p = 0; p < kPlanes; ++p) {
            load_matrices(a[p][m], meets ? shared_address(stage.left[p].at + place) : zeros_);
          }
        }
        product_.add(a, b);
      }
    }
    if (++slice_ < slices_) return;
    slice_ = 0;
    ++th_;
  }

  __device__ const WarpProduct<T>& product() const { return product_; }

 private:
  /// Of the block's rows, the one whose address this lane gives.
  static __device__ int line(int m) { return T::warp_row() + m * 16 + static_cast<int>(threadIdx.x) % 16; }

  WarpProduct<T> product_;
  uint32_t zeros_;
  uint32_t taps_h_[T::kRowTiles] = {}, taps_w_[T::kRowTiles] = {};  // bits of those that meet the map
  int slices_, slice_ = 0, th_ = 0;
};

template <class T, int kPlanes>
constexpr size_t kSameMemory = kSameStages * sizeof(SameStage<T, kPlanes>) + 16;

template <class T, int kPlanes>
__global__ void __launch_bounds__(T::kThreads, 2)
    multiply_same(const __grid_constant__ ConvShape s, const Bfloat16* __restrict__ operand,
                  const Bfloat16* __restrict__ w, int channels, bool add, float* __restrict__ dx, int column_blocks) {
  await_previous();
  const int block_row = static_cast<int>(blockIdx.x) / column_blocks;
  const int row = block_row * T::kRows;
  const int column = (static_cast<int>(blockIdx.x) - block_row * column_blocks) * T::kColumns;
  auto* zeros = reinterpret_cast<uint4*>(dynamic_shared() + kSameStages * sizeof(SameStage<T, kPlanes>));
  if (threadIdx.x == 0) *zeros = make_uint4(0, 0, 0, 0);  // the first slice's barrier comes before its readers

  const int slices = (channels + kSliceDepth - 1) / kSliceDepth;
  SameCopies<T, kPlanes> copies(s, operand, w, channels, row, column);
  SameProduct<T, kPlanes> product(s, row, shared_address(zeros), slices);
  multiply_slices<SameStage<T, kPlanes>, kSameStages>(product, copies, s.kernel_h * slices);

  const bool pairs = s.in_c % 2 == 0 && reinterpret_cast<uintptr_t>(dx) % 8 == 0;
  product.product().for_pairs([&](int r, int c, float2 value) {
    r += row;
    c += column;
    if (r >= s.rows || c >= s.in_c) return;
    float* to = dx + (static_cast<int64_t>(r) * s.in_c + c);
    if (pairs) {
      const float2 before = add ? *reinterpret_cast<const float2*>(to) : make_float2(0.0f, 0.0f);
      *reinterpret_cast<float2*>(to) = make_float2(before.x + value.x, before.y + value.y);
      return;
    }
    to[0] = add ? to[0] + value.x : value.x;
    if (c + 1 < s.in_c) to[1] = add ? to[1] + value.y : value.y;
  });
}

template <class T, int kPlanes>
void launch(const ConvShape& s, const Bfloat16* operand, const Bfloat16* w, bool add, float* dx, cudaStream_t stream) {
  const int64_t column_blocks = divide_up(s.in_c, T::kColumns), blocks = divide_up(s.rows, T::kRows) * column_blocks;
  require(blocks <= INT32_MAX, "input_gradient", "the input is too large for the GPU's kernels");
  launch_product("input_gradient", multiply_same<T, kPlanes>, static_cast<unsigned>(blocks), T::kThreads,
                 kSameMemory<T, kPlanes>, stream, s, operand, w, static_cast<int>(padded_channels(s.out_c)), add, dx,
                 static_cast<int>(column_blocks));
}

template <int kPlanes>
void launch(const ConvShape& s, const Bfloat16* operand, const Bfloat16* w, bool add, float* dx, cudaStream_t stream) {
  // Few blocks: smaller ones, for more multiprocessors.
  const bool few = divide_up(s.rows, 128) * divide_up(s.in_c, 64) < 2 * processors();
  if (s.in_c <= 32) {
    few ? launch<Tile<64, 32, 4, 1>, kPlanes>(s, operand, w, add, dx, stream)
        : launch<Tile<128, 32, 4, 1>, kPlanes>(s, operand, w, add, dx, stream);
  } else if (few) {
    launch<Tile<64, 64, 2, 2>, kPlanes>(s, operand, w, add, dx, stream);
  } else {
    launch<Tile<128, 64, 2, 2>, kPlanes>(s, operand, w, add, dx, stream);
  }
}

}  // namespace

bool is_same(const ConvShape& s) {
  return s.kernel_w == kTaps && s.dilation_w == 1 && s.stride_h == 1 && s.stride_w == 1 && s.out_h == s.in_h &&
         s.out_w == s.in_w;
}

void input_gradient_same(const ConvShape& s, GradientPrecision precision, const Bfloat16* operand, const Bfloat16* w,
                         bool add, float* dx, cudaStream_t stream) {
  if (planes(precision) == 2) {
    launch<2>(s, operand, w, add, dx, stream);
  } else {
    launch<1>(s, operand, w, add, dx, stream);
  }
}

}  // namespace qat::ops::cuda::kernels
