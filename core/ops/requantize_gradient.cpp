// The backward passes of requantize.h.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <vector>

#include "core/base/error.h"
#include "core/ops/mask.h"
#include "core/ops/periods.h"
#include "core/ops/requantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/requantize_gradient.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/vector_inl.h"

#ifndef QAT_CORE_OPS_REQUANTIZE_GRADIENT_CPP
#define QAT_CORE_OPS_REQUANTIZE_GRADIENT_CPP
namespace qat::ops {
namespace {

/// KeptAccumulators with its per-channel values over a whole period.
struct Kept {
  const int16_t* compact = nullptr;
  const int32_t* exact = nullptr;
  const float* middle = nullptr;
  const float* step = nullptr;
};
enum class Keeping { kNothing, kCompact, kExact };

/// Element i, at place j of the period.
inline float kept_value(const Kept& kept, int64_t i, int64_t j) {
  if (kept.compact != nullptr) return kept.middle[j] + static_cast<float>(kept.compact[i]) * kept.step[j];
  return kept.exact != nullptr ? static_cast<float>(kept.exact[i]) : 0.0f;
}

/// The output's codes, and memory for those of kCached elements or 8 periods.
struct Codes {
  StoredCodes stored;
  int32_t zero_point = 0;
  uint8_t* memory = nullptr;
};

/// Elements whose gradients and accumulators stay in the first cache while their places are summed.
constexpr int64_t kCached = 4096;

inline int64_t cached_periods(int64_t period) { return std::max<int64_t>(8, kCached / period); }

struct AffineGradient {
  const float* a_g = nullptr;
  const float* b_a = nullptr;
  const float* c0 = nullptr;
};

/// t = a * multiplier + offset, or x / scale.
struct Unrounded {
  Kept kept;
  const float* multiplier = nullptr;
  const float* offset = nullptr;
  const float* x = nullptr;
  float scale = 1;
};

}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

using F32 = hn::CappedTag<float, kStep>;
constexpr int64_t kLanes = hn::MaxLanes(F32());
// Sums are made in double: vectors of as many floats as there are doubles in a vector.
using Half = hn::Rebind<float, F64>;

template <Keeping kKeeping, class D>
HWY_INLINE hn::Vec<D> kept_values(D d, const Kept& kept, int64_t i, int64_t j) {
  const hn::Rebind<int32_t, D> di;
  if constexpr (kKeeping == Keeping::kCompact) {
    const hn::Rebind<int16_t, D> dk;
    const auto whole = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(dk, kept.compact + i)));
    return hn::Add(hn::LoadU(d, kept.middle + j), hn::Mul(whole, hn::LoadU(d, kept.step + j)));
  } else if constexpr (kKeeping == Keeping::kExact) {
    return hn::ConvertTo(d, hn::LoadU(di, kept.exact + i));
  } else {
    return hn::Zero(d);
  }
}

template <class D>
HWY_INLINE hn::Vec<D> masked(D d, const float* g, const uint8_t* inside, int64_t i) {
  const auto value = hn::LoadU(d, g + i);
  return inside == nullptr ? value : hn::IfThenElseZero(load_mask(d, inside, i), value);
}

/// All parts of a vector as doubles.
HWY_INLINE void to_doubles(hn::Vec<F32> v, hn::Vec<F64> (&parts)[kParts]) {
#if HWY_TARGET == HWY_AVX2
  // Through memory: one port alone moves halves between registers, and the conversions would wait for it too.
  alignas(32) float memory[kLanes];
  _mm256_store_ps(memory, v.raw);
  asm("" : "+m"(memory));
  parts[0] = hn::Vec<F64>{_mm256_cvtps_pd(_mm_load_ps(memory))};
  parts[1] = hn::Vec<F64>{_mm256_cvtps_pd(_mm_load_ps(memory + kDoubles))};
#else
#pragma GCC unroll 2
  for (int64_t k = 0; k < kParts; ++k) parts[k] = doubles(F32(), v, k);
#endif
}

