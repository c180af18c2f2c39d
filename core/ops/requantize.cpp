#include "core/ops/requantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/base/error.h"
#include "core/ops/requantize_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/requantize.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/vector_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

using kernels::Requantization;

using F32 = hn::CappedTag<float, kStep>;
using I32 = hn::Rebind<int32_t, F32>;
constexpr int64_t kLanes = hn::MaxLanes(F32());

HWY_INLINE hn::Vec<I32> load(const int32_t* acc) { return hn::LoadU(I32(), acc); }
HWY_INLINE hn::Vec<I32> load(const int16_t* acc) {
  return hn::PromoteTo(I32(), hn::LoadU(hn::Rebind<int16_t, I32>(), acc));
}

/// float(acc + bias) * multiplier, or fma(float(acc), multiplier, offset).
template <bool kAffine, class Acc>
HWY_INLINE hn::Vec<F32> value(const Requantization& q, const Acc* acc, int64_t j) {
  const F32 df;
  const I32 di;
  auto a = load(acc);
  const auto m = hn::LoadU(df, q.multiplier + j);
  if constexpr (kAffine) {
    return fused(df, hn::ConvertTo(df, a), m, hn::LoadU(df, q.offset + j));
  } else {
    if (q.bias != nullptr) a = hn::Add(a, hn::LoadU(di, q.bias + j));
    return hn::Mul(hn::ConvertTo(df, a), m);
  }
}

/// int16 of what compact() keeps, of kLanes accumulators.
HWY_INLINE hn::Vec<I32> compacted(const int32_t* acc, const int32_t* middle, const float* gain) {
  const F32 df;
  const I32 di;
  const auto centred = hn::Sub(hn::LoadU(di, acc), hn::LoadU(di, middle));
  const auto scaled = hn::Mul(hn::ConvertTo(df, centred), hn::LoadU(df, gain));
  // Narrowing saturates, but must not be given what exceeds int32 above.
  return nearest(hn::Min(scaled, hn::Set(df, 32767.0f)));
}

constexpr int64_t kVectors = kStep / kLanes;

void compact_step(const Compaction& c, const int32_t* acc, int64_t j, int16_t* kept) {
  hn::Vec<I32> values[kVectors];
#pragma GCC unroll 8
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t k = v * kLanes;
    values[v] = compacted(acc + k, c.middle + j + k, c.gain + j + k);
  }
  store_narrow<int16_t>(I32(), values, kept);
}

/// kStep codes and their mask bits.
template <class Code, bool kAffine, class Acc>
HWY_INLINE uint32_t quantize_step(const Requantization& q, const Acc* acc, int64_t j, Code* codes) {
  const F32 df;
  const I32 di;
  const auto lo = hn::Set(df, q.lo), hi = hn::Set(df, q.hi), below = hn::Set(df, q.below);
  const auto zero_point = hn::Set(di, q.zero_point);
  hn::Vec<I32> code[kVectors];
  hn::Mask<F32> inside[kVectors];
#pragma GCC unroll 8
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t k = v * kLanes;
    const auto t = value<kAffine>(q, acc + k, j + k);
    inside[v] = hn::And(hn::Gt(t, below), hn::Le(t, hi));
    // NaN gives lo.
    code[v] = hn::Add(nearest(hn::IfThenElse(hn::Gt(t, lo), hn::Min(t, hi), lo)), zero_point);
  }
  store_narrow<Code>(di, code, codes);
  return bits_of(df, inside);
}

