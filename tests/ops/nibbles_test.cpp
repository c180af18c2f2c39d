#include "core/ops/nibbles.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

TEST(Nibbles, HoldTwoCodesAByte) {
  const uint8_t codes[] = {120, 135, 121, 127, 122};
  uint8_t packed[3], back[5];
  EXPECT_EQ(packed_bytes(5), 3);
  on_every_target([&] {
    EXPECT_TRUE(pack_nibbles(codes, 5, 120, packed));
    EXPECT_EQ((std::vector<int>{packed[0], packed[1], packed[2]}), (std::vector<int>{0x70, 0x2f, 0x01}));
    unpack_nibbles(packed, 5, 120, back);
    EXPECT_EQ(std::vector<uint8_t>(back, back + 5), std::vector<uint8_t>(codes, codes + 5));
  });
}

TEST(Nibbles, ComeBackAtAnyLength) {
  on_every_target([] {
    for (const int64_t n : {0, 1, 2, 31, 64, 129, 8191, 140001}) {
      std::vector<uint8_t> codes(n), packed(packed_bytes(n)), back(n);
      for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(3 + i * 7 % 16);
      EXPECT_TRUE(pack_nibbles(codes.data(), n, 3, packed.data()));
      unpack_nibbles(packed.data(), n, 3, back.data());
      EXPECT_EQ(back, codes) << n;
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
