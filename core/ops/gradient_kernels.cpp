#include "core/ops/gradient_kernels.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/gradient_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/depthwise_inl.h"
#include "core/ops/pixels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace {

using Floats = hn::Vec<F32>;

int64_t lanes() { return kLanes; }

template <class Code>
HWY_INLINE void spread_codes(const Code* x, int64_t pixels, int64_t channels, int32_t zero_point, int64_t block_stride,
                             float* out) {
  const F32 df;
  const I32 di;
  const hn::Rebind<Code, F32> dc;
  const auto zero = hn::Set(di, zero_point);
  for (int64_t p = 0; p < pixels; ++p, x += channels, out += kLanes) {
    float* to = out;
    for (int64_t c = 0; c < channels; c += kLanes, to += block_stride) {
      hn::StoreU(hn::ConvertTo(df, hn::Sub(hn::PromoteTo(di, hn::LoadU(dc, x + c)), zero)), df, to);
    }
  }
}
void spread_u8(const uint8_t* x, int64_t pixels, int64_t channels, int32_t z, int64_t block_stride, float* out) {
  spread_codes(x, pixels, channels, z, block_stride, out);
}
void spread_s8(const int8_t* x, int64_t pixels, int64_t channels, int32_t z, int64_t block_stride, float* out) {
  spread_codes(x, pixels, channels, z, block_stride, out);
}

void quads(const float* g, int64_t pixels, int64_t stride, int64_t channels, float* out) {
  const int64_t whole = channels / kQuad * kQuad;
  for (int64_t p = 0; p < pixels; ++p, g += stride, out += kQuad) {
    for (int64_t c = 0; c < whole; c += kQuad) std::memcpy(out + c * pixels, g + c, kQuad * sizeof(float));
    if (whole == channels) continue;
    float last[kQuad] = {};
    std::memcpy(last, g + whole, static_cast<size_t>(channels - whole) * sizeof(float));
    std::memcpy(out + whole * pixels, last, sizeof(last));
  }
}

/// A tile's sums, [rows][count][kLanes], into the gradient's rows from `channel`.
HWY_NOINLINE void store_sums(const WeightTile& t, const Column* columns, int64_t count, int64_t channel, int64_t rows,
                             const float* sums) {
  const F32 d;
  for (int64_t m = 0; m < rows && channel + m < t.channels; ++m) {
    float* row = t.dw + (channel + m) * t.dw_stride;
    const float factor = t.factor != nullptr ? t.factor[channel + m] : 1.0f;
    for (int64_t v = 0; v < count; ++v) {
      const float* from = sums + (m * count + v) * kLanes;
      float* to = row + columns[v].dw;
      if (columns[v].count == kLanes) {
        const auto sum = hn::LoadU(d, from);
        const auto value = t.first ? sum : hn::Add(hn::LoadU(d, to), sum);
        hn::StoreU(hn::Mul(value, hn::Set(d, factor)), d, to);
        continue;
      }
      for (int64_t i = 0; i < columns[v].count; ++i) to[i] = (t.first ? from[i] : to[i] + from[i]) * factor;
    }
  }
}

/// kT columns of x against kS quads of output channels.
template <int64_t kT, int64_t kS>
HWY_INLINE void weight_tile(const WeightTile& t, const Column* columns, int64_t channel) {
  const F32 d;
  Floats sum[kS * kQuad][kT];
#pragma GCC unroll 16
  for (int64_t m = 0; m < kS * kQuad; ++m) {
#pragma GCC unroll 3
    for (int64_t v = 0; v < kT; ++v) sum[m][v] = hn::Zero(d);
  }
  const int64_t pixels = t.images * t.rows * t.cols;
  const float* g[kS];
#pragma GCC unroll 4
  for (int64_t s = 0; s < kS; ++s) g[s] = t.g + (channel + s * kQuad) * pixels;
  int64_t offset[kT];
#pragma GCC unroll 3
  for (int64_t v = 0; v < kT; ++v) offset[v] = columns[v].x;
  int64_t at = 0;
  for (int64_t image = 0; image < t.images; ++image) {
    for (int64_t row = 0; row < t.rows; ++row) {
      const float* x = t.x + image * t.image_step + row * t.row_step;
      for (int64_t col = 0; col < t.cols; ++col, x += t.pixel_step, at += kQuad) {
        Floats value[kT];
#pragma GCC unroll 3
        for (int64_t v = 0; v < kT; ++v) value[v] = hn::LoadU(d, x + offset[v]);
#pragma GCC unroll 4
        for (int64_t s = 0; s < kS; ++s) {
#pragma GCC unroll 4
          for (int64_t m = 0; m < kQuad; ++m) {
            const auto factor = hn::Set(d, g[s][at + m]);
#pragma GCC unroll 3
            for (int64_t v = 0; v < kT; ++v) {
              sum[s * kQuad + m][v] = hn::MulAdd(factor, value[v], sum[s * kQuad + m][v]);
            }
          }
        }
      }
    }
  }
  float sums[kS * kQuad][kT][kLanes];
#pragma GCC unroll 16
  for (int64_t m = 0; m < kS * kQuad; ++m) {
#pragma GCC unroll 3
    for (int64_t v = 0; v < kT; ++v) hn::StoreU(sum[m][v], d, sums[m][v]);
  }
  store_sums(t, columns, kT, channel, kS * kQuad, &sums[0][0][0]);
}

