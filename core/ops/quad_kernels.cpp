// Convolutions of uint8 codes with int8 weights, four products at a time.
#define HWY_WANT_AVX3_DL  // VNNI

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/quad_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/pixels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace {

[[maybe_unused]] constexpr bool kVnni = HWY_TARGET == HWY_AVX3_DL;

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3

using Words = decltype(hn::Vec<I32>::raw);  // arrays of Highway's classes stay in memory once assembly touches them

#undef QAT_WIDE
#if HWY_MAX_BYTES == 64
#define QAT_WIDE(name) _mm512_##name
#else
#define QAT_WIDE(name) _mm256_##name
#endif

// Written as assembly, because compilers would otherwise broadcast the inputs of all pixels first and spill the sums.

/// Sums of pairs of products as int16, which must not saturate.
HWY_INLINE Words products(Words x, Words w) {
  Words pairs;
  asm("vpmaddubsw %2, %1, %0" : "=v"(pairs) : "v"(x), "v"(w));
  return pairs;
}

HWY_INLINE Words wide(Words halves) { return QAT_WIDE(madd_epi16)(halves, QAT_WIDE(set1_epi16)(1)); }

/// sum + the four products of each lane.
HWY_INLINE Words add_quads(Words sum, Words x, Words w) {
  if constexpr (kVnni) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  } else {
    return QAT_WIDE(add_epi32)(sum, wide(products(x, w)));
  }
}

HWY_INLINE Words add_halves(Words sum, Words x, Words w) {
  sum = QAT_WIDE(add_epi16)(sum, products(x, w));
  asm("" : "+v"(sum));
  return sum;
}

HWY_INLINE Words broadcast(const uint8_t* four) {
  int32_t bits;
  std::memcpy(&bits, four, sizeof(bits));
  Words x = hn::Set(I32(), bits).raw;
  asm("" : "+v"(x));
  return x;
}

/// `groups` groups of products of kP pixels and kV vectors of outputs, from zero. kHalves: in halves, which then are
/// added to `whole`; otherwise `sum` goes on.
template <int64_t kP, int64_t kV, bool kHalves>
HWY_INLINE void add_groups(const uint8_t* const* pixel, int64_t offset, int64_t groups, const int8_t* w,
                           int64_t block_size, Words (&sum)[kP][kV]) {
  for (int64_t j = 0; j < groups; ++j, w += kBlock * 4) {
    Words weight[kV];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kV; ++v) {
      weight[v] =
          hn::LoadU(I32(), reinterpret_cast<const int32_t*>(w + v / kVectors * block_size + v % kVectors * kLanes * 4))
              .raw;
    }
#pragma GCC unroll 16
    for (int64_t p = 0; p < kP; ++p) {
      const Words x = broadcast(pixel[p] + offset + 4 * j);
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) {
        sum[p][v] = kHalves ? add_halves(sum[p][v], x, weight[v]) : add_quads(sum[p][v], x, weight[v]);
      }
    }
  }
}

/// Adds as many groups as halves may hold to `whole`.
template <int64_t kP, int64_t kV>
HWY_NOINLINE void add_flushed(const uint8_t* const* pixel, int64_t offset, int64_t groups, const int8_t* w,
                              int64_t block_size, int32_t* whole) {
  Words sum[kP][kV];
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kV; ++v) sum[p][v] = hn::Zero(I32()).raw;
  }
  add_groups<kP, kV, true>(pixel, offset, groups, w, block_size, sum);
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kV; ++v) {
      int32_t* into = whole + (p * kV + v) * kLanes;
      hn::Store(hn::Add(hn::Load(I32(), into), hn::Vec<I32>{wide(sum[p][v])}), I32(), into);
    }
  }
}

