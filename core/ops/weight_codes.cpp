#include "core/ops/weight_codes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/weight_codes.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "core/ops/pieces.h"
#include "core/ops/vector_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kSums = 16;  // virtual lanes
using F32 = hn::CappedTag<float, kSums>;
using I32 = hn::Rebind<int32_t, F32>;
using F64 = hn::ScalableTag<double>;
constexpr int64_t kLanes = hn::MaxLanes(F32());
constexpr int64_t kDoubles = hn::MaxLanes(F64());

/// round(clip(t, lo - 1, hi + 1)), ties to even; NaN gives lo - 1.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V rounded(D d, V t, V lo, V hi) {
  const auto one = hn::Set(d, 1.0f), magic = hn::Set(d, 12582912.0f);
  const auto least = hn::Sub(lo, one);
  const auto clipped = hn::Min(hn::IfThenElse(hn::Gt(t, least), t, least), hn::Add(hi, one));
  return hn::Sub(hn::Add(clipped, magic), magic);
}

bool encode_row(const float* x, int64_t n, float scale, float lo, float hi, int8_t* codes) {
  bool clipped = false;
  const auto run = [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    using D = decltype(d);
    const hn::Rebind<int32_t, D> di;
    const hn::Rebind<int8_t, D> dc;
    const auto s = hn::Set(d, scale), least = hn::Set(d, lo), most = hn::Set(d, hi);
    auto lowest = hn::Set(d, hi), highest = hn::Set(d, lo);
    for (int64_t i = begin; i < end; i += hn::MaxLanes(D())) {
      const auto code = rounded(d, hn::Div(hn::LoadU(d, x + i), s), least, most);
      lowest = hn::Min(lowest, code);
      highest = hn::Max(highest, code);
      hn::StoreU(hn::DemoteTo(dc, hn::ConvertTo(di, hn::Min(hn::Max(code, least), most))), dc, codes + i);
    }
    clipped = clipped || hn::GetLane(hn::MinOfLanes(d, lowest)) < lo || hn::GetLane(hn::MaxOfLanes(d, highest)) > hi;
  };
  const int64_t whole = n / kLanes * kLanes;
  run(F32(), 0, whole);
  run(hn::CappedTag<float, 1>(), whole, n);
  return clipped;
}

/// Returns the channel's sum.
double gradient_row(const float* x, const float* g, int64_t n, float scale, float lo, float hi, bool by_code, float* dx,
                    bool sum) {
  double sums[kSums] = {};
  const auto run = [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    using D = decltype(d);
    constexpr int64_t kWidth = hn::MaxLanes(D());
    const auto s = hn::Set(d, scale), least = hn::Set(d, lo), most = hn::Set(d, hi), zero = hn::Zero(d);
    for (int64_t i = begin; i < end; i += kWidth) {
      const auto t = hn::Div(hn::LoadU(d, x + i), s), gradient = hn::LoadU(d, g + i);
      const auto wide = rounded(d, t, least, most);
      const auto decides = by_code ? wide : t;
      const auto inside = hn::And(hn::Ge(decides, least), hn::Le(decides, most));
      if (dx != nullptr) hn::StoreU(hn::IfThenElse(inside, gradient, zero), d, dx + i);
      if (!sum) continue;
      const auto code = hn::Min(hn::Max(wide, least), most);
      float values[kWidth], gradients[kWidth];
      hn::StoreU(hn::Sub(code, hn::IfThenElse(inside, t, zero)), d, values);
      hn::StoreU(gradient, d, gradients);
      double* lanes = sums + i % kSums;
      if constexpr (kWidth >= kDoubles) {
        const F64 dd;
        const hn::Rebind<float, F64> dh;
        for (int64_t k = 0; k < kWidth; k += kDoubles) {
          // The product of two floats is exact in double: fused or not, the sum is the same.
          hn::StoreU(hn::MulAdd(hn::PromoteTo(dd, hn::LoadU(dh, gradients + k)),
                                hn::PromoteTo(dd, hn::LoadU(dh, values + k)), hn::LoadU(dd, lanes + k)),
                     dd, lanes + k);
        }
      } else {
        for (int64_t k = 0; k < kWidth; ++k) lanes[k] += static_cast<double>(gradients[k]) * values[k];
      }
    }
  };
  const int64_t whole = n / kSums * kSums;
  run(F32(), 0, whole);
  run(hn::CappedTag<float, 1>(), whole, n);
  double total = 0;
  for (const double lane : sums) total += lane;
  return total;
}

/// Magnitudes compare as their bits do, NaN above infinity.
int32_t largest_bits(const float* x, int64_t n) {
  int32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, sizeof(bits));
    largest = std::max(largest, bits & 0x7fffffff);
  }
  return largest;
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(encode_row);
HWY_EXPORT(gradient_row);
HWY_EXPORT(largest_bits);

bool encode_weights(const float* x, int64_t channels, int64_t depth, const float* scale, int32_t lo, int32_t hi,
                    int8_t* codes) {
  bool clipped = false;
#pragma omp parallel for schedule(static) reduction(|| : clipped) if (channels * depth >= 16 * kPiece)
  for (int64_t c = 0; c < channels; ++c) {
    const bool row = HWY_DYNAMIC_DISPATCH(encode_row)(x + c * depth, depth, scale[c], static_cast<float>(lo),
                                                      static_cast<float>(hi), codes + c * depth);
    clipped = clipped || row;
  }
  return clipped;
}

void encode_weights_gradient(const float* x, const float* g, int64_t channels, int64_t depth, const float* scale,
                             int32_t lo, int32_t hi, bool by_code, float* dx, double* dscale) {
#pragma omp parallel for schedule(static) if (channels * depth >= 16 * kPiece)
  for (int64_t c = 0; c < channels; ++c) {
    const double sum = HWY_DYNAMIC_DISPATCH(gradient_row)(x + c * depth, g + c * depth, depth, scale[c],
                                                          static_cast<float>(lo), static_cast<float>(hi), by_code,
                                                          dx == nullptr ? nullptr : dx + c * depth, dscale != nullptr);
    if (dscale != nullptr) dscale[c] = sum;
  }
}

void largest_magnitudes(const float* x, int64_t channels, int64_t depth, float* largest) {
#pragma omp parallel for schedule(static) if (channels * depth >= 16 * kPiece)
  for (int64_t c = 0; c < channels; ++c) {
    const int32_t bits = HWY_DYNAMIC_DISPATCH(largest_bits)(x + c * depth, depth);
    std::memcpy(largest + c, &bits, sizeof(bits));
  }
}

}  // namespace qat::ops
#endif  // HWY_ONCE
