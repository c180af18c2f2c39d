// Weight codes of few values in 1, 2 or 4 bits each, as files hold them. Internal to core/integer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace qat::integer {

/// A code is lowest + step * index; indices lie in bytes from the low bits up.
struct CodePacking {
  int64_t bits = 8;
  int64_t lowest = 0;
  int64_t step = 1;

  bool operator==(const CodePacking&) const = default;
};

/// The narrowest packing that holds all codes; none where they need more than 4 bits, or there are none.
std::optional<CodePacking> packing_of(std::span<const int16_t> codes);

/// The codes must be those of the packing.
std::vector<uint8_t> pack_codes(std::span<const int16_t> codes, const CodePacking& packing);

/// Throws Error unless bits are 1, 2 or 4, all codes of the packing lie in [-128, 255], `packed` has the bytes of
/// `count` codes, and the bits behind the last one are zero.
std::vector<int16_t> unpack_codes(std::span<const uint8_t> packed, int64_t count, const CodePacking& packing);

}  // namespace qat::integer