template <int64_t kT, int64_t kS>
HWY_NOINLINE void weight_columns(const WeightTile& t, const Column* columns) {
  int64_t channel = 0;
  for (; channel + (kS - 1) * kQuad < t.channels; channel += kS * kQuad) weight_tile<kT, kS>(t, columns, channel);
  for (; channel < t.channels; channel += kQuad) weight_tile<kT, 1>(t, columns, channel);
}

void weights(const WeightTile& t) {
  constexpr bool kMany = HWY_TARGET <= HWY_AVX3;  // registers
  int64_t c = 0;
  for (; c + 3 <= t.column_count; c += 3) weight_columns<3, kMany ? 2 : 1>(t, t.columns + c);
  if (t.column_count - c == 2) weight_columns<2, kMany ? 3 : 1>(t, t.columns + c);
  if (t.column_count - c == 1) weight_columns<1, kMany ? 4 : 2>(t, t.columns + c);
}

/// kP pixels from `first` against kV vectors of channels from `channel` (a multiple of kBlock).
template <int64_t kP, int64_t kV>
HWY_INLINE void input_tile(const InputTask& t, int64_t first, int64_t channel) {
  const F32 d;
  Floats sum[kP][kV];
  const float* pixel[kP];
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
    pixel[p] = t.pixels[first + p];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kV; ++v) sum[p][v] = hn::Zero(d);
  }
  const int64_t block_size = t.taps * t.depth * kBlock;
  const float* w = t.weights + channel / kBlock * block_size;
  for (int64_t tap = 0; tap < t.taps; ++tap) {
    const int64_t offset = t.tap_offset[tap];
    for (int64_t j = 0; j < t.depth; ++j, w += kBlock) {
      Floats weight[kV];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) weight[v] = hn::LoadU(d, w + v / kVectors * block_size + v % kVectors * kLanes);
#pragma GCC unroll 16
      for (int64_t p = 0; p < kP; ++p) {
        const auto g = hn::Set(d, pixel[p][offset + j]);
#pragma GCC unroll 4
        for (int64_t v = 0; v < kV; ++v) sum[p][v] = hn::MulAdd(g, weight[v], sum[p][v]);
      }
    }
  }
  const int64_t count = std::min<int64_t>(kV * kLanes, t.channels - channel);
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
    float* out = t.out[first + p] + channel;
    if (count == kV * kLanes) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) hn::StoreU(sum[p][v], d, out + v * kLanes);
    } else {
      float whole[kV * kLanes];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) hn::StoreU(sum[p][v], d, whole + v * kLanes);
      std::memcpy(out, whole, static_cast<size_t>(count) * sizeof(float));
    }
  }
}

template <int64_t kV>
HWY_NOINLINE void input_column(const InputTask& t, int64_t channel) {
  cover<kPixels>(t.pixel_count, [&](auto size, int64_t first) { input_tile<size(), kV>(t, first, channel); });
}

void inputs(const InputTask& t) {
  for (int64_t channel = 0; channel < t.channels;) {
    const int64_t left = t.channels - channel;
    if (left > (kWide - kVectors) * kLanes || kWide == 1) {
      input_column<kWide>(t, channel);
      channel += kWide * kLanes;
    } else {
      input_column<kVectors>(t, channel);
      channel += kBlock;
    }
  }
}

