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

/// clip(t, lo - 1, hi + 1); NaN gives lo - 1.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V clipped(D d, V t, V lo, V hi) {
  const auto one = hn::Set(d, 1.0f), least = hn::Sub(lo, one);
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  return hn::Min(hn::Max(t, least), hn::Add(hi, one));  // maxps gives its second operand where one is NaN
#else
  return hn::Min(hn::IfThenElse(hn::Gt(t, least), t, least), hn::Add(hi, one));
#endif
}

/// The same, rounded, ties to even.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V rounded(D d, V t, V lo, V hi) {
  const auto magic = hn::Set(d, 12582912.0f);
  return hn::Sub(hn::Add(clipped(d, t, lo, hi), magic), magic);
}

/// Smallest and largest code before it was clipped.
template <class D>
struct Extremes {
  using Integers = hn::Rebind<int32_t, D>;
  Extremes(float lo, float hi)
      : lowest(hn::Set(Integers(), static_cast<int32_t>(hi))), highest(hn::Set(Integers(), static_cast<int32_t>(lo))) {}
  bool exceed(float lo, float hi) const {
    const Integers d;
    return static_cast<float>(hn::GetLane(hn::MinOfLanes(d, lowest))) < lo ||
           static_cast<float>(hn::GetLane(hn::MaxOfLanes(d, highest))) > hi;
  }
  hn::Vec<Integers> lowest, highest;
};

/// kCount vectors.
template <int64_t kCount, class D>
HWY_INLINE void encode_vectors(D d, const float* x, hn::Vec<D> scale, hn::Vec<D> lo, hn::Vec<D> hi, Extremes<D>& seen,
                               int8_t* codes) {
  const hn::Rebind<int32_t, D> di;
  const auto least = hn::ConvertTo(di, lo), most = hn::ConvertTo(di, hi);
  hn::Vec<hn::Rebind<int32_t, D>> values[kCount];
#pragma GCC unroll 4
  for (int64_t k = 0; k < kCount; ++k) {
    const auto code = nearest(clipped(d, hn::Div(hn::LoadU(d, x + k * hn::MaxLanes(D())), scale), lo, hi));
    seen.lowest = hn::Min(seen.lowest, code);
    seen.highest = hn::Max(seen.highest, code);
    values[k] = hn::Min(hn::Max(code, least), most);
  }
  store_narrow<int8_t>(di, values, codes);
}

/// Rows that are at least a vector long; the last vector of a row may overlap the one before it.
template <class D>
HWY_INLINE bool encode_in(D d, const float* x, int64_t rows, int64_t depth, const float* scale, float lo, float hi,
                          int8_t* codes) {
  constexpr int64_t kVectors = 4, kWidth = hn::MaxLanes(D());
  Extremes<D> seen(lo, hi);
  const auto least = hn::Set(d, lo), most = hn::Set(d, hi);
  for (int64_t r = 0; r < rows; ++r, x += depth, codes += depth) {
    const auto s = hn::Set(d, scale[r]);
    int64_t i = 0;
    for (; i + kVectors * kWidth <= depth; i += kVectors * kWidth) {
      for (int64_t k = 0; k < kVectors * kWidth; k += 16) hwy::Prefetch(x + i + k + kAhead);
      encode_vectors<kVectors>(d, x + i, s, least, most, seen, codes + i);
    }
    for (; i + kWidth <= depth; i += kWidth) encode_vectors<1>(d, x + i, s, least, most, seen, codes + i);
    if (i < depth) encode_vectors<1>(d, x + depth - kWidth, s, least, most, seen, codes + depth - kWidth);
  }
  return seen.exceed(lo, hi);
}

bool encode_rows(const float* x, int64_t rows, int64_t depth, const float* scale, float lo, float hi, int8_t* codes) {
  if (depth >= kLanes) return encode_in(F32(), x, rows, depth, scale, lo, hi, codes);
  const hn::CappedTag<float, 4> few;
  if (depth >= static_cast<int64_t>(hn::MaxLanes(few))) return encode_in(few, x, rows, depth, scale, lo, hi, codes);
  return encode_in(hn::CappedTag<float, 1>(), x, rows, depth, scale, lo, hi, codes);
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

HWY_EXPORT(encode_rows);
HWY_EXPORT(gradient_row);
HWY_EXPORT(largest_bits);
HWY_EXPORT(dequantize_row);

bool encode_weights(const float* x, int64_t channels, int64_t depth, const float* scale, int32_t lo, int32_t hi,
                    int8_t* codes) {
  if (depth == 0) return false;
  bool clipped = false;
  const int64_t rows = std::max<int64_t>(1, kPiece / depth), pieces = (channels + rows - 1) / rows;
#pragma omp parallel for schedule(static) reduction(|| : clipped) if (channels * depth >= 16 * kPiece)
  for (int64_t p = 0; p < pieces; ++p) {
    const int64_t c = p * rows;
    const bool piece =
        HWY_DYNAMIC_DISPATCH(encode_rows)(x + c * depth, std::min(rows, channels - c), depth, scale + c,
                                          static_cast<float>(lo), static_cast<float>(hi), codes + c * depth);
    clipped = clipped || piece;
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
