// The backward passes of requantize.h.
#include <algorithm>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/ops/mask.h"
#include "core/ops/periods.h"
#include "core/ops/pieces.h"
#include "core/ops/requantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/requantize_gradient.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/sums_inl.h"
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

/// The output's codes, and memory for those of kGroup periods.
struct Codes {
  StoredCodes stored;
  int32_t zero_point = 0;
  uint8_t* memory = nullptr;
};

/// Sums by place of a period: of g, of g * a and of g * (code - zero point). Kept as int16, a is the integer itself.
struct PlaceSums {
  double* g = nullptr;
  double* product = nullptr;
  double* error = nullptr;
};

struct AffineGradient {
  const float* a_g = nullptr;
  const float* b_a = nullptr;
  const float* c0 = nullptr;
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

/// One place's vector of a group of rows: sums in float of what is summed in double.
template <Keeping kKeeping, bool kScale>
struct Group {
  const float* g;
  const uint8_t* inside;
  const Kept& kept;
  const uint8_t* codes;  // of the group's first element on
  int32_t zero_point;
  int64_t start, period;

  HWY_INLINE void add(int64_t rows, int64_t j, PlaceSums sums) const {
    const F32 d;
    const hn::Rebind<int32_t, F32> di;
    auto sum = hn::Zero(d), product = hn::Zero(d), error = hn::Zero(d);
    const auto zero = hn::Set(di, zero_point);
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = r * period + j, i = start + at;
      hwy::Prefetch(g + i + kAhead);
      if constexpr (kKeeping == Keeping::kCompact) hwy::Prefetch(kept.compact + i + kAhead);
      const auto value = masked(d, g, inside, i);
      sum = hn::Add(sum, value);
      if constexpr (kKeeping == Keeping::kCompact) {
        const auto whole = hn::PromoteTo(di, hn::LoadU(hn::Rebind<int16_t, F32>(), kept.compact + i));
        product = fused(d, value, hn::ConvertTo(d, whole), product);
      }
      if constexpr (kScale) {
        const auto code = hn::Sub(hn::PromoteTo(di, hn::LoadU(hn::Rebind<uint8_t, F32>(), codes + at)), zero);
        error = fused(d, hn::LoadU(d, g + i), hn::ConvertTo(d, code), error);
      }
    }
    add_to(d, sum, sums.g + j);
    if constexpr (kKeeping == Keeping::kCompact) add_to(d, product, sums.product + j);
    if constexpr (kScale) add_to(d, error, sums.error + j);
  }
};

/// Adds whole periods [begin, begin + periods): kGroup rows of each place in float, one after another, and their sum
/// in double.
template <Keeping kKeeping, bool kScale>
HWY_INLINE void reduce_groups(const float* g, const uint8_t* inside, const Kept& kept, const Codes& y, int64_t begin,
                              int64_t periods, int64_t period, PlaceSums sums) {
  for (int64_t first = 0; first < periods; first += kGroup) {
    const int64_t rows = std::min(kGroup, periods - first), start = begin + first * period;
    const uint8_t* codes = kScale ? codes_in(y.stored, start, rows * period, y.memory) : nullptr;
    const Group<kKeeping, kScale> group{g, inside, kept, codes, y.zero_point, start, period};
    if (rows == kGroup) {
      for (int64_t j = 0; j < period; j += kLanes) group.add(kGroup, j, sums);
    } else {
      for (int64_t j = 0; j < period; j += kLanes) group.add(rows, j, sums);
    }
  }
}