/// Adds whole periods [begin, begin + periods) to s1, s2 and, with kScale, s3 [period]: each place sums its own rows,
/// one after another. s3: g * (code - zero point), inside or not.
template <Keeping kKeeping, bool kScale>
HWY_INLINE void reduce_periods(const float* g, const uint8_t* inside, const Kept& kept, const Codes& y, int64_t begin,
                               int64_t periods, int64_t period, double* s1, double* s2, double* s3) {
  const F32 df;
  const F64 dd;
  constexpr int64_t kColumns = kScale && HWY_TARGET > HWY_AVX3 ? 1 : 2;  // vectors side by side, by the registers
  constexpr int64_t kWidth = kColumns * kLanes, kSums = kParts * kColumns;
  static_assert(kStep % kWidth == 0);
  const hn::Rebind<int32_t, F32> di;
  const hn::Rebind<uint8_t, F32> dc;
  const auto zero = hn::Set(di, y.zero_point);
  const int64_t most = cached_periods(period);
  for (int64_t first = 0; first < periods; first += most) {
    const int64_t rows = std::min(most, periods - first), start = begin + first * period;
    const uint8_t* codes = kScale ? codes_in(y.stored, start, rows * period, y.memory) : nullptr;
    for (int64_t j = 0; j < period; j += kWidth) {
      hn::Vec<F64> sum[kSums], product[kSums], error[kSums];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kSums; ++v) {
        sum[v] = hn::LoadU(dd, s1 + j + v * kDoubles);
        product[v] = error[v] = hn::Zero(dd);
        if constexpr (kKeeping != Keeping::kNothing) product[v] = hn::LoadU(dd, s2 + j + v * kDoubles);
        if constexpr (kScale) error[v] = hn::LoadU(dd, s3 + j + v * kDoubles);
      }
      for (int64_t r = 0, i = start + j; r < rows; ++r, i += period) {
        // What comes next: the machine does not see the order in which columns of rows are read.
        hwy::Prefetch(g + i + most * period);
        if constexpr (kKeeping == Keeping::kCompact) hwy::Prefetch(kept.compact + i + most * period);
        if constexpr (kKeeping == Keeping::kExact) hwy::Prefetch(kept.exact + i + most * period);
#pragma GCC unroll 2
        for (int64_t v = 0; v < kColumns; ++v) {
          const int64_t at = v * kLanes;
          const auto value = masked(df, g, inside, i + at);
          hn::Vec<F64> wide[kParts];
          to_doubles(value, wide);
#pragma GCC unroll 2
          for (int64_t k = 0; k < kParts; ++k) sum[kParts * v + k] = hn::Add(sum[kParts * v + k], wide[k]);
          if constexpr (kKeeping != Keeping::kNothing) {
            // The product of two floats is exact in double: fused or not, the sum is the same.
            hn::Vec<F64> whole[kParts];
            to_doubles(kept_values<kKeeping>(df, kept, i + at, j + at), whole);
#pragma GCC unroll 2
            for (int64_t k = 0; k < kParts; ++k) {
              product[kParts * v + k] = hn::MulAdd(wide[k], whole[k], product[kParts * v + k]);
            }
          }
          if constexpr (kScale) {
            const auto code = hn::Sub(hn::PromoteTo(di, hn::LoadU(dc, codes + i + at - start)), zero);
            hn::Vec<F64> real[kParts];
            to_doubles(hn::ConvertTo(df, code), real);
#pragma GCC unroll 2
            for (int64_t k = 0; k < kParts; ++k) {
              const auto all = hn::PromoteTo(dd, hn::LoadU(Half(), g + i + at + k * kDoubles));
              error[kParts * v + k] = hn::MulAdd(all, real[k], error[kParts * v + k]);
            }
          }
        }
      }
#pragma GCC unroll 4
      for (int64_t v = 0; v < kSums; ++v) {
        hn::StoreU(sum[v], dd, s1 + j + v * kDoubles);
        if constexpr (kKeeping != Keeping::kNothing) hn::StoreU(product[v], dd, s2 + j + v * kDoubles);
        if constexpr (kScale) hn::StoreU(error[v], dd, s3 + j + v * kDoubles);
      }
    }
  }
}