/// kP pixels from `first` against kV vectors of outputs from output `channel` (a multiple of kBlock).
template <int64_t kP, int64_t kV, bool kHalves>
HWY_INLINE void tile(const QuadTask& t, int64_t first, int64_t channel) {
  const I32 d32;
  Words sum[kP][kV];
  HWY_ALIGN int32_t whole[kP * kV * kLanes];
  const uint8_t* pixel[kP];
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
    pixel[p] = t.pixels[first + p] + t.base;
#pragma GCC unroll 4
    for (int64_t v = 0; v < kV; ++v) {
      const auto start = hn::LoadU(d32, t.start + channel + v * kLanes);
      if constexpr (kHalves) {
        hn::Store(start, d32, whole + (p * kV + v) * kLanes);
      } else {
        sum[p][v] = start.raw;
      }
    }
  }
  const int64_t block_size = t.segments * t.groups * kBlock * 4;
  const int8_t* w = t.weights + channel / kBlock * block_size;
  for (int64_t s = 0; s < t.segments; ++s, w += t.groups * kBlock * 4) {
    const int64_t offset = t.segment_offset[s];
    if constexpr (kHalves) {
      for (int64_t j = 0; j < t.groups; j += t.flush) {
        add_flushed<kP, kV>(pixel, offset + 4 * j, std::min(t.flush, t.groups - j), w + j * kBlock * 4, block_size,
                            whole);
      }
    } else {
      add_groups<kP, kV, false>(pixel, offset, t.groups, w, block_size, sum);
    }
  }
  const int64_t count = std::min<int64_t>(kV * kLanes, t.channels - channel);
  if (t.code_output != nullptr) {
    const CodeOutput output = *t.code_output;  // a copy: what is stored cannot change it
#pragma GCC unroll 16
    for (int64_t p = 0; p < kP; ++p) {
      hn::Vec<I32> sums[kV];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) {
        if constexpr (kHalves) {
          sums[v] = hn::Load(d32, whole + (p * kV + v) * kLanes);
        } else {
          sums[v] = hn::Vec<I32>{sum[p][v]};
        }
      }
      store_row_of_codes(output, sums, channel, count, output.codes + (first + p) * output.stride + channel);
    }
    return;
  }
#pragma GCC unroll 16
  for (int64_t p = 0; p < kP; ++p) {
    int32_t* out = t.out + (first + p) * t.out_stride + channel;
    if constexpr (!kHalves) {
      if (count == kV * kLanes) {
#pragma GCC unroll 4
        for (int64_t v = 0; v < kV; ++v) hn::StoreU(hn::Vec<I32>{sum[p][v]}, d32, out + v * kLanes);
        continue;
      }
#pragma GCC unroll 4
      for (int64_t v = 0; v < kV; ++v) hn::Store(hn::Vec<I32>{sum[p][v]}, d32, whole + (p * kV + v) * kLanes);
    }
    std::memcpy(out, whole + p * kV * kLanes, static_cast<size_t>(count) * sizeof(int32_t));
  }
}

template <int64_t kV, bool kHalves>
HWY_NOINLINE void column(const QuadTask& t, int64_t channel) {
  cover<kPixels>(t.pixel_count, [&](auto size, int64_t first) { tile<size(), kV, kHalves>(t, first, channel); });
}

template <bool kHalves>
void multiply_all(const QuadTask& t) {
  for (int64_t channel = 0; channel < t.channels;) {
    const int64_t left = t.channels - channel;
    if (left > (kWide - kVectors) * kLanes || kWide == 1) {
      column<kWide, kHalves>(t, channel);
      channel += kWide * kLanes;
    } else {
      column<kVectors, kHalves>(t, channel);
      channel += kBlock;
    }
  }
}

/// Few groups between two flushes cost more than adding to int32 at once.
void multiply_quads(const QuadTask& t) {
  if (kVnni || t.flush < 4) {
    multiply_all<false>(t);
  } else {
    multiply_all<true>(t);
  }
}

int64_t flush_of(int64_t code, int64_t weight) {
  if (kVnni) return INT64_MAX;
  return code * weight == 0 ? INT64_MAX : 32767 / (2 * code * weight);
}

#else

void multiply_quads(const QuadTask&) {}
int64_t flush_of(int64_t, int64_t) { return 0; }

#endif

}  // namespace
}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops::kernels {

HWY_EXPORT(multiply_quads);
HWY_EXPORT(flush_of);

void multiply(const QuadTask& task) { HWY_DYNAMIC_DISPATCH(multiply_quads)(task); }
int64_t quad_flush(int64_t code, int64_t weight) { return HWY_DYNAMIC_DISPATCH(flush_of)(code, weight); }

}  // namespace qat::ops::kernels
#endif