template <class Code, bool kAffine, class Acc>
HWY_INLINE void quantize_range(const Requantization& q, const Acc* acc, int64_t begin, int64_t end, Code* codes,
                               uint8_t* inside, const Compaction& compaction) {
  for (int64_t i = begin, j = 0; i < end; i += kStep, j = j + kStep == q.period ? 0 : j + kStep) {
    const int64_t count = std::min(kStep, end - i);
    if (count == kStep) {
      const uint32_t bits = quantize_step<Code, kAffine>(q, acc + i, j, codes + i);
      if (inside != nullptr) std::memcpy(inside + i / 8, &bits, sizeof(bits));
      if constexpr (std::is_same_v<Acc, int32_t>) {
        if (compaction.kept != nullptr) compact_step(compaction, acc + i, j, compaction.kept + i);
      }
      continue;
    }
    Acc padded[kStep] = {};
    Code padded_codes[kStep];
    std::memcpy(padded, acc + i, static_cast<size_t>(count) * sizeof(Acc));
    const uint32_t bits = quantize_step<Code, kAffine>(q, padded, j, padded_codes) & ((1u << count) - 1);
    std::memcpy(codes + i, padded_codes, static_cast<size_t>(count));
    if (inside != nullptr) {
      for (int64_t b = 0; b < count; b += 8) inside[(i + b) / 8] = static_cast<uint8_t>(bits >> b);
    }
    if constexpr (std::is_same_v<Acc, int32_t>) {
      if (compaction.kept == nullptr) continue;
      int16_t padded_kept[kStep];
      compact_step(compaction, padded, j, padded_kept);
      std::memcpy(compaction.kept + i, padded_kept, static_cast<size_t>(count) * sizeof(int16_t));
    }
  }
}

void requantize_narrow(const Requantization& q, const int16_t* acc, int64_t begin, int64_t end, uint8_t* codes,
                       uint8_t* inside) {
  if (q.offset != nullptr) return quantize_range<uint8_t, true>(q, acc, begin, end, codes, inside, {});
  quantize_range<uint8_t, false>(q, acc, begin, end, codes, inside, {});
}
void requantize_u8(const Requantization& q, const int32_t* acc, int64_t begin, int64_t end, uint8_t* codes,
                   uint8_t* inside) {
  quantize_range<uint8_t, false>(q, acc, begin, end, codes, inside, {});
}
void requantize_s8(const Requantization& q, const int32_t* acc, int64_t begin, int64_t end, int8_t* codes,
                   uint8_t* inside) {
  quantize_range<int8_t, false>(q, acc, begin, end, codes, inside, {});
}
void requantize_affine_u8(const Requantization& q, const int32_t* acc, int64_t begin, int64_t end, uint8_t* codes,
                          uint8_t* inside, const Compaction& compaction) {
  quantize_range<uint8_t, true>(q, acc, begin, end, codes, inside, compaction);
}
void requantize_affine_s8(const Requantization& q, const int32_t* acc, int64_t begin, int64_t end, int8_t* codes,
                          uint8_t* inside, const Compaction& compaction) {
  quantize_range<int8_t, true>(q, acc, begin, end, codes, inside, compaction);
}

void dequantize_range(const Requantization& q, const int32_t* acc, int64_t begin, int64_t end, float* y) {
  const F32 df;
  for (int64_t i = begin, j = 0; i < end; i += kStep, j = j + kStep == q.period ? 0 : j + kStep) {
    const int64_t count = std::min(kStep, end - i);
    int32_t padded[kStep] = {};
    float padded_y[kStep];
    const int32_t* in = acc + i;
    float* out = y + i;
    if (count < kStep) {
      std::memcpy(padded, in, static_cast<size_t>(count) * sizeof(int32_t));
      in = padded;
      out = padded_y;
    }
    for (int64_t k = 0; k < kStep; k += kLanes) hn::StoreU(value<false>(q, in + k, j + k), df, out + k);
    if (count < kStep) std::memcpy(y + i, padded_y, static_cast<size_t>(count) * sizeof(float));
  }
}

