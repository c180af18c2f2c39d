// Little-endian numbers in byte strings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qat::archive {

/// The number in `width` (1 to 8) bytes at `offset`, which the caller knows to be there.
inline uint64_t get_number(std::string_view bytes, uint64_t offset, int width) {
  uint64_t value = 0;
  for (int i = width - 1; i >= 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[offset + static_cast<uint64_t>(i)]);
  }
  return value;
}

inline void put_number(std::string& bytes, uint64_t value, int width) {
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
}

}  // namespace qat::archive
