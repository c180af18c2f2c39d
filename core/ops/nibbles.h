// Codes of at most four bits, two a byte: how a training step keeps them until backward.
#pragma once

#include <cstdint>

namespace qat::ops {

/// Codes that share a block of bytes: code i of a block lies in the low half of byte i, code i + 64 in the high half.
constexpr int64_t kNibbleBlock = 128;

/// Bytes of n packed codes: whole blocks.
inline int64_t packed_bytes(int64_t n) { return (n + kNibbleBlock - 1) / kNibbleBlock * (kNibbleBlock / 2); }

/// Packs codes - lo. Tells whether all codes lie in [lo, lo + 15]; where not, packed holds nothing of use.
bool pack_nibbles(const uint8_t* codes, int64_t n, int32_t lo, uint8_t* packed);

void unpack_nibbles(const uint8_t* packed, int64_t n, int32_t lo, uint8_t* codes);

/// Codes as they were kept.
struct StoredCodes {
  StoredCodes() = default;
  /// One a byte.
  StoredCodes(const uint8_t* codes) : data(codes) {}
  /// Packed, less lo.
  StoredCodes(const uint8_t* nibbles, int32_t least) : data(nibbles), packed(true), lo(least) {}

  const uint8_t* data = nullptr;
  bool packed = false;
  int32_t lo = 0;
};

/// Bytes of memory that codes_in() may want for `count` codes.
constexpr int64_t unpacked_bytes(int64_t count) { return count + 2 * kNibbleBlock; }

/// Codes [begin, begin + count), one a byte: where they lie, or unpacked into memory[unpacked_bytes(count)].
const uint8_t* codes_in(const StoredCodes& stored, int64_t begin, int64_t count, uint8_t* memory);

}  // namespace qat::ops
