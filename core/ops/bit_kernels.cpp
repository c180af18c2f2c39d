#define HWY_WANT_AVX3_DL  // vpopcntb

#include "core/ops/bit_kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/bit_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/pixels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::kernels::HWY_NAMESPACE {
namespace {

using U8 = hn::CappedTag<uint8_t, kWord>;
constexpr int64_t kBytes = hn::MaxLanes(U8());

void gather(const uint8_t* x, int64_t n, uint64_t* bits) {
  const U8 d;
  for (int64_t i = 0; i < n; i += kWord) {
    uint8_t bytes[kWord / 8 + 8] = {};
    for (int64_t k = 0; k < kWord; k += kBytes) {
      const auto zero = hn::Eq(hn::LoadU(d, x + i + k), hn::Zero(d));
      if constexpr (kBytes >= 8) {
        hn::StoreMaskBits(d, hn::Not(zero), bytes + k / 8);
      } else {
        bytes[k / 8] |= static_cast<uint8_t>((x[i + k] != 0) << (k % 8));
      }
    }
    std::memcpy(bits + i / kWord, bytes, sizeof(uint64_t));
  }
}

#if HWY_TARGET == HWY_SCALAR
using Sums = hn::CappedTag<uint64_t, 1>;
#else
using Sums = hn::Repartition<uint64_t, I32>;
#endif
constexpr int64_t kSums = hn::MaxLanes(Sums());
constexpr int64_t kParts = kBlock / kSums;
constexpr int64_t kTile = kParts <= 2 ? 4 : 2;  // pixels

/// The bits that words of kP pixels and of a block's weights have in common, added to `sums`.
template <int64_t kP>
HWY_INLINE void add_words(const uint64_t (&x)[kP][31], int64_t count, const uint64_t* w, uint64_t (&sums)[kP][kBlock]) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t p = 0; p < kP; ++p) {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t c = 0; c < kBlock; ++c)
        sums[p][c] += static_cast<uint64_t>(std::popcount(x[p][j] & w[j * kBlock + c]));
    }
  }
#else
  const Sums d;
  const hn::Repartition<uint8_t, Sums> d8;
  hn::Vec<decltype(d8)> bytes[kP][kParts];  // up to 31 times 8
#pragma GCC unroll 4
  for (int64_t p = 0; p < kP; ++p) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kParts; ++v) bytes[p][v] = hn::Zero(d8);
  }
  for (int64_t j = 0; j < count; ++j, w += kBlock) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kParts; ++v) {
      const auto weight = hn::LoadU(d, w + v * kSums);
#pragma GCC unroll 4
      for (int64_t p = 0; p < kP; ++p) {
        const auto both = hn::BitCast(d8, hn::And(weight, hn::Set(d, x[p][j])));
        bytes[p][v] = hn::Add(bytes[p][v], hn::PopulationCount(both));
      }
    }
  }
#pragma GCC unroll 4
  for (int64_t p = 0; p < kP; ++p) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kParts; ++v) {
      uint64_t* into = sums[p] + v * kSums;
      hn::StoreU(hn::Add(hn::LoadU(d, into), hn::SumsOf8(bytes[p][v])), d, into);
    }
  }
#endif
}

template <int64_t kP>
HWY_INLINE void tile(const BitTask& t, int64_t first, int64_t channel) {
  constexpr int64_t kMost = 31;  // words whose bits a byte can count
  uint64_t sums[kP][kBlock] = {};
  int64_t ones[kP] = {};
  const uint64_t* word[kP];
  for (int64_t p = 0; p < kP; ++p) word[p] = t.bits + (t.pixels[first + p] - t.first) / kWord;
  const int64_t total = t.segments * t.words;
  const uint64_t* w = t.weights + channel * total;
  for (int64_t s = 0, j = 0, done = 0; done < total;) {
    uint64_t x[kP][kMost];
    const int64_t count = std::min(kMost, total - done);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t at = t.segment_offset[s] / kWord + j;
      for (int64_t p = 0; p < kP; ++p) {
        x[p][k] = word[p][at];
        ones[p] += std::popcount(x[p][k]);
      }
      if (++j == t.words) j = 0, ++s;
    }
    add_words<kP>(x, count, w + done * kBlock, sums);
    done += count;
  }
  const int64_t count = std::min<int64_t>(kBlock, t.channels - channel);
  for (int64_t p = 0; p < kP; ++p) {
    HWY_ALIGN int32_t whole[kBlock];
    for (int64_t c = 0; c < kBlock; ++c) {
      whole[c] = t.start[channel + c] + 2 * static_cast<int32_t>(sums[p][c]) - static_cast<int32_t>(ones[p]);
    }
    if (const CodeOutput* codes = t.code_output; codes != nullptr) {
      for (int64_t c = 0; c < count; c += kLanes) {
        store_codes(*codes, hn::Load(I32(), whole + c), channel + c, count - c,
                    codes->codes + (first + p) * codes->stride + channel + c);
      }
    } else {
      std::copy_n(whole, count, t.out + (first + p) * t.out_stride + channel);
    }
  }
}

void multiply_bits(const BitTask& t) {
  for (int64_t channel = 0; channel < t.channels; channel += kBlock) {
    cover<kTile>(t.pixel_count, [&](auto size, int64_t first) HWY_ATTR { tile<size()>(t, first, channel); });
  }
}

}  // namespace
}  // namespace qat::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops::kernels {

HWY_EXPORT(gather);
HWY_EXPORT(multiply_bits);

void gather_bits(const uint8_t* x, int64_t n, uint64_t* bits) { HWY_DYNAMIC_DISPATCH(gather)(x, n, bits); }
void multiply(const BitTask& task) { HWY_DYNAMIC_DISPATCH(multiply_bits)(task); }

}  // namespace qat::ops::kernels
#endif
