#include "core/ops/nibbles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

TEST(Nibbles, HoldTwoCodesAByte) {
  // Codes 0 and 64 share a byte, 1 and 65 the next one.
  std::vector<uint8_t> codes(66, 120), packed(packed_bytes(66)), back(66);
  codes[0] = 125, codes[1] = 135, codes[64] = 121, codes[65] = 127;
  EXPECT_EQ(packed.size(), 64);
  on_every_target([&] {
    EXPECT_TRUE(pack_nibbles(codes.data(), 66, 120, packed.data()));
    EXPECT_EQ((std::vector<int>{packed[0], packed[1], packed[2]}), (std::vector<int>{0x15, 0x7f, 0x00}));
    unpack_nibbles(packed.data(), 66, 120, back.data());
    EXPECT_EQ(back, codes);
  });
}

std::vector<uint8_t> some_codes(int64_t n) {
  std::vector<uint8_t> codes(n);
  for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(3 + i * 7 % 16);
  return codes;
}

TEST(Nibbles, ComeBackAtAnyLength) {
  on_every_target([] {
    for (const int64_t n : {0, 1, 2, 31, 64, 65, 127, 128, 129, 8191, 140001}) {
      const std::vector<uint8_t> codes = some_codes(n);
      std::vector<uint8_t> packed(packed_bytes(n)), back(n);
      EXPECT_TRUE(pack_nibbles(codes.data(), n, 3, packed.data()));
      unpack_nibbles(packed.data(), n, 3, back.data());
      EXPECT_EQ(back, codes) << n;
    }
  });
}

TEST(Nibbles, AreReadFromAnyPlace) {
  const std::vector<uint8_t> codes = some_codes(1000);
  std::vector<uint8_t> packed(packed_bytes(1000));
  ASSERT_TRUE(pack_nibbles(codes.data(), 1000, 3, packed.data()));
  on_every_target([&] {
    for (const int64_t begin : {0, 1, 63, 64, 127, 128, 500, 999, 1000}) {
      for (const int64_t count : {0, 1, 64, 129, 400}) {
        const int64_t length = std::min<int64_t>(count, 1000 - begin);
        std::vector<uint8_t> memory(unpacked_bytes(length));
        const std::vector<uint8_t> expected(codes.begin() + begin, codes.begin() + begin + length);
        const uint8_t* found = codes_in({packed.data(), 3}, begin, length, memory.data());
        EXPECT_EQ(std::vector<uint8_t>(found, found + length), expected) << begin << " " << length;
        EXPECT_EQ(codes_in(codes.data(), begin, length, nullptr), codes.data() + begin);
      }
    }
  });
}

TEST(Nibbles, TellOfCodesThatDoNotFit) {
  on_every_target([] {
    for (const int64_t at : {0, 40, 99, 100}) {
      for (const uint8_t code : {uint8_t{4}, uint8_t{21}}) {
        std::vector<uint8_t> codes(101, 12), packed(packed_bytes(101));
        EXPECT_TRUE(pack_nibbles(codes.data(), 101, 5, packed.data()));
        codes[at] = code;
        EXPECT_FALSE(pack_nibbles(codes.data(), 101, 5, packed.data())) << at;
      }
    }
  });
}

}  // namespace
}  // namespace qat::ops
