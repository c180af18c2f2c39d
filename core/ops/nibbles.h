// Codes of at most four bits, two a byte: how a training step keeps them until backward.
#pragma once

#include <cstdint>

namespace qat::ops {

/// Bytes of n packed codes.
inline int64_t packed_bytes(int64_t n) { return (n + 1) / 2; }

/// packed[i] = (codes[i] - lo) | (codes[packed_bytes(n) + i] - lo) << 4. Tells whether all codes lie in [lo, lo + 15];
/// where not, packed holds nothing of use.
bool pack_nibbles(const uint8_t* codes, int64_t n, int32_t lo, uint8_t* packed);

void unpack_nibbles(const uint8_t* packed, int64_t n, int32_t lo, uint8_t* codes);

}  // namespace qat::ops