void compact_range(const Compaction& c, const int32_t* acc, int64_t period, int64_t begin, int64_t end) {
  for (int64_t i = begin, j = 0; i < end; i += kStep, j = j + kStep == period ? 0 : j + kStep) {
    const int64_t count = std::min(kStep, end - i);
    if (count == kStep) {
      compact_step(c, acc + i, j, c.kept + i);
      continue;
    }
    int32_t padded[kStep] = {};
    int16_t padded_kept[kStep];
    std::memcpy(padded, acc + i, static_cast<size_t>(count) * sizeof(int32_t));
    compact_step(c, padded, j, padded_kept);
    std::memcpy(c.kept + i, padded_kept, static_cast<size_t>(count) * sizeof(int16_t));
  }
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(requantize_narrow);
HWY_EXPORT(requantize_u8);
HWY_EXPORT(requantize_s8);
HWY_EXPORT(requantize_affine_u8);
HWY_EXPORT(requantize_affine_s8);
HWY_EXPORT(dequantize_range);
HWY_EXPORT(compact_range);

namespace {

using kernels::Requantization;

template <class Code>
void check_range(CodeRange range) {
  using Limits = std::numeric_limits<Code>;
  QAT_CHECK(range.lo <= range.hi && range.lo >= Limits::min() && range.hi <= Limits::max() &&
                range.zero_point >= Limits::min() && range.zero_point <= Limits::max(),
            "requantize: codes [{}, {}] with zero point {} do not fit the storage type's [{}, {}]", range.lo, range.hi,
            range.zero_point, +Limits::min(), +Limits::max());
}

/// Elements [begin, end), begin at the start of a period. compaction: of the affine form.
template <class Code, class Acc>
void quantize_elements(const Requantization& q, const Acc* acc, int64_t begin, int64_t end, Code* codes,
                       uint8_t* inside, const Compaction& compaction = {}) {
  if constexpr (std::is_same_v<Acc, int16_t>) {
    static_assert(std::is_same_v<Code, uint8_t>);
    HWY_DYNAMIC_DISPATCH(requantize_narrow)(q, acc, begin, end, codes, inside);
  } else if constexpr (std::is_same_v<Code, uint8_t>) {
    if (q.offset != nullptr) {
      HWY_DYNAMIC_DISPATCH(requantize_affine_u8)(q, acc, begin, end, codes, inside, compaction);
    } else {
      HWY_DYNAMIC_DISPATCH(requantize_u8)(q, acc, begin, end, codes, inside);
    }
  } else {
    if (q.offset != nullptr) {
      HWY_DYNAMIC_DISPATCH(requantize_affine_s8)(q, acc, begin, end, codes, inside, compaction);
    } else {
      HWY_DYNAMIC_DISPATCH(requantize_s8)(q, acc, begin, end, codes, inside);
    }
  }
}

float below_range(CodeRange range, bool relu) {
  const float below = std::nextafter(static_cast<float>(range.lo - range.zero_point), -1000.0f);
  return relu ? std::max(below, 0.0f) : below;
}

template <class Code, class Acc>
void requantize_matrix(const Acc* acc, int64_t rows, int64_t channels, const int32_t* bias, const float* multiplier,
                       const float* offset, CodeRange range, Code* codes, uint8_t* inside, bool relu,
                       const Compaction& compaction) {
  check_range<Code>(range);
  QAT_CHECK((std::is_same_v<Acc, int32_t>) || compaction.kept == nullptr,
            "accumulators of 16 bits are kept as they are");
  const int64_t n = rows * channels;
  if (n == 0) return;
  const Periodic<int32_t> biases(bias, channels);
  const Periodic<float> multipliers(multiplier, channels), offsets(offset, channels);
  const Requantization q{.bias = biases.data(),
                         .multiplier = multipliers.data(),
                         .offset = offsets.data(),
                         .lo = static_cast<float>(range.lo - range.zero_point),
                         .hi = static_cast<float>(range.hi - range.zero_point),
                         .zero_point = range.zero_point,
                         .below = below_range(range, relu),
                         .period = period_of(channels)};
  const Periodic<int32_t> middles(compaction.middle, channels);
  const Periodic<float> gains(compaction.gain, channels);
  const Compaction periodic{.middle = middles.data(), .gain = gains.data(), .kept = compaction.kept};
  for_chunks(n, chunk_of(q.period), [&](int64_t, int64_t begin, int64_t end) {
    quantize_elements(q, acc, begin, end, codes, inside, periodic);
  });
}

}  // namespace

namespace kernels {

template <class Code>
Requantizer<Code>::Requantizer(int64_t channels, const int32_t* bias, const float* multiplier, CodeRange range)
    : channels_(channels),
      bias_(bias, channels),
      multiplier_(multiplier, channels),
      q_{.bias = bias_.data(),
         .multiplier = multiplier_.data(),
         .lo = static_cast<float>(range.lo - range.zero_point),
         .hi = static_cast<float>(range.hi - range.zero_point),
         .zero_point = range.zero_point,
         .period = period_of(channels)} {
  check_range<Code>(range);
}

template <class Code>
void Requantizer<Code>::rows(const int32_t* acc, int64_t rows, Code* codes) const {
  quantize_elements(q_, acc, 0, rows * channels_, codes, nullptr);
}

template <class Code>
void Requantizer<Code>::part(const int32_t* acc, int64_t channel, int64_t count, Code* codes) const {
  Requantization q = q_;
  if (q.bias != nullptr) q.bias += channel;
  q.multiplier += channel;
  quantize_elements(q, acc, 0, count, codes, nullptr);
}

template class Requantizer<uint8_t>;
template class Requantizer<int8_t>;

}  // namespace kernels

template <class Code, class Acc>
void requantize(const Acc* acc, int64_t rows, int64_t channels, const int32_t* bias, const float* multiplier,
                CodeRange range, Code* codes, uint8_t* inside, bool relu) {
  requantize_matrix(acc, rows, channels, bias, multiplier, nullptr, range, codes, inside, relu, {});
}

template <class Code, class Acc>
void requantize_affine(const Acc* acc, int64_t rows, int64_t channels, const float* multiplier, const float* offset,
                       CodeRange range, Code* codes, uint8_t* inside, bool relu, const Compaction* compaction) {
  requantize_matrix(acc, rows, channels, nullptr, multiplier, offset, range, codes, inside, relu,
                    compaction == nullptr ? Compaction{} : *compaction);
}

void dequantize_accumulators(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* bias,
                             const float* multiplier, float* y) {
  if (rows * channels == 0) return;
  const Periodic<int32_t> biases(bias, channels);
  const Periodic<float> multipliers(multiplier, channels);
  const Requantization q{.bias = biases.data(), .multiplier = multipliers.data(), .period = period_of(channels)};
  for_chunks(rows * channels, chunk_of(q.period), [&](int64_t, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(dequantize_range)(q, acc, begin, end, y);
  });
}

void compact(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* middle, const float* gain,
             int16_t* kept) {
  if (rows * channels == 0) return;
  const Periodic<int32_t> middles(middle, channels);
  const Periodic<float> gains(gain, channels);
  const int64_t period = period_of(channels);
  const Compaction periodic{.middle = middles.data(), .gain = gains.data(), .kept = kept};
  for_chunks(rows * channels, chunk_of(period), [&](int64_t, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(compact_range)(periodic, acc, period, begin, end);
  });
}

#define QAT_INSTANTIATE(Code, Acc)                                                                                  \
  template void requantize<Code, Acc>(const Acc*, int64_t, int64_t, const int32_t*, const float*, CodeRange, Code*, \
                                      uint8_t*, bool);                                                              \
  template void requantize_affine<Code, Acc>(const Acc*, int64_t, int64_t, const float*, const float*, CodeRange,   \
                                             Code*, uint8_t*, bool, const Compaction*);
QAT_INSTANTIATE(uint8_t, int32_t)
QAT_INSTANTIATE(int8_t, int32_t)
QAT_INSTANTIATE(uint8_t, int16_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
#endif
