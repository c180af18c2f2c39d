// Compiled once for every vector target (Highway's foreach_target): plain loops that the compiler vectorizes.
#include "core/ops/nibbles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/nibbles.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "core/ops/pieces.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

/// Returns the bits of all codes less lo.
uint8_t pack(const uint8_t* __restrict low, const uint8_t* __restrict high, int64_t n, uint8_t lo,
             uint8_t* __restrict packed) {
  uint8_t all = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto a = static_cast<uint8_t>(low[i] - lo), b = static_cast<uint8_t>(high[i] - lo);
    all = static_cast<uint8_t>(all | a | b);
    packed[i] = static_cast<uint8_t>(a | b << 4);
  }
  return all;
}

void unpack(const uint8_t* __restrict packed, int64_t n, uint8_t lo, uint8_t* __restrict low,
            uint8_t* __restrict high) {
  for (int64_t i = 0; i < n; ++i) {
    low[i] = static_cast<uint8_t>((packed[i] & 15) + lo);
    high[i] = static_cast<uint8_t>((packed[i] >> 4) + lo);
  }
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(pack);
HWY_EXPORT(unpack);

bool pack_nibbles(const uint8_t* codes, int64_t n, int32_t lo, uint8_t* packed) {
  const int64_t half = packed_bytes(n), pairs = n / 2;
  const auto least = static_cast<uint8_t>(lo);
  int all = 0;
#pragma omp parallel for schedule(static) reduction(| : all) if (pairs >= 16 * kPiece)
  for (int64_t i = 0; i < pairs; i += kPiece) {
    all |= HWY_DYNAMIC_DISPATCH(pack)(codes + i, codes + half + i, std::min(kPiece, pairs - i), least, packed + i);
  }
  if (pairs < half) {
    packed[pairs] = static_cast<uint8_t>(codes[pairs] - least);
    all |= packed[pairs];
  }
  return all <= 15;
}

void unpack_nibbles(const uint8_t* packed, int64_t n, int32_t lo, uint8_t* codes) {
  const int64_t half = packed_bytes(n), pairs = n / 2;
  const auto least = static_cast<uint8_t>(lo);
  for_pieces(pairs, [&](int64_t, int64_t begin, int64_t count) {
    HWY_DYNAMIC_DISPATCH(unpack)(packed + begin, count, least, codes + begin, codes + half + begin);
  });
  if (pairs < half) codes[pairs] = static_cast<uint8_t>(packed[pairs] + least);
}

}  // namespace qat::ops
#endif  // HWY_ONCE
