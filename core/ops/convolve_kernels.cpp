#include "core/ops/convolve_kernels.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/convolve_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/depthwise_inl.h"
#include "core/ops/pixels_inl.h"
#include "core/ops/vector_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class Code, class Out>
HWY_INLINE void widen_row(const Code* HWY_RESTRICT x, int64_t n, int32_t zero_point, Out* HWY_RESTRICT out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Out>(x[i] - zero_point);
}
void widen_u8_i16(const uint8_t* x, int64_t n, int32_t z, int16_t* out) { widen_row(x, n, z, out); }
void widen_s8_i16(const int8_t* x, int64_t n, int32_t z, int16_t* out) { widen_row(x, n, z, out); }
/// Bytes are widened where they are loaded: compilers shift them around in registers.
template <class Code>
HWY_INLINE void widen_to_floats(const Code* HWY_RESTRICT x, int64_t n, int32_t zero_point, float* HWY_RESTRICT out) {
  const I32 di;
  const auto zero = hn::Set(di, zero_point);
  const int64_t whole = n / kLanes * kLanes;
#pragma GCC unroll 4
  for (int64_t i = 0; i < whole; i += kLanes) {
    const auto codes = hn::PromoteTo(di, hn::LoadU(hn::Rebind<Code, I32>(), x + i));
    hn::StoreU(hn::ConvertTo(F32(), hn::Sub(codes, zero)), F32(), out + i);
  }
  widen_row(x + whole, n - whole, zero_point, out + whole);
}
void widen_u8_f32(const uint8_t* x, int64_t n, int32_t z, float* out) { widen_to_floats(x, n, z, out); }
void widen_s8_f32(const int8_t* x, int64_t n, int32_t z, float* out) { widen_to_floats(x, n, z, out); }
void widen_s8_u8(const int8_t* x, int64_t n, uint8_t* out) { widen_row(x, n, -128, out); }

#if HWY_TARGET == HWY_SCALAR
// A machine without vectors of 16-bit pairs.
void multiply_pixels(const PairTask& t) {
  for (int64_t p = 0; p < t.pixel_count; ++p) {
    for (int64_t c = 0; c < t.channels; ++c) {
      const int16_t* w = t.weights + c / kBlock * t.segments * t.groups * kBlock * 2 + c % kBlock * 2;
      uint32_t sum = 0;
      for (int64_t s = 0; s < t.segments; ++s) {
        const int16_t* x = t.pixels[p] + t.base + t.segment_offset[s];
        for (int64_t j = 0; j < t.groups; ++j, w += kBlock * 2) {
          sum += static_cast<uint32_t>(x[2 * j] * w[0] + x[2 * j + 1] * w[1]);
        }
      }
      if (const CodeOutput* codes = t.code_output; codes != nullptr) {
        store_codes(*codes, hn::Set(I32(), static_cast<int32_t>(sum)), c, 1, codes->codes + p * codes->stride + c);
      } else {
        t.out[p * t.out_stride + c] = static_cast<int32_t>(sum);
      }
    }
  }
}
#else
using I16 = hn::Repartition<int16_t, I32>;

/// kP pixels from `first` against kV vectors of outputs from output `channel` (a multiple of kLanes).
template <int64_t kP, int64_t kV>
HWY_INLINE void tile(const PairTask& t, int64_t first, int64_t channel) {
  const I32 d32;
  const I16 d16;
  hn::Vec<I32> even[kP][kV], odd[kP][kV];  // odd stays unused on x86
  const int16_t* pixel[kP];
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
    pixel[p] = t.pixels[first + p] + t.base;
#pragma GCC unroll 4
    for (int64_t v = 0; v < kV; ++v) even[p][v] = odd[p][v] = hn::Zero(d32);
  }
  const int64_t block_size = t.segments * t.groups * kBlock * 2;
  const int16_t* w = t.weights + channel / kBlock * block_size + channel % kBlock * 2;
  for (int64_t s = 0; s < t.segments; ++s) {
    const int64_t offset = t.segment_offset[s];
    for (int64_t j = 0; j < t.groups; ++j) {
      hn::Vec<I16> weight[kV];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) {
        weight[v] = hn::LoadU(d16, w + v / kVectors * block_size + v % kVectors * kLanes * 2);
      }
#pragma GCC unroll 16
      for (int64_t p = 0; p < kP; ++p) {
        int32_t pair;
        std::memcpy(&pair, pixel[p] + offset + 2 * j, sizeof(pair));
        const auto x = hn::BitCast(d16, hn::Set(d32, pair));
#pragma GCC unroll 4
        for (int64_t v = 0; v < kV; ++v) {
          even[p][v] = hn::ReorderWidenMulAccumulate(d32, x, weight[v], even[p][v], odd[p][v]);
        }
      }
      w += kBlock * 2;
    }
  }
  const int64_t count = std::min<int64_t>(kV * kLanes, t.channels - channel);
  if (t.code_output != nullptr) {
    const CodeOutput output = *t.code_output;  // a copy: what is stored cannot change it
#pragma GCC unroll 16
    for (int64_t p = 0; p < kP; ++p) {
      hn::Vec<I32> sums[kV];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) sums[v] = hn::RearrangeToOddPlusEven(even[p][v], odd[p][v]);
      store_row_of_codes(output, sums, channel, count, output.codes + (first + p) * output.stride + channel);
    }
    return;
  }
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
    int32_t* out = t.out + (first + p) * t.out_stride + channel;
    if (count == kV * kLanes) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) {
        hn::StoreU(hn::RearrangeToOddPlusEven(even[p][v], odd[p][v]), d32, out + v * kLanes);
      }
    } else {
      int32_t whole[kV * kLanes];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) {
        hn::StoreU(hn::RearrangeToOddPlusEven(even[p][v], odd[p][v]), d32, whole + v * kLanes);
      }
      std::memcpy(out, whole, static_cast<size_t>(count) * sizeof(int32_t));
    }
  }
}

