#include "core/ops/winograd_kernels.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/winograd_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/pixels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace {

using Floats = hn::Vec<F32>;

/// B^T of four values that are `step` apart.
template <int64_t kStep>
HWY_INLINE void data_side(Floats* v) {
  const Floats v0 = v[0], v1 = v[kStep], v2 = v[2 * kStep], v3 = v[3 * kStep];
  v[0] = hn::Sub(v0, v2);
  v[kStep] = hn::Add(v1, v2);
  v[2 * kStep] = hn::Sub(v2, v1);
  v[3 * kStep] = hn::Sub(v1, v3);
}

void data(const float* d, int64_t line, int64_t tiles, int64_t channels, int64_t first_tile, const Planes& out) {
  const F32 df;
  for (int64_t t = 0; t < tiles; ++t, d += 2 * channels) {
    float* to = out.values + (first_tile + t) * out.tile_step;
    for (int64_t c = 0; c < channels; c += kLanes, to += out.block_step) {
      Floats v[16];
#pragma GCC unroll 4
      for (int64_t col = 0; col < 4; ++col) {
#pragma GCC unroll 4
        for (int64_t row = 0; row < 4; ++row) v[row * 4 + col] = hn::LoadU(df, d + row * line + col * channels + c);
        data_side<4>(v + col);
      }
#pragma GCC unroll 4
      for (int64_t row = 0; row < 4; ++row) {
        data_side<1>(v + row * 4);
#pragma GCC unroll 4
        for (int64_t col = 0; col < 4; ++col) hn::StoreU(v[row * 4 + col], df, to + (row * 4 + col) * out.plane);
      }
    }
  }
}

void outputs(const float* const* pixels, int64_t channels, int64_t tiles, int64_t tile, int64_t plane, float* out) {
  const F32 df;
  constexpr int64_t kQuad = 4;
  for (int64_t c = 0; c < channels; c += kLanes) {
    const auto p00 = hn::LoadU(df, pixels[0] + c), p01 = hn::LoadU(df, pixels[1] + c),
               p10 = hn::LoadU(df, pixels[2] + c), p11 = hn::LoadU(df, pixels[3] + c);
    // A g: the four rows of both columns.
    const Floats rows[4][2] = {{p00, p01},
                               {hn::Add(p00, p10), hn::Add(p01, p11)},
                               {hn::Sub(p00, p10), hn::Sub(p01, p11)},
                               {hn::Neg(p10), hn::Neg(p11)}};
#pragma GCC unroll 4
    for (int64_t r = 0; r < 4; ++r) {
      const Floats whole[4] = {rows[r][0], hn::Add(rows[r][0], rows[r][1]), hn::Sub(rows[r][0], rows[r][1]),
                               hn::Neg(rows[r][1])};
#pragma GCC unroll 4
      for (int64_t f = 0; f < 4; ++f) {
        float* to = out + (r * 4 + f) * plane + tile * kQuad;
        if constexpr (kLanes >= kQuad) {
          HWY_ALIGN float values[kLanes];
          hn::Store(whole[f], df, values);
#pragma GCC unroll 4
          for (int64_t q = 0; q < kLanes; q += kQuad) {
            std::memcpy(to + (c + q) * tiles, values + q, kQuad * sizeof(float));
          }
        } else {
          to[c / kQuad * kQuad * tiles + c % kQuad] = hn::GetLane(whole[f]);
        }
      }
    }
  }
}

void data_back(const float* m, int64_t plane, int64_t channels, float* const* pixels) {
  const F32 df;
  for (int64_t c = 0; c < channels; c += kLanes) {
    Floats top[4], bottom[4];
#pragma GCC unroll 4
    for (int64_t col = 0; col < 4; ++col) {
      const float* at = m + col * plane + c;
      const auto m0 = hn::LoadU(df, at), m1 = hn::LoadU(df, at + 4 * plane), m2 = hn::LoadU(df, at + 8 * plane),
                 m3 = hn::LoadU(df, at + 12 * plane);
      top[col] = hn::Add(hn::Add(m0, m1), m2);
      bottom[col] = hn::Sub(hn::Sub(m1, m2), m3);
    }
    hn::StoreU(hn::Add(hn::Add(top[0], top[1]), top[2]), df, pixels[0] + c);
    hn::StoreU(hn::Sub(hn::Sub(top[1], top[2]), top[3]), df, pixels[1] + c);
    hn::StoreU(hn::Add(hn::Add(bottom[0], bottom[1]), bottom[2]), df, pixels[2] + c);
    hn::StoreU(hn::Sub(hn::Sub(bottom[1], bottom[2]), bottom[3]), df, pixels[3] + c);
  }
}

