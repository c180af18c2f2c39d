// Compiled once for every vector target (Highway's foreach_target): plain loops that the compiler vectorizes.
#include "core/ops/nibbles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/nibbles.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "core/ops/pieces.h"

#ifndef QAT_CORE_OPS_NIBBLES_CPP
#define QAT_CORE_OPS_NIBBLES_CPP
namespace qat::ops {
namespace {
constexpr int64_t kHalf = kNibbleBlock / 2;
}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

/// Whole blocks. Returns the bits of all codes less lo.
uint8_t pack(const uint8_t* __restrict codes, int64_t blocks, uint8_t lo, uint8_t* __restrict packed) {
  uint8_t all[kHalf] = {};
  for (int64_t b = 0; b < blocks; ++b, codes += kNibbleBlock, packed += kHalf) {
    for (int64_t i = 0; i < kHalf; ++i) {
      const auto low = static_cast<uint8_t>(codes[i] - lo), high = static_cast<uint8_t>(codes[kHalf + i] - lo);
      all[i] = static_cast<uint8_t>(all[i] | low | high);
      packed[i] = static_cast<uint8_t>(low | high << 4);
    }
  }
  uint8_t any = 0;
  for (const uint8_t bits : all) any = static_cast<uint8_t>(any | bits);
  return any;
}

void unpack(const uint8_t* __restrict packed, int64_t blocks, uint8_t lo, uint8_t* __restrict codes) {
  for (int64_t b = 0; b < blocks; ++b, codes += kNibbleBlock, packed += kHalf) {
    for (int64_t i = 0; i < kHalf; ++i) {
      codes[i] = static_cast<uint8_t>((packed[i] & 15) + lo);
      codes[kHalf + i] = static_cast<uint8_t>((packed[i] >> 4) + lo);
    }
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
  const auto least = static_cast<uint8_t>(lo);
  const int64_t whole = n / kNibbleBlock * kNibbleBlock;
  int all = 0;
  static_assert(kPiece % kNibbleBlock == 0);
#pragma omp parallel for schedule(static) reduction(| : all) if (whole >= 16 * kPiece)
  for (int64_t i = 0; i < whole; i += kPiece) {
    all |= HWY_DYNAMIC_DISPATCH(pack)(codes + i, std::min(kPiece, whole - i) / kNibbleBlock, least, packed + i / 2);
  }
  if (whole < n) {
    uint8_t last[kNibbleBlock];
    std::fill(std::copy(codes + whole, codes + n, last), last + kNibbleBlock, least);
    all |= HWY_DYNAMIC_DISPATCH(pack)(last, 1, least, packed + whole / 2);
  }
  return all <= 15;
}

void unpack_nibbles(const uint8_t* packed, int64_t n, int32_t lo, uint8_t* codes) {
  for_pieces(n, [&](int64_t, int64_t begin, int64_t count) {
    const int64_t whole = count / kNibbleBlock * kNibbleBlock, at = begin + whole;
    HWY_DYNAMIC_DISPATCH(unpack)
    (packed + begin / 2, whole / kNibbleBlock, static_cast<uint8_t>(lo), codes + begin);
    for (int64_t i = at; i < begin + count; ++i) {
      const int place = static_cast<int>(i - at), byte = packed[at / 2 + place % kHalf];
      codes[i] = static_cast<uint8_t>((place < kHalf ? byte & 15 : byte >> 4) + lo);
    }
  });
}

const uint8_t* codes_in(const StoredCodes& stored, int64_t begin, int64_t count, uint8_t* memory) {
  if (!stored.packed) return stored.data + begin;
  const int64_t first = begin / kNibbleBlock, last = (begin + count + kNibbleBlock - 1) / kNibbleBlock;
  HWY_DYNAMIC_DISPATCH(unpack)
  (stored.data + first * kHalf, last - first, static_cast<uint8_t>(stored.lo), memory);
  return memory + (begin - first * kNibbleBlock);
}

}  // namespace qat::ops
#endif  // HWY_ONCE