template <int64_t kV>
HWY_NOINLINE void column(const PairTask& t, int64_t channel) {
  cover<kPixels>(t.pixel_count, [&](auto size, int64_t first) { tile<size(), kV>(t, first, channel); });
}

void multiply_pixels(const PairTask& t) {
  for (int64_t channel = 0; channel < t.channels;) {
    const int64_t left = t.channels - channel;
    if (left > (kWide - kVectors) * kLanes || kWide == 1) {
      column<kWide>(t, channel);
      channel += kWide * kLanes;
    } else {
      column<kVectors>(t, channel);
      channel += kBlock;
    }
  }
}

#endif  // HWY_SCALAR

void multiply_depthwise_pixels(const DepthwiseTask& t) {
  const int64_t channels = t.channels, stride = (channels + kBlock - 1) / kBlock * kBlock;
  for (int64_t first = 0; first < t.pixel_count; first += t.cols) {
    int32_t* row = t.out + first * channels;
    const auto run = [&](auto df, int64_t begin, int64_t end) HWY_ATTR {
      using D = decltype(df);
      const hn::Rebind<int32_t, D> di;
      for (int64_t c = begin; c < end; c += hn::MaxLanes(D())) {
        int32_t* out = row + c;
        depthwise_row(df, t.pixels[first], t.cols, t.step, t.tap_offset, t.taps, t.weights, stride, c,
                      [&](auto sum) HWY_ATTR {
                        hn::StoreU(ops::HWY_NAMESPACE::nearest(sum), di, out);  // whole already
                        out += channels;
                      });
      }
    };
    const int64_t whole = channels / kLanes * kLanes;
    run(F32(), 0, whole);
    run(hn::CappedTag<float, 1>(), whole, channels);
  }
}

}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops::kernels {

HWY_EXPORT(widen_u8_i16);
HWY_EXPORT(widen_s8_i16);
HWY_EXPORT(widen_u8_f32);
HWY_EXPORT(widen_s8_f32);
HWY_EXPORT(widen_s8_u8);
HWY_EXPORT(multiply_pixels);
HWY_EXPORT(multiply_depthwise_pixels);

void widen(const uint8_t* x, int64_t n, int32_t z, int16_t* out) { HWY_DYNAMIC_DISPATCH(widen_u8_i16)(x, n, z, out); }
void widen(const int8_t* x, int64_t n, int32_t z, int16_t* out) { HWY_DYNAMIC_DISPATCH(widen_s8_i16)(x, n, z, out); }
void widen(const uint8_t* x, int64_t n, int32_t z, float* out) { HWY_DYNAMIC_DISPATCH(widen_u8_f32)(x, n, z, out); }
void widen(const int8_t* x, int64_t n, int32_t z, float* out) { HWY_DYNAMIC_DISPATCH(widen_s8_f32)(x, n, z, out); }
void widen(const uint8_t* x, int64_t n, int32_t, uint8_t* out) { std::memcpy(out, x, static_cast<size_t>(n)); }
void widen(const int8_t* x, int64_t n, int32_t, uint8_t* out) { HWY_DYNAMIC_DISPATCH(widen_s8_u8)(x, n, out); }
void multiply(const PairTask& task) { HWY_DYNAMIC_DISPATCH(multiply_pixels)(task); }
void multiply_depthwise(const DepthwiseTask& task) { HWY_DYNAMIC_DISPATCH(multiply_depthwise_pixels)(task); }

}  // namespace qat::ops::kernels
#endif
