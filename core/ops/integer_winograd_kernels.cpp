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

void transform_codes(const int16_t* const* tiles, int64_t count, int64_t line, int64_t channels, int64_t plane,
                     int16_t* out) {
  HWY_DYNAMIC_DISPATCH(transform)(tiles, count, line, channels, plane, out);
}
void restore_sums(const TileOutput& t) { HWY_DYNAMIC_DISPATCH(restore)(t); }

}  // namespace qat::ops::kernels
#endif
