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

/// B^T of three values that are `step` apart, for two taps.
template <int64_t kStep, class V>
HWY_INLINE void strided_side(V* v) {
  v[0] = hn::Sub(v[0], v[kStep]);
  v[2 * kStep] = hn::Sub(v[2 * kStep], v[kStep]);
}

/// kRows x kCols values from those of every second row and column of a tile, transformed where there are three.
template <int64_t kRows, int64_t kCols>
HWY_INLINE void transform_phase(const int16_t* pixels, int64_t line, int64_t channels, int64_t plane, int16_t* out) {
  const I16 d;
  hn::Vec<I16> v[kRows * kCols];
#pragma GCC unroll 3
  for (int64_t col = 0; col < kCols; ++col) {
#pragma GCC unroll 3
    for (int64_t row = 0; row < kRows; ++row) {
      v[row * kCols + col] = hn::LoadU(d, pixels + 2 * row * line + 2 * col * channels);
    }
    if constexpr (kRows == 3) strided_side<kCols>(v + col);
  }
#pragma GCC unroll 3
  for (int64_t row = 0; row < kRows; ++row) {
    if constexpr (kCols == 3) strided_side<1>(v + row * kCols);
#pragma GCC unroll 3
    for (int64_t col = 0; col < kCols; ++col) hn::StoreU(v[row * kCols + col], d, out + (row * kCols + col) * plane);
  }
}

void transform_strided(const int16_t* const* tiles, int64_t count, int64_t line, int64_t channels, int64_t plane,
                       int16_t* out) {
  for (int64_t t = 0; t < count; ++t, out += channels) {
    for (int64_t c = 0; c < channels; c += hn::MaxLanes(I16())) {
      const int16_t* from = tiles[t] + c;
      transform_phase<3, 3>(from, line, channels, plane, out + c);
      transform_phase<3, 2>(from + channels, line, channels, plane, out + 9 * plane + c);
      transform_phase<2, 3>(from + line, line, channels, plane, out + 15 * plane + c);
      transform_phase<2, 2>(from + line + channels, line, channels, plane, out + 21 * plane + c);
    }
  }
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

/// The planes of nine weights, put(plane, value).
template <class V, class Put>
HWY_INLINE void weight_planes(const V (&w)[9], const Put& put) {
  V columns[12];  // [4][3]
#pragma GCC unroll 3
  for (int64_t col = 0; col < 3; ++col) weight_side(w[col], w[3 + col], w[6 + col], columns + col, 3);
#pragma GCC unroll 4
  for (int64_t row = 0; row < 4; ++row) {
    V values[4];
    weight_side(columns[row * 3], columns[row * 3 + 1], columns[row * 3 + 2], values, 1);
#pragma GCC unroll 4
    for (int64_t col = 0; col < 4; ++col) put(row * 4 + col, values[col]);
  }
}

template <class V, class Put>
HWY_INLINE void strided_weight_planes(const V (&w)[9], const Put& put) {
  V even[9];  // G of the kernel's even rows, [3][3]
#pragma GCC unroll 3
  for (int64_t col = 0; col < 3; ++col) {
    even[col] = w[col], even[3 + col] = hn::Add(w[col], w[6 + col]), even[6 + col] = w[6 + col];
  }
  const auto put_row = [&](int64_t plane, V left, V right) HWY_ATTR {
    put(plane, left);
    put(plane + 1, hn::Add(left, right));
    put(plane + 2, right);
  };
#pragma GCC unroll 3
  for (int64_t row = 0; row < 3; ++row) {
    put_row(3 * row, even[3 * row], even[3 * row + 2]);
    for (int64_t col = 0; col < 2; ++col) put(9 + 2 * row + col, even[3 * row + 1]);
  }
  for (int64_t row = 0; row < 2; ++row) {
    put_row(15 + 3 * row, w[3], w[5]);
    for (int64_t col = 0; col < 2; ++col) put(21 + 2 * row + col, w[4]);
  }
}

template <bool kStrided, class Weight>
HWY_INLINE void transform_weights(const Weight* w, int64_t outputs, int64_t channels, int16_t* const* out) {
  constexpr int64_t kCount = kStrided ? kStridedTilePlanes : kTilePlanes, kWidth = hn::MaxLanes(I16());
  HWY_ALIGN int16_t all[kCount][kBlock][kBlock] = {};  // [plane][output][input]
  for (int64_t i = 0; i < channels; i += kBlock) {
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t c = 0; c < kBlock; c += kWidth) {
        hn::Vec<I16> taps[9];
#pragma GCC unroll 9
        for (int64_t k = 0; k < 9; ++k) taps[k] = wide(w + (o * 9 + k) * channels + i + c);
        const auto put = [&](int64_t plane, hn::Vec<I16> value)
                             HWY_ATTR { hn::Store(value, I16(), &all[plane][o][c]); };
        if constexpr (kStrided) {
          strided_weight_planes(taps, put);
        } else {
          weight_planes(taps, put);
        }
      }
    }
    for (int64_t plane = 0; plane < kCount; ++plane) {
      int16_t* to = out[plane] + i * kBlock;
      for (int64_t pair = 0; pair < kBlock; pair += 2) {
        for (int64_t o = 0; o < kBlock; ++o, to += 2) std::memcpy(to, &all[plane][o][pair], 2 * sizeof(*to));
      }
    }
  }
}