/// The same with accumulators that were kept exactly: everything in double, one row after another.
template <bool kScale>
HWY_INLINE void reduce_rows(const float* g, const uint8_t* inside, const Kept& kept, const Codes& y, int64_t begin,
                            int64_t periods, int64_t period, PlaceSums sums) {
  const F32 df;
  const F64 dd;
  const Half dh;
  for (int64_t first = 0; first < periods; first += kGroup) {
    const int64_t rows = std::min(kGroup, periods - first), start = begin + first * period;
    const uint8_t* codes = kScale ? codes_in(y.stored, start, rows * period, y.memory) : nullptr;
    for (int64_t j = 0; j < period; j += kLanes) {
      hn::Vec<F64> sum[kParts], product[kParts], error[kParts];
#pragma GCC unroll 2
      for (int64_t k = 0; k < kParts; ++k) {
        sum[k] = hn::LoadU(dd, sums.g + j + k * kDoubles);
        product[k] = hn::LoadU(dd, sums.product + j + k * kDoubles);
        error[k] = kScale ? hn::LoadU(dd, sums.error + j + k * kDoubles) : hn::Zero(dd);
      }
      for (int64_t r = 0, i = start + j; r < rows; ++r, i += period) {
        const auto value = masked(df, g, inside, i);
        const auto whole = kept_values<Keeping::kExact>(df, kept, i, j);
#pragma GCC unroll 2
        for (int64_t k = 0; k < kParts; ++k) {
          const auto wide = doubles(df, value, k);
          sum[k] = hn::Add(sum[k], wide);
          // The product of two floats is exact in double: fused or not, the sum is the same.
          product[k] = hn::MulAdd(wide, doubles(df, whole, k), product[k]);
          if constexpr (kScale) {
            const int64_t at = i + k * kDoubles;
            const hn::Rebind<int32_t, Half> di;
            const auto code = hn::PromoteTo(di, hn::LoadU(hn::Rebind<uint8_t, Half>(), codes + at - start));
            const auto real = hn::ConvertTo(dh, hn::Sub(code, hn::Set(di, y.zero_point)));
            error[k] = hn::MulAdd(hn::PromoteTo(dd, hn::LoadU(dh, g + at)), hn::PromoteTo(dd, real), error[k]);
          }
        }
      }
#pragma GCC unroll 2
      for (int64_t k = 0; k < kParts; ++k) {
        hn::StoreU(sum[k], dd, sums.g + j + k * kDoubles);
        hn::StoreU(product[k], dd, sums.product + j + k * kDoubles);
        if constexpr (kScale) hn::StoreU(error[k], dd, sums.error + j + k * kDoubles);
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

/// y null: no sum of errors.
void reduce_chunk(const float* g, const uint8_t* inside, const Kept& kept, const Codes* y, int64_t begin,
                  int64_t periods, int64_t period, PlaceSums sums) {
  with_keeping(kept, [&](auto keeping) HWY_ATTR {
    const auto reduce = [&](auto scale, const Codes& codes) HWY_ATTR {
      if constexpr (keeping() == Keeping::kExact) {
        reduce_rows<scale()>(g, inside, kept, codes, begin, periods, period, sums);
      } else {
        reduce_groups<keeping(), scale()>(g, inside, kept, codes, begin, periods, period, sums);
      }
    };
    if (y == nullptr) {
      reduce(std::false_type(), Codes{});
    } else if constexpr (keeping() != Keeping::kNothing) {
      reduce(std::true_type(), *y);
    }
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

/// Sum of g * (code - zero point - (inside ? x / scale : 0)).
double encode_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x, float scale,
                       int32_t zero_point, int64_t n) {
  return sum_of_products(n, [&](auto d, int64_t i) HWY_ATTR {
    const hn::Rebind<int32_t, decltype(d)> di;
    const auto code = hn::PromoteTo(di, hn::LoadU(hn::Rebind<uint8_t, decltype(d)>(), codes + i));
    auto t = hn::Div(hn::LoadU(d, x + i), hn::Set(d, scale));
    if (inside != nullptr) t = hn::IfThenElseZero(load_mask(d, inside, i), t);
    const auto centred = hn::ConvertTo(d, hn::Sub(code, hn::Set(di, zero_point)));
    return std::pair(hn::LoadU(d, g + i), hn::Sub(centred, t));
  });
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(reduce_chunk);
HWY_EXPORT(affine_steps);
HWY_EXPORT(mask_steps);
HWY_EXPORT(encode_gradient);

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
  const auto sums_of = [&](int64_t index) {
    double* first = sums.data() + 3 * index * period;
    return PlaceSums{.g = first, .product = first + period, .error = first + 2 * period};
  };
  for_chunks(n, chunk, [&](int64_t index, int64_t begin, int64_t end) {
    const PlaceSums places = sums_of(index);
    std::fill_n(places.g, 3 * period, 0.0);
    const int64_t periods = (end - begin) / period, rest = begin + periods * period;
    ScratchVector<uint8_t> memory;
    Codes y;
    if (scale != nullptr) {
      if (scale->codes.packed) memory.resize(unpacked_bytes(kGroup * period));
      y = {.stored = scale->codes, .zero_point = scale->range.zero_point, .memory = memory.data()};
    }
    HWY_DYNAMIC_DISPATCH(reduce_chunk)
    (g, inside, k, scale == nullptr ? nullptr : &y, begin, periods, period, places);
    // The places that another row reaches: a group of one.
    const uint8_t* codes = scale == nullptr ? nullptr : codes_in(y.stored, rest, end - rest, y.memory);
    for (int64_t i = rest, j = 0; i < end; ++i, ++j) {
      if (mask_bit(inside, i)) {
        places.g[j] += g[i];
        if (k.compact != nullptr) places.product[j] += g[i] * static_cast<float>(k.compact[i]);
        if (k.exact != nullptr) places.product[j] += static_cast<double>(g[i]) * static_cast<float>(k.exact[i]);
      }
      if (codes == nullptr) continue;
      const auto error = static_cast<float>(codes[i - rest] - y.zero_point);
      places.error[j] += k.exact != nullptr ? static_cast<double>(g[i]) * error : g[i] * error;
    }
  });
  std::vector<double> errors(scale == nullptr ? 0 : static_cast<size_t>(channels));
  for (int64_t index = 0; index < chunks; ++index) {
    const PlaceSums places = sums_of(index);
    for (int64_t j = 0, c = 0; j < period; ++j, c = c + 1 == channels ? 0 : c + 1) {
      s1[c] += places.g[j];
      if (products) s2[c] += places.product[j];
      if (scale != nullptr) errors[c] += places.error[j];
    }
  }
  for (int64_t c = 0; k.compact != nullptr && c < channels; ++c) {
    s2[c] = kept.middle[c] * s1[c] + static_cast<double>(kept.step[c]) * s2[c];
  }
  if (scale == nullptr) return;
  // The sum of g * t over the elements inside is linear in sums that are there already.
  for (int64_t c = 0; c < channels; ++c) {
    const double offset = scale->offset == nullptr ? 0.0 : scale->offset[c];
    *scale->sum += errors[c] - (scale->multiplier[c] * s2[c] + offset * s1[c]);
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

double encode_scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x, float scale,
                             CodeRange range, int64_t n) {
  std::vector<double> sums(static_cast<size_t>((n + kPiece - 1) / kPiece));
  for_pieces(n, [&](int64_t piece, int64_t begin, int64_t count) {
    sums[static_cast<size_t>(piece)] = HWY_DYNAMIC_DISPATCH(encode_gradient)(
        g + begin, codes + begin, inside == nullptr ? nullptr : inside + begin / 8, x + begin, scale, range.zero_point,
        count);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace qat::ops
#endif