/// G of three values.
HWY_INLINE void weight_side(Floats w0, Floats w1, Floats w2, Floats* out, int64_t step) {
  const auto half = hn::Set(F32(), 0.5f);
  const auto ends = hn::Add(w0, w2);
  out[0] = w0;
  out[step] = hn::Mul(hn::Add(ends, w1), half);
  out[2 * step] = hn::Mul(hn::Sub(ends, w1), half);
  out[3 * step] = w2;
}

void weights(const int8_t* w, float scale, int64_t stride, int64_t channels, int64_t plane, int64_t block_step,
             float* out) {
  const F32 df;
  const I32 di;
  const hn::Rebind<int8_t, F32> dc;
  const auto factor = hn::Set(df, scale);
  for (int64_t c = 0; c < channels; c += kLanes) {
    Floats columns[12];  // [4][3]
#pragma GCC unroll 3
    for (int64_t col = 0; col < 3; ++col) {
      Floats value[3];
#pragma GCC unroll 3
      for (int64_t row = 0; row < 3; ++row) {
        const auto code = hn::LoadU(dc, w + ((2 - row) * 3 + 2 - col) * stride + c);
        value[row] = hn::Mul(factor, hn::ConvertTo(df, hn::PromoteTo(di, code)));
      }
      weight_side(value[0], value[1], value[2], columns + col, 3);
    }
    float* to = out + c / kBlock * block_step + c % kBlock;
#pragma GCC unroll 4
    for (int64_t row = 0; row < 4; ++row) {
      Floats value[4];
      weight_side(columns[row * 3], columns[row * 3 + 1], columns[row * 3 + 2], value, 1);
#pragma GCC unroll 4
      for (int64_t col = 0; col < 4; ++col) hn::StoreU(value[col], df, to + (row * 4 + col) * plane);
    }
  }
}

void weights_back(const float* u, int64_t plane, int64_t channels, float factor, float* dw) {
  const F32 df;
  const auto half = hn::Set(df, 0.5f), times = hn::Set(df, factor);
  for (int64_t c = 0; c < channels; c += kLanes) {
    Floats columns[3][4];
#pragma GCC unroll 4
    for (int64_t col = 0; col < 4; ++col) {
      const float* at = u + col * plane + c;
      const auto u0 = hn::LoadU(df, at), u1 = hn::LoadU(df, at + 4 * plane), u2 = hn::LoadU(df, at + 8 * plane),
                 u3 = hn::LoadU(df, at + 12 * plane);
      const auto middle = hn::Mul(hn::Add(u1, u2), half);
      columns[0][col] = hn::Add(u0, middle);
      columns[1][col] = hn::Mul(hn::Sub(u1, u2), half);
      columns[2][col] = hn::Add(middle, u3);
    }
#pragma GCC unroll 3
    for (int64_t row = 0; row < 3; ++row) {
      const auto* r = columns[row];
      const auto middle = hn::Mul(hn::Add(r[1], r[2]), half);
      float* to = dw + row * 3 * channels + c;
      hn::StoreU(hn::Mul(hn::Add(r[0], middle), times), df, to);
      hn::StoreU(hn::Mul(hn::Mul(hn::Sub(r[1], r[2]), half), times), df, to + channels);
      hn::StoreU(hn::Mul(hn::Add(middle, r[3]), times), df, to + 2 * channels);
    }
  }
}

}  // namespace
}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops::kernels {

HWY_EXPORT(data);
HWY_EXPORT(outputs);
HWY_EXPORT(data_back);
HWY_EXPORT(weights);
HWY_EXPORT(weights_back);

void transform_data(const float* d, int64_t line, int64_t tiles, int64_t channels, int64_t first_tile,
                    const Planes& out) {
  HWY_DYNAMIC_DISPATCH(data)(d, line, tiles, channels, first_tile, out);
}
void transform_outputs(const float* const* pixels, int64_t channels, int64_t tiles, int64_t tile, int64_t plane,
                       float* out) {
  HWY_DYNAMIC_DISPATCH(outputs)(pixels, channels, tiles, tile, plane, out);
}
void restore_data(const float* m, int64_t plane, int64_t channels, float* const* pixels) {
  HWY_DYNAMIC_DISPATCH(data_back)(m, plane, channels, pixels);
}
void transform_weights(const int8_t* w, float scale, int64_t stride, int64_t channels, int64_t plane,
                       int64_t block_step, float* out) {
  HWY_DYNAMIC_DISPATCH(weights)(w, scale, stride, channels, plane, block_step, out);
}
void restore_weights(const float* u, int64_t plane, int64_t channels, float factor, float* dw) {
  HWY_DYNAMIC_DISPATCH(weights_back)(u, plane, channels, factor, dw);
}

}  // namespace qat::ops::kernels
#endif
