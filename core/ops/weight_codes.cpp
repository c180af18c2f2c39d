#include "core/ops/weight_codes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/weight_codes.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

#include "core/ops/pieces.h"
#include "core/ops/vector_inl.h"

#ifndef QAT_CORE_OPS_WEIGHT_CODES_CPP
#define QAT_CORE_OPS_WEIGHT_CODES_CPP
namespace qat::ops {
namespace {

struct GradientRow {
  float scale, lo, hi;
  bool by_code;
};

}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kSums = 16;  // virtual lanes
using F32 = hn::CappedTag<float, kSums>;
using I32 = hn::Rebind<int32_t, F32>;
constexpr int64_t kLanes = hn::MaxLanes(F32());

/// round(clip(t, lo - 1, hi + 1)), ties to even; NaN gives lo - 1.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V rounded(D d, V t, V lo, V hi) {
  const auto one = hn::Set(d, 1.0f), magic = hn::Set(d, 12582912.0f);
  const auto least = hn::Sub(lo, one);
  const auto clipped = hn::Min(hn::IfThenElse(hn::Gt(t, least), t, least), hn::Add(hi, one));
  return hn::Sub(hn::Add(clipped, magic), magic);
}

bool encode_row(const float* x, int64_t n, float scale, float lo, float hi, int8_t* codes) {
  constexpr int64_t kVectors = 4;
  bool clipped = false;
  const auto run = [&]<int64_t kCount>(auto d, std::integral_constant<int64_t, kCount>, int64_t begin,
                                       int64_t end) HWY_ATTR {
    using D = decltype(d);
    constexpr int64_t kWidth = hn::MaxLanes(D());
    const hn::Rebind<int32_t, D> di;
    const auto s = hn::Set(d, scale), least = hn::Set(d, lo), most = hn::Set(d, hi);
    auto lowest = hn::Set(d, hi), highest = hn::Set(d, lo);
    for (int64_t i = begin; i < end; i += kCount * kWidth) {
      if constexpr (kCount > 1) {
        for (int64_t k = 0; k < kCount * kWidth; k += 16) hwy::Prefetch(x + i + k + kAhead);
      }
      hn::Vec<hn::Rebind<int32_t, D>> values[kCount];
#pragma GCC unroll 4
      for (int64_t k = 0; k < kCount; ++k) {
        const auto code = rounded(d, hn::Div(hn::LoadU(d, x + i + k * kWidth), s), least, most);
        lowest = hn::Min(lowest, code);
        highest = hn::Max(highest, code);
        values[k] = hn::ConvertTo(di, hn::Min(hn::Max(code, least), most));
      }
      store_narrow<int8_t>(di, values, codes + i);
    }
    clipped = clipped || hn::GetLane(hn::MinOfLanes(d, lowest)) < lo || hn::GetLane(hn::MaxOfLanes(d, highest)) > hi;
  };
  const int64_t blocks = n / (kVectors * kLanes) * kVectors * kLanes, whole = n / kLanes * kLanes;
  run(F32(), std::integral_constant<int64_t, kVectors>(), 0, blocks);
  run(F32(), std::integral_constant<int64_t, 1>(), blocks, whole);
  run(hn::CappedTag<float, 1>(), std::integral_constant<int64_t, 1>(), whole, n);
  return clipped;
}

/// Writes the gradients of some weights and returns what their gradients of codes are multiplied by in the sum.
template <class D>
HWY_INLINE hn::Vec<D> gradient_of(D d, hn::Vec<D> x, hn::Vec<D> gradient, const GradientRow& r, float* dx) {
  const auto least = hn::Set(d, r.lo), most = hn::Set(d, r.hi), zero = hn::Zero(d);
  const auto t = hn::Div(x, hn::Set(d, r.scale));
  const auto wide = rounded(d, t, least, most);
  const auto decides = r.by_code ? wide : t;
  const auto inside = hn::And(hn::Ge(decides, least), hn::Le(decides, most));
  if (dx != nullptr) hn::StoreU(hn::IfThenElse(inside, gradient, zero), d, dx);
  return hn::Sub(hn::Min(hn::Max(wide, least), most), hn::IfThenElse(inside, t, zero));
}

