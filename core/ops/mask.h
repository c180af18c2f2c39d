// Masks of one bit an element: element i is bit i % 8 of byte i / 8, (n + 7) / 8 bytes, unused bits 0.
#pragma once

#include <cstdint>
#include <cstring>

namespace qat::ops {

/// No mask means that every element is inside.
inline bool mask_bit(const uint8_t* mask, int64_t i) { return mask == nullptr || ((mask[i / 8] >> (i % 8)) & 1) != 0; }

/// Packs flags (one byte an element, 0 or 1) into a mask. Vector code writes flags; eight of them become a byte by one
/// multiplication, which moves bit 8 i of the word to bit 56 + i without collisions.
inline void pack_mask(const uint8_t* flags, int64_t n, uint8_t* mask) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    std::memcpy(&word, flags + i, 8);
    mask[i / 8] = static_cast<uint8_t>((word * 0x0102040810204080u) >> 56);
  }
  if (i == n) return;
  unsigned last = 0;
  for (int64_t j = i; j < n; ++j) last |= static_cast<unsigned>(flags[j]) << (j - i);
  mask[i / 8] = static_cast<uint8_t>(last);
}

}  // namespace qat::ops