template <class Weight>
HWY_INLINE void transform_weights(bool strided, const Weight* w, int64_t outputs, int64_t channels,
                                  int16_t* const* out) {
  if (strided) {
    transform_weights<true>(w, outputs, channels, out);
  } else {
    transform_weights<false>(w, outputs, channels, out);
  }
}
void weights_s8(bool strided, const int8_t* w, int64_t outputs, int64_t channels, int16_t* const* out) {
  transform_weights(strided, w, outputs, channels, out);
}
void weights_s16(bool strided, const int16_t* w, int64_t outputs, int64_t channels, int16_t* const* out) {
  transform_weights(strided, w, outputs, channels, out);
}

/// The outputs [2][2] of kLanes channels from `at` on.
HWY_INLINE void outputs_of(const int32_t* at, int64_t plane, hn::Vec<I32> (&out)[4]) {
  const I32 d;
  hn::Vec<I32> top[4], bottom[4];
#pragma GCC unroll 4
  for (int64_t col = 0; col < 4; ++col, at += plane) {
    const auto m0 = hn::LoadU(d, at), m1 = hn::LoadU(d, at + 4 * plane), m2 = hn::LoadU(d, at + 8 * plane),
               m3 = hn::LoadU(d, at + 12 * plane);
    top[col] = hn::Add(hn::Add(m0, m1), m2);
    bottom[col] = hn::Sub(hn::Sub(m1, m2), m3);
  }
  out[0] = hn::ShiftRight<2>(hn::Add(hn::Add(top[0], top[1]), top[2]));
  out[1] = hn::ShiftRight<2>(hn::Sub(hn::Sub(top[1], top[2]), top[3]));
  out[2] = hn::ShiftRight<2>(hn::Add(hn::Add(bottom[0], bottom[1]), bottom[2]));
  out[3] = hn::ShiftRight<2>(hn::Sub(hn::Sub(bottom[1], bottom[2]), bottom[3]));
}

HWY_INLINE void strided_outputs_of(const int32_t* at, int64_t plane, hn::Vec<I32> (&out)[4]) {
  const I32 d;
  hn::Vec<I32> top[3], bottom[3];
#pragma GCC unroll 3
  for (int64_t col = 0; col < 3; ++col, at += plane) {
    const auto both = hn::LoadU(d, at + 3 * plane);
    top[col] = hn::Add(hn::LoadU(d, at), both);
    bottom[col] = hn::Add(both, hn::LoadU(d, at + 6 * plane));
  }
  out[0] = hn::Add(top[0], top[1]);
  out[1] = hn::Add(top[1], top[2]);
  out[2] = hn::Add(bottom[0], bottom[1]);
  out[3] = hn::Add(bottom[1], bottom[2]);
}

void restore(const TileOutput& t) {
  const I32 d;
  for (int64_t tile = 0; tile < t.count; ++tile) {
    const int64_t* pixels = t.pixels + tile * 4;
    for (int64_t c = 0; c < t.used; c += kLanes) {
      const int32_t* at = t.sums + tile * t.channels + c;
      hn::Vec<I32> sums[4];
      if (t.strided) {
        strided_outputs_of(at, t.plane, sums);
      } else {
        outputs_of(at, t.plane, sums);
      }
      const int64_t count = t.used - c;
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        if (pixels[i] < 0) continue;
        const auto sum = sums[i];
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
HWY_EXPORT(transform_strided);
HWY_EXPORT(restore);
HWY_EXPORT(weights_s8);
HWY_EXPORT(weights_s16);

void transform_weight_codes(bool strided, const int8_t* w, int64_t outputs, int64_t channels, int16_t* const* out) {
  HWY_DYNAMIC_DISPATCH(weights_s8)(strided, w, outputs, channels, out);
}
void transform_weight_codes(bool strided, const int16_t* w, int64_t outputs, int64_t channels, int16_t* const* out) {
  HWY_DYNAMIC_DISPATCH(weights_s16)(strided, w, outputs, channels, out);
}

void transform_codes(bool strided, const int16_t* const* tiles, int64_t count, int64_t line, int64_t channels,
                     int64_t plane, int16_t* out) {
  if (strided) return HWY_DYNAMIC_DISPATCH(transform_strided)(tiles, count, line, channels, plane, out);
  HWY_DYNAMIC_DISPATCH(transform)(tiles, count, line, channels, plane, out);
}
void restore_sums(const TileOutput& t) { HWY_DYNAMIC_DISPATCH(restore)(t); }

}  // namespace qat::ops::kernels
#endif