/// Returns the channel's sum.
double gradient_row(const float* x, const float* g, int64_t n, const GradientRow& r, float* dx, bool sum) {
  const F32 d;
  const F64 dd;
  constexpr int64_t kVectors = kSums / kLanes;
  hn::Vec<F64> lanes[kVectors * kParts];
#pragma GCC unroll 16
  for (int64_t v = 0; v < kVectors * kParts; ++v) lanes[v] = hn::Zero(dd);
  const int64_t whole = n / kSums * kSums;
  for (int64_t i = 0; i < whole; i += kSums) {
    hwy::Prefetch(x + i + kAhead);
    hwy::Prefetch(g + i + kAhead);
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t at = i + v * kLanes;
      const auto gradient = hn::LoadU(d, g + at);
      const auto value = gradient_of(d, hn::LoadU(d, x + at), gradient, r, dx == nullptr ? nullptr : dx + at);
      if (!sum) continue;
#pragma GCC unroll 2
      for (int64_t k = 0; k < kParts; ++k) {
        // The product of two floats is exact in double: fused or not, the sum is the same.
        auto& lane = lanes[v * kParts + k];
        lane = hn::MulAdd(doubles(d, gradient, k), doubles(d, value, k), lane);
      }
    }
  }
  double sums[kSums];
#pragma GCC unroll 16
  for (int64_t v = 0; v < kVectors * kParts; ++v) hn::StoreU(lanes[v], dd, sums + v * kDoubles);
  const hn::CappedTag<float, 1> one;
  for (int64_t i = whole; i < n; ++i) {
    const auto value = gradient_of(one, hn::Set(one, x[i]), hn::Set(one, g[i]), r, dx == nullptr ? nullptr : dx + i);
    sums[i - whole] += static_cast<double>(g[i]) * hn::GetLane(value);
  }
  double total = 0;
  for (const double lane : sums) total += lane;
  return total;
}

/// Magnitudes compare as their bits do, NaN above infinity.
int32_t largest_bits(const float* x, int64_t n) {
  int32_t largest = 0;
  const auto run = [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t i = begin; i < end; ++i) {
      int32_t bits;
      std::memcpy(&bits, x + i, sizeof(bits));
      largest = std::max(largest, bits & 0x7fffffff);
    }
  };
  constexpr int64_t kBlock = 64;
  const int64_t whole = n / kBlock * kBlock;
  for (int64_t i = 0; i < whole; i += kBlock) {
    for (int64_t k = 0; k < kBlock; k += 16) hwy::Prefetch(x + i + k + kAhead);
    run(i, i + kBlock);
  }
  run(whole, n);
  return largest;
}

void dequantize_row(const int8_t* __restrict codes, int64_t n, float scale, float* __restrict x) {
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(codes[i]) * scale;
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(encode_row);
HWY_EXPORT(gradient_row);
HWY_EXPORT(largest_bits);
HWY_EXPORT(dequantize_row);

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
    const GradientRow row{scale[c], static_cast<float>(lo), static_cast<float>(hi), by_code};
    const double sum = HWY_DYNAMIC_DISPATCH(gradient_row)(x + c * depth, g + c * depth, depth, row,
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

void dequantize_weights(const int8_t* codes, int64_t channels, int64_t depth, const float* scale, float* x) {
#pragma omp parallel for schedule(static) if (channels * depth >= 16 * kPiece)
  for (int64_t c = 0; c < channels; ++c) {
    HWY_DYNAMIC_DISPATCH(dequantize_row)(codes + c * depth, depth, scale[c], x + c * depth);
  }
}

}  // namespace qat::ops
#endif  // HWY_ONCE