/// run(how accumulators were kept, as a constant).
template <class Run>
HWY_INLINE void with_keeping(const Kept& kept, const Run& run) {
  if (kept.compact != nullptr) {
    run(std::integral_constant<Keeping, Keeping::kCompact>());
  } else if (kept.exact != nullptr) {
    run(std::integral_constant<Keeping, Keeping::kExact>());
  } else {
    run(std::integral_constant<Keeping, Keeping::kNothing>());
  }
}

/// y null: no s3.
void reduce_chunk(const float* g, const uint8_t* inside, const Kept& kept, const Codes* y, int64_t begin,
                  int64_t periods, int64_t period, double* s1, double* s2, double* s3) {
  with_keeping(kept, [&](auto keeping) HWY_ATTR {
    if constexpr (keeping() != Keeping::kNothing) {
      if (y != nullptr) {
        reduce_periods<keeping(), true>(g, inside, kept, *y, begin, periods, period, s1, s2, s3);
        return;
      }
    }
    reduce_periods<keeping(), false>(g, inside, kept, Codes{}, begin, periods, period, s1, s2, s3);
  });
}

template <Keeping kKeeping>
HWY_INLINE void affine_range(const float* g, const uint8_t* inside, const Kept& kept, const AffineGradient& p,
                             int64_t begin, int64_t end, int64_t period, float* dx) {
  const F32 d;
  for (int64_t i = begin, j = 0; i < end; i += kStep, j = j + kStep == period ? 0 : j + kStep) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kStep; k += kLanes) {
      const auto a = kept_values<kKeeping>(d, kept, i + k, j + k);
      const auto rest = hn::Add(hn::Mul(hn::LoadU(d, p.b_a + j + k), a), hn::LoadU(d, p.c0 + j + k));
      auto slope = hn::Mul(hn::LoadU(d, p.a_g + j + k), hn::LoadU(d, g + i + k));
      if (inside != nullptr) slope = hn::IfThenElseZero(load_mask(d, inside, i + k), slope);
      hn::StoreU(hn::Add(slope, rest), d, dx + i + k);
    }
  }
}

void affine_steps(const float* g, const uint8_t* inside, const Kept& kept, const AffineGradient& p, int64_t begin,
                  int64_t end, int64_t period, float* dx) {
  with_keeping(kept,
               [&](auto keeping) HWY_ATTR { affine_range<keeping()>(g, inside, kept, p, begin, end, period, dx); });
}

void mask_steps(const float* g, const uint8_t* inside, int64_t begin, int64_t end, float* dx) {
  const F32 d;
  for (int64_t i = begin; i < end; i += kLanes) hn::StoreU(masked(d, g, inside, i), d, dx + i);
}

/// lanes[i % kStep] += g[i] * (code - zero point - (inside ? t : 0)).
template <Keeping kKeeping, class Code>
HWY_INLINE void scale_range(const float* g, const Code* codes, const uint8_t* inside, const Unrounded& u,
                            int32_t zero_point, int64_t begin, int64_t end, int64_t period, double* lanes) {
  const Half df;
  const hn::Rebind<int32_t, Half> di;
  const hn::Rebind<Code, Half> dc;
  const F64 dd;
  constexpr int64_t kVectors = kStep / kDoubles;
  hn::Vec<F64> sum[kVectors];
#pragma GCC unroll 4
  for (int64_t v = 0; v < kVectors; ++v) sum[v] = hn::LoadU(dd, lanes + v * kDoubles);
  const auto zero = hn::Set(di, zero_point);
  const auto scale = hn::Set(df, u.scale);
  for (int64_t i = begin, j = 0; i < end; i += kStep, j = j + kStep == period ? 0 : j + kStep) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t e = i + v * kDoubles, p = j + v * kDoubles;
      const auto centred = hn::ConvertTo(df, hn::Sub(hn::PromoteTo(di, hn::LoadU(dc, codes + e)), zero));
      hn::Vec<Half> t;
      if constexpr (kKeeping == Keeping::kNothing) {
        t = hn::Div(hn::LoadU(df, u.x + e), scale);
      } else {
        const auto a = kept_values<kKeeping>(df, u.kept, e, p);
        const auto m = hn::LoadU(df, u.multiplier + p);
        t = u.offset == nullptr ? hn::Mul(a, m) : fused(df, a, m, hn::LoadU(df, u.offset + p));
      }
      if (inside != nullptr) t = hn::IfThenElseZero(load_mask(df, inside, e), t);
      const auto value = hn::PromoteTo(dd, hn::Sub(centred, t));
      sum[v] = hn::MulAdd(hn::PromoteTo(dd, hn::LoadU(df, g + e)), value, sum[v]);
    }
  }
