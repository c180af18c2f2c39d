// Depthwise convolutions of uint8 codes with int8 weights, four rows of the kernel at a time.
#define HWY_WANT_AVX3_DL  // VNNI

#include <algorithm>
#include <cstring>

#include "core/ops/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/depthwise_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/convolve_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_AVX3_DL

/// One column of kBlock channels: the bytes of up to four rows side by side for every channel.
HWY_INLINE __m512i column_of(const uint8_t* const (&row)[4], int64_t offset, __m512i order) {
  const auto load = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[i] + offset)); };
  __m512i rows = _mm512_broadcast_i32x4(load(0));
  rows = _mm512_mask_broadcast_i32x4(rows, 0x00F0, load(1));
  rows = _mm512_mask_broadcast_i32x4(rows, 0x0F00, load(2));
  rows = _mm512_mask_broadcast_i32x4(rows, 0xF000, load(3));
  return _mm512_permutexvar_epi8(order, rows);
}

/// sum + the four products of each lane. Highway's options for this target leave the intrinsic's out.
HWY_INLINE __m512i add_quads(__m512i sum, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}

/// kColumns: kernel_w as a constant, or 0.
template <int64_t kColumns>
void multiply_block(const DepthwiseQuadTask& t, int64_t block, uint8_t* columns) {
  alignas(64) uint8_t indices[64];
  for (int i = 0; i < 64; ++i) indices[i] = static_cast<uint8_t>(i % 4 * 16 + i / 4);
  const __m512i order = _mm512_load_si512(indices);
  const int64_t kernel_w = kColumns > 0 ? kColumns : t.kernel_w;
  const int64_t groups = (t.kernel_h + 3) / 4;
  const int64_t needed = (t.row_pixels - 1) * t.stride + t.dilation * (kernel_w - 1) + 1;
  const __m512i start = _mm512_loadu_si512(t.start + block * kBlock);
  const int64_t left = t.channels - block * kBlock;
  const auto lanes = static_cast<__mmask16>(left >= kBlock ? 0xFFFF : (1u << left) - 1);
  for (int64_t first = 0; first < t.pixel_count; first += t.row_pixels) {
    int32_t* out = t.out + first * t.channels + block * kBlock;
    for (int64_t group = 0; group < groups; ++group) {
      // A row beyond the kernel has no weights: any other stands in for it.
      const uint8_t* row[4];
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t r = 4 * group + i < t.kernel_h ? 4 * group + i : 4 * group;
        row[i] = t.pixels[first] + block * kBlock + r * t.row_step;
      }
      for (int64_t x = 0; x < needed; ++x) {
        _mm512_store_si512(columns + x * 64, column_of(row, x * t.column_step, order));
      }
      const int8_t* w = t.weights + (block * groups + group) * kernel_w * kBlock * 4;
      for (int64_t p = 0; p < t.row_pixels; ++p) {
        __m512i sum = group == 0 ? start : _mm512_maskz_loadu_epi32(lanes, out + p * t.channels);
        const uint8_t* at = columns + p * t.stride * 64;
#pragma GCC unroll 5
        for (int64_t k = 0; k < kernel_w; ++k) {
          sum = add_quads(sum, _mm512_load_si512(at + k * t.dilation * 64), _mm512_loadu_si512(w + k * kBlock * 4));
        }
        _mm512_mask_storeu_epi32(out + p * t.channels, lanes, sum);
      }
    }
  }
}

void multiply_depthwise_quads(const DepthwiseQuadTask& t) {
  const int64_t needed = (t.row_pixels - 1) * t.stride + t.dilation * (t.kernel_w - 1) + 1;
  ScratchVector<uint8_t> columns(static_cast<size_t>(needed * 64));
  for (int64_t block = 0; block * kBlock < t.channels; ++block) {
    switch (t.kernel_w) {
      case 3:
        multiply_block<3>(t, block, columns.data());
        break;
      case 5:
        multiply_block<5>(t, block, columns.data());
        break;
      default:
        multiply_block<0>(t, block, columns.data());
    }
  }
}

bool exists() { return true; }

#else

void multiply_depthwise_quads(const DepthwiseQuadTask&) {}
bool exists() { return false; }

#endif

}  // namespace
}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops::kernels {

HWY_EXPORT(multiply_depthwise_quads);
HWY_EXPORT(exists);

void multiply_depthwise(const DepthwiseQuadTask& task) { HWY_DYNAMIC_DISPATCH(multiply_depthwise_quads)(task); }
bool has_depthwise_quads() { return HWY_DYNAMIC_DISPATCH(exists)(); }

}  // namespace qat::ops::kernels
#endif