void depthwise_input_row(const DepthwiseInputRow& r) {
  const int64_t step = r.out_step;
  const auto run = [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t c = begin; c < end; c += hn::MaxLanes(decltype(d)())) {
      float* out = r.out + c;
      depthwise_row(d, r.g, r.cols, r.channels, r.tap_offset, r.taps, r.weights, r.channels, c, [&](auto sum) HWY_ATTR {
        hn::StoreU(sum, d, out);
        out += step;
      });
    }
  };
  const int64_t whole = r.channels / kLanes * kLanes;
  run(F32(), 0, whole);
  run(hn::CappedTag<float, 1>(), whole, r.channels);
}

/// kT taps from `tap`.
template <int64_t kT>
HWY_INLINE void depthwise_taps(const DepthwiseRow& r, int64_t tap, int64_t c) {
  const F32 d;
  Floats sum[kT];
  int64_t offset[kT];
#pragma GCC unroll 9
  for (int64_t k = 0; k < kT; ++k) {
    sum[k] = hn::Zero(d);
    offset[k] = r.tap_offset[tap + k] + c;
  }
  const float *x = r.x, *g = r.g + c;
  const int64_t cols = r.cols, step = r.step, channels = r.channels;
  for (int64_t col = 0; col < cols; ++col, x += step, g += channels) {
    const auto factor = hn::LoadU(d, g);
#pragma GCC unroll 9
    for (int64_t k = 0; k < kT; ++k) sum[k] = hn::MulAdd(factor, hn::LoadU(d, x + offset[k]), sum[k]);
  }
#pragma GCC unroll 9
  for (int64_t k = 0; k < kT; ++k) {
    float* to = r.sums + (tap + k) * r.channels + c;
    hn::StoreU(hn::Add(hn::LoadU(d, to), sum[k]), d, to);
  }
}

void depthwise(const DepthwiseRow& r) {
  int64_t c = 0;
  for (; c + kLanes <= r.channels; c += kLanes) {
    int64_t tap = 0;
    for (; tap + 9 <= r.taps; tap += 9) depthwise_taps<9>(r, tap, c);
    for (; tap + 3 <= r.taps; tap += 3) depthwise_taps<3>(r, tap, c);
    for (; tap < r.taps; ++tap) depthwise_taps<1>(r, tap, c);
  }
  for (; c < r.channels; ++c) {
    for (int64_t tap = 0; tap < r.taps; ++tap) {
      const hn::CappedTag<float, 1> one;
      auto sum = hn::Zero(one);
      for (int64_t col = 0; col < r.cols; ++col) {
        sum = hn::MulAdd(hn::Set(one, r.g[col * r.channels + c]),
                         hn::Set(one, r.x[col * r.step + r.tap_offset[tap] + c]), sum);
      }
      r.sums[tap * r.channels + c] += hn::GetLane(sum);
    }
  }
}

}  // namespace
}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops::kernels {

HWY_EXPORT(lanes);
HWY_EXPORT(spread_u8);
HWY_EXPORT(spread_s8);
HWY_EXPORT(quads);
HWY_EXPORT(weights);
HWY_EXPORT(inputs);
HWY_EXPORT(depthwise_input_row);
HWY_EXPORT(depthwise);

int64_t gradient_lanes() { return HWY_DYNAMIC_DISPATCH(lanes)(); }
void spread(const uint8_t* x, int64_t pixels, int64_t channels, int32_t z, int64_t block_stride, float* out) {
  HWY_DYNAMIC_DISPATCH(spread_u8)(x, pixels, channels, z, block_stride, out);
}
void spread(const int8_t* x, int64_t pixels, int64_t channels, int32_t z, int64_t block_stride, float* out) {
  HWY_DYNAMIC_DISPATCH(spread_s8)(x, pixels, channels, z, block_stride, out);
}
void pack_quads(const float* g, int64_t pixels, int64_t stride, int64_t channels, float* out) {
  HWY_DYNAMIC_DISPATCH(quads)(g, pixels, stride, channels, out);
}
void add_weight_tile(const WeightTile& tile) { HWY_DYNAMIC_DISPATCH(weights)(tile); }
void multiply_inputs(const InputTask& task) { HWY_DYNAMIC_DISPATCH(inputs)(task); }
void multiply_depthwise_row(const DepthwiseInputRow& row) { HWY_DYNAMIC_DISPATCH(depthwise_input_row)(row); }
void add_depthwise_row(const DepthwiseRow& row) { HWY_DYNAMIC_DISPATCH(depthwise)(row); }

}  // namespace qat::ops::kernels
#endif