#pragma GCC unroll 4
  for (int64_t v = 0; v < kVectors; ++v) hn::StoreU(sum[v], dd, lanes + v * kDoubles);
}

template <class Code>
HWY_INLINE void scale_steps(const float* g, const Code* codes, const uint8_t* inside, const Unrounded& u, int32_t zero,
                            int64_t begin, int64_t end, int64_t period, double* lanes) {
  with_keeping(u.kept, [&](auto keeping)
                           HWY_ATTR { scale_range<keeping()>(g, codes, inside, u, zero, begin, end, period, lanes); });
}
void scale_steps_u8(const float* g, const uint8_t* codes, const uint8_t* inside, const Unrounded& u, int32_t zero,
                    int64_t begin, int64_t end, int64_t period, double* lanes) {
  scale_steps(g, codes, inside, u, zero, begin, end, period, lanes);
}
void scale_steps_s8(const float* g, const int8_t* codes, const uint8_t* inside, const Unrounded& u, int32_t zero,
                    int64_t begin, int64_t end, int64_t period, double* lanes) {
  scale_steps(g, codes, inside, u, zero, begin, end, period, lanes);
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(reduce_chunk);
HWY_EXPORT(affine_steps);
HWY_EXPORT(mask_steps);
HWY_EXPORT(scale_steps_u8);
HWY_EXPORT(scale_steps_s8);

namespace {

/// The per-channel values behind a Kept.
class PeriodicKept {
 public:
  PeriodicKept(const KeptAccumulators& kept, int64_t channels)
      : middle_(kept.compact == nullptr ? nullptr : kept.middle, channels),
        step_(kept.compact == nullptr ? nullptr : kept.step, channels),
        view_{.compact = kept.compact, .exact = kept.exact, .middle = middle_.data(), .step = step_.data()} {
    QAT_CHECK(kept.compact == nullptr || kept.exact == nullptr,
              "accumulators are kept either as int16 or as int32; found both");
    QAT_CHECK(kept.compact == nullptr || (kept.middle != nullptr && kept.step != nullptr),
              "accumulators kept as int16 need the middle and the step of each channel");
  }
  const Kept& view() const { return view_; }

 private:
  Periodic<float> middle_, step_;
  Kept view_;
};

/// Sums of g * (code - z - t) in kStep virtual lanes a chunk, lanes and chunks added in their order.
template <class Code>
class ScaleSums {
 public:
  ScaleSums(const float* g, const Code* codes, const uint8_t* inside, const Unrounded& u, int32_t zero_point, int64_t n,
            int64_t period)
      : g_(g),
        codes_(codes),
        inside_(inside),
        u_(u),
        zero_point_(zero_point),
        period_(period),
        lanes_(static_cast<size_t>((n + chunk_of(period) - 1) / chunk_of(period))) {}

  void add_chunk(int64_t index, int64_t begin, int64_t end) {
    double* sums = lanes_[static_cast<size_t>(index)].data();
    const int64_t whole = begin + (end - begin) / kStep * kStep;
    if constexpr (std::is_same_v<Code, uint8_t>) {
      HWY_DYNAMIC_DISPATCH(scale_steps_u8)(g_, codes_, inside_, u_, zero_point_, begin, whole, period_, sums);
    } else {
      HWY_DYNAMIC_DISPATCH(scale_steps_s8)(g_, codes_, inside_, u_, zero_point_, begin, whole, period_, sums);
    }
    for (int64_t i = whole; i < end; ++i) {
      float value = static_cast<float>(codes_[i] - zero_point_);
      if (mask_bit(inside_, i)) {
        const int64_t j = i % period_;
        if (u_.x != nullptr) {
          value -= u_.x[i] / u_.scale;
        } else {
          const float a = kept_value(u_.kept, i, j);
          value -= u_.offset == nullptr ? a * u_.multiplier[j] : std::fma(a, u_.multiplier[j], u_.offset[j]);
        }
      }
      sums[i - whole] += static_cast<double>(g_[i]) * value;
    }
  }

  double total() const {
    double total = 0;
    for (const auto& sums : lanes_) {
      for (const double sum : sums) total += sum;
    }
    return total;
  }

 private:
  const float* g_;
  const Code* codes_;
  const uint8_t* inside_;
  Unrounded u_;
  int32_t zero_point_;
  int64_t period_;
  std::vector<std::array<double, kStep>> lanes_;
};

template <class Code>
double sum_of(ScaleSums<Code> sums, int64_t n, int64_t period) {
  for_chunks(n, chunk_of(period),
             [&](int64_t index, int64_t begin, int64_t end) { sums.add_chunk(index, begin, end); });
  return sums.total();
}

}  // namespace

void reduce_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                     int64_t channels, double* s1, double* s2, const ScaleGradient* scale) {
  const bool kept_any = kept.compact != nullptr || kept.exact != nullptr;
  QAT_CHECK(scale == nullptr || kept_any, "the gradient of a scale needs the kept accumulators");
  QAT_CHECK(scale == nullptr || s2 != nullptr, "the gradient of a scale needs the sums of products");
  const bool products = s2 != nullptr && kept_any;
  std::fill(s1, s1 + channels, 0.0);
  if (products) std::fill(s2, s2 + channels, 0.0);
  if (scale != nullptr) *scale->sum = 0.0;
  const int64_t n = rows * channels;
  if (n == 0) return;
  const PeriodicKept expanded(kept, channels);
  const Kept k = products ? expanded.view() : Kept{};
  const int64_t period = period_of(channels), chunk = chunk_of(period);
  const int64_t chunks = (n + chunk - 1) / chunk;
  ScratchVector<double> sums(static_cast<size_t>(3 * chunks * period));
  for_chunks(n, chunk, [&](int64_t index, int64_t begin, int64_t end) {
    double* first = sums.data() + 3 * index * period;
    double *second = first + period, *third = second + period;
    std::fill_n(first, 3 * period, 0.0);
    const int64_t periods = (end - begin) / period, rest = begin + periods * period;
    ScratchVector<uint8_t> memory;
    Codes y;
    if (scale != nullptr) {
      if (scale->codes.packed) memory.resize(unpacked_bytes(cached_periods(period) * period));
      y = {.stored = scale->codes, .zero_point = scale->range.zero_point, .memory = memory.data()};
    }
    HWY_DYNAMIC_DISPATCH(reduce_chunk)
    (g, inside, k, scale == nullptr ? nullptr : &y, begin, periods, period, first, second, third);
    const uint8_t* codes = scale == nullptr ? nullptr : codes_in(y.stored, rest, end - rest, y.memory);
    for (int64_t i = rest, j = 0; i < end; ++i, ++j) {
      if (mask_bit(inside, i)) {
        first[j] += g[i];
        second[j] += static_cast<double>(g[i]) * kept_value(k, i, j);
      }
      if (codes != nullptr) third[j] += static_cast<double>(g[i]) * (codes[i - rest] - y.zero_point);
    }
  });
  for (int64_t index = 0; index < chunks; ++index) {
    const double* first = sums.data() + 3 * index * period;
    for (int64_t j = 0, c = 0; j < period; ++j, c = c + 1 == channels ? 0 : c + 1) {
      s1[c] += first[j];
      if (products) s2[c] += first[period + j];
    }
    if (scale != nullptr) *scale->sum = std::accumulate(first + 2 * period, first + 3 * period, *scale->sum);
  }
  if (scale == nullptr) return;
  // The sum of g * t over the elements inside is linear in sums that are there already.
  for (int64_t c = 0; c < channels; ++c) {
    *scale->sum -= scale->multiplier[c] * s2[c];
    if (scale->offset != nullptr) *scale->sum -= scale->offset[c] * s1[c];
  }
}

