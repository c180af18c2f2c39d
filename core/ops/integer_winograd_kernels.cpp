#include <cstring>

#include "core/ops/integer_winograd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/integer_winograd_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/pixels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace {

using I16 = hn::CappedTag<int16_t, kBlock>;

/// B^T of four values that are `step` apart.
template <int64_t kStep, class V>
HWY_INLINE void data_side(V* v) {
  const V v0 = v[0], v1 = v[kStep], v2 = v[2 * kStep], v3 = v[3 * kStep];
  v[0] = hn::Sub(v0, v2);
  v[kStep] = hn::Add(v1, v2);
  v[2 * kStep] = hn::Sub(v2, v1);
  v[3 * kStep] = hn::Sub(v1, v3);
}

void transform(const int16_t* const* tiles, int64_t count, int64_t line, int64_t channels, int64_t plane,
               int16_t* out) {
  const I16 d;
  for (int64_t t = 0; t < count; ++t, out += channels) {
    for (int64_t c = 0; c < channels; c += hn::MaxLanes(I16())) {
      hn::Vec<I16> v[16];
#pragma GCC unroll 4
      for (int64_t col = 0; col < 4; ++col) {
#pragma GCC unroll 4
        for (int64_t row = 0; row < 4; ++row)
          v[row * 4 + col] = hn::LoadU(d, tiles[t] + row * line + col * channels + c);
        data_side<4>(v + col);
      }
#pragma GCC unroll 4
      for (int64_t row = 0; row < 4; ++row) {
        data_side<1>(v + row * 4);
#pragma GCC unroll 4
        for (int64_t col = 0; col < 4; ++col) hn::StoreU(v[row * 4 + col], d, out + (row * 4 + col) * plane + c);
      }
    }
  }
}

HWY_INLINE hn::Vec<I16> wide(const int8_t* w) { return hn::PromoteTo(I16(), hn::LoadU(hn::Rebind<int8_t, I16>(), w)); }
HWY_INLINE hn::Vec<I16> wide(const int16_t* w) { return hn::LoadU(I16(), w); }

/// 2G of three values.
template <class V>
HWY_INLINE void weight_side(V w0, V w1, V w2, V* out, int64_t step) {
  const V ends = hn::Add(w0, w2);
  out[0] = hn::Add(w0, w0);
  out[step] = hn::Add(ends, w1);
  out[2 * step] = hn::Sub(ends, w1);
  out[3 * step] = hn::Add(w2, w2);
}

template <class Weight>
HWY_INLINE void transform_weights(const Weight* w, int64_t outputs, int64_t channels, int64_t plane, int16_t* out) {
  constexpr int64_t kFrequencies = 16, kWidth = hn::MaxLanes(I16());
  HWY_ALIGN int16_t all[kFrequencies][kBlock][kBlock] = {};  // [frequency][output][input]
  for (int64_t i = 0; i < channels; i += kBlock) {
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t c = 0; c < kBlock; c += kWidth) {
        const Weight* from = w + o * 9 * channels + i + c;
        hn::Vec<I16> columns[12];  // [4][3]
#pragma GCC unroll 3
        for (int64_t col = 0; col < 3; ++col) {
          weight_side(wide(from + col * channels), wide(from + (3 + col) * channels), wide(from + (6 + col) * channels),
                      columns + col, 3);
        }
#pragma GCC unroll 4
        for (int64_t row = 0; row < 4; ++row) {
          hn::Vec<I16> values[4];
          weight_side(columns[row * 3], columns[row * 3 + 1], columns[row * 3 + 2], values, 1);
#pragma GCC unroll 4
          for (int64_t col = 0; col < 4; ++col) hn::Store(values[col], I16(), &all[row * 4 + col][o][c]);
        }
      }
    }
    for (int64_t f = 0; f < kFrequencies; ++f) {
      int16_t* to = out + f * plane + i * kBlock;
      for (int64_t pair = 0; pair < kBlock; pair += 2) {
        for (int64_t o = 0; o < kBlock; ++o, to += 2) std::memcpy(to, &all[f][o][pair], 2 * sizeof(*to));
      }
    }
  }
}
void weights_s8(const int8_t* w, int64_t outputs, int64_t channels, int64_t plane, int16_t* out) {
  transform_weights(w, outputs, channels, plane, out);
}
void weights_s16(const int16_t* w, int64_t outputs, int64_t channels, int64_t plane, int16_t* out) {
  transform_weights(w, outputs, channels, plane, out);
}

void restore(const TileOutput& t) {
  const I32 d;
  for (int64_t tile = 0; tile < t.count; ++tile) {
    const int64_t* pixels = t.pixels + tile * 4;
    for (int64_t c = 0; c < t.used; c += kLanes) {
      hn::Vec<I32> top[4], bottom[4];
#pragma GCC unroll 4
      for (int64_t col = 0; col < 4; ++col) {
        const int32_t* at = t.sums + col * t.plane + tile * t.channels + c;
        const auto m0 = hn::LoadU(d, at), m1 = hn::LoadU(d, at + 4 * t.plane), m2 = hn::LoadU(d, at + 8 * t.plane),
                   m3 = hn::LoadU(d, at + 12 * t.plane);
        top[col] = hn::Add(hn::Add(m0, m1), m2);
        bottom[col] = hn::Sub(hn::Sub(m1, m2), m3);
      }
      const hn::Vec<I32> sums[4] = {hn::Add(hn::Add(top[0], top[1]), top[2]), hn::Sub(hn::Sub(top[1], top[2]), top[3]),
                                    hn::Add(hn::Add(bottom[0], bottom[1]), bottom[2]),
                                    hn::Sub(hn::Sub(bottom[1], bottom[2]), bottom[3])};
      const int64_t count = t.used - c;
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        if (pixels[i] < 0) continue;
        const auto sum = hn::ShiftRight<2>(sums[i]);
        if (const CodeOutput* codes = t.code_output; codes != nullptr) {
          store_codes(*codes, sum, c, count, codes->codes + pixels[i] * codes->stride + c);
        } else if (count >= kLanes) {
          hn::StoreU(sum, d, t.out + pixels[i] * t.out_stride + c);
        } else {
          HWY_ALIGN int32_t some[kLanes];
          hn::Store(sum, d, some);
          std::memcpy(t.out + pixels[i] * t.out_stride + c, some, static_cast<size_t>(count) * sizeof(int32_t));
        }
      }
    }
  }
}

}  // namespace
}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops::kernels {

HWY_EXPORT(transform);
HWY_EXPORT(restore);
HWY_EXPORT(weights_s8);
HWY_EXPORT(weights_s16);

void transform_weight_codes(const int8_t* w, int64_t outputs, int64_t channels, int64_t plane, int16_t* out) {
  HWY_DYNAMIC_DISPATCH(weights_s8)(w, outputs, channels, plane, out);
}
void transform_weight_codes(const int16_t* w, int64_t outputs, int64_t channels, int64_t plane, int16_t* out) {
  HWY_DYNAMIC_DISPATCH(weights_s16)(w, outputs, channels, plane, out);
}

void transform_codes(const int16_t* const* tiles, int64_t count, int64_t line, int64_t channels, int64_t plane,
                     int16_t* out) {
  HWY_DYNAMIC_DISPATCH(transform)(tiles, count, line, channels, plane, out);
}
void restore_sums(const TileOutput& t) { HWY_DYNAMIC_DISPATCH(restore)(t); }

}  // namespace qat::ops::kernels
#endif