void batch_norm_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                         int64_t channels, const float* a_g, const float* b_a, const float* c0, float* dx) {
  const int64_t n = rows * channels;
  if (n == 0) return;
  const PeriodicKept expanded(kept, channels);
  const Kept& k = expanded.view();
  const Periodic<float> slopes(a_g, channels), inner(b_a, channels), constants(c0, channels);
  const AffineGradient p{.a_g = slopes.data(), .b_a = inner.data(), .c0 = constants.data()};
  const int64_t period = period_of(channels);
  for_chunks(n, chunk_of(period), [&](int64_t, int64_t begin, int64_t end) {
    const int64_t whole = begin + (end - begin) / kStep * kStep;
    HWY_DYNAMIC_DISPATCH(affine_steps)(g, inside, k, p, begin, whole, period, dx);
    for (int64_t i = whole; i < end; ++i) {
      const int64_t j = i % period;
      const float slope = mask_bit(inside, i) ? p.a_g[j] * g[i] : 0.0f;
      dx[i] = slope + (p.b_a[j] * kept_value(k, i, j) + p.c0[j]);
    }
  });
}

void mask_gradient(const float* g, const uint8_t* inside, int64_t n, float* dx) {
  for_chunks(n, chunk_of(kStep), [&](int64_t, int64_t begin, int64_t end) {
    const int64_t whole = begin + (end - begin) / kStep * kStep;
    HWY_DYNAMIC_DISPATCH(mask_steps)(g, inside, begin, whole, dx);
    for (int64_t i = whole; i < end; ++i) dx[i] = mask_bit(inside, i) ? g[i] : 0.0f;
  });
}

template <class Code>
double scale_gradient(const float* g, const Code* codes, const uint8_t* inside, const KeptAccumulators& kept,
                      const float* multiplier, const float* offset, CodeRange range, int64_t rows, int64_t channels) {
  const int64_t n = rows * channels;
  if (n == 0) return 0.0;
  QAT_CHECK(kept.compact != nullptr || kept.exact != nullptr, "scale_gradient needs the kept accumulators");
  const PeriodicKept expanded(kept, channels);
  const Periodic<float> multipliers(multiplier, channels), offsets(offset, channels);
  const Unrounded u{.kept = expanded.view(), .multiplier = multipliers.data(), .offset = offsets.data()};
  return sum_of(ScaleSums<Code>(g, codes, inside, u, range.zero_point, n, period_of(channels)), n, period_of(channels));
}

template <class Code>
double encode_scale_gradient(const float* g, const Code* codes, const uint8_t* inside, const float* x, float scale,
                             CodeRange range, int64_t n) {
  return sum_of(ScaleSums<Code>(g, codes, inside, {.x = x, .scale = scale}, range.zero_point, n, kStep), n, kStep);
}

#define QAT_INSTANTIATE(Code)                                                                                 \
  template double scale_gradient<Code>(const float*, const Code*, const uint8_t*, const KeptAccumulators&,    \
                                       const float*, const float*, CodeRange, int64_t, int64_t);              \
  template double encode_scale_gradient<Code>(const float*, const Code*, const uint8_t*, const float*, float, \
                                              CodeRange, int64_t);
QAT_INSTANTIATE(uint8_t)
QAT_INSTANTIATE(int8_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
#endif
