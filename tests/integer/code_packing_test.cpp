#include "core/integer/code_packing.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace qat::integer {
namespace {

using Codes = std::vector<int16_t>;

TEST(CodePacking, TakesTheFewestBits) {
  EXPECT_EQ(packing_of(Codes{-1, 1, 1}), (CodePacking{.bits = 1, .lowest = -1, .step = 2}));      // signs
  EXPECT_EQ(packing_of(Codes{-1, 0, 1}), (CodePacking{.bits = 2, .lowest = -1, .step = 1}));      // ternary
  EXPECT_EQ(packing_of(Codes{-3, 3, 1, -1}), (CodePacking{.bits = 2, .lowest = -3, .step = 2}));  // odd levels
  EXPECT_EQ(packing_of(Codes{7, -8, 0, 1}), (CodePacking{.bits = 4, .lowest = -8, .step = 1}));
  EXPECT_EQ(packing_of(Codes{5, 5, 5}), (CodePacking{.bits = 1, .lowest = 5, .step = 1}));
  EXPECT_EQ(packing_of(Codes{0, 255}), (CodePacking{.bits = 1, .lowest = 0, .step = 255}));
  EXPECT_EQ(packing_of(Codes{0, 1, 16}), std::nullopt);  // 17 values from end to end
  EXPECT_EQ(packing_of(Codes{}), std::nullopt);
}

TEST(CodePacking, LowBitsComeFirst) {
  const CodePacking nibbles{.bits = 4, .lowest = -8, .step = 1}, signs{.bits = 1, .lowest = -1, .step = 2};
  EXPECT_EQ(pack_codes(Codes{-8, 7, -7}, nibbles), (std::vector<uint8_t>{0xF0, 0x01}));
  EXPECT_EQ(pack_codes(Codes{1, -1, 1, -1, -1, -1, -1, -1, 1}, signs), (std::vector<uint8_t>{0b101, 1}));
  EXPECT_EQ(unpack_codes(std::vector<uint8_t>{0xF0, 0x01}, 3, nibbles), (Codes{-8, 7, -7}));
}

TEST(CodePacking, ComesBackForEveryLength) {
  for (int16_t levels = 1; levels <= 16; ++levels) {
    for (int16_t step = 1; step <= 15; step += 7) {
      for (size_t length = 1; length <= 19; ++length) {
        Codes codes;
        for (size_t i = 0; i < length; ++i) {
          codes.push_back(
              static_cast<int16_t>(-128 + step * static_cast<int16_t>(i * 7 % static_cast<size_t>(levels))));
        }
        const auto packing = packing_of(codes);
        ASSERT_TRUE(packing);
        EXPECT_EQ(unpack_codes(pack_codes(codes, *packing), static_cast<int64_t>(length), *packing), codes);
      }
    }
  }
}

TEST(CodePacking, RefusesBytesThatDoNotFit) {
  const CodePacking pairs{.bits = 2, .lowest = 0, .step = 1};
  EXPECT_THROW(unpack_codes(std::vector<uint8_t>{0}, 5, pairs), Error);
  EXPECT_THROW(unpack_codes(std::vector<uint8_t>{0, 0}, 4, pairs), Error);
  EXPECT_THROW(unpack_codes(std::vector<uint8_t>{0}, -1, pairs), Error);
  EXPECT_THROW(unpack_codes({}, INT64_MAX, pairs), Error);
  EXPECT_THROW(unpack_codes(std::vector<uint8_t>{0x10}, 2, pairs), Error);  // a third code
  EXPECT_THROW(unpack_codes(std::vector<uint8_t>{0}, 4, {.bits = 8}), Error);
  EXPECT_THROW(unpack_codes(std::vector<uint8_t>{3}, 4, {.bits = 2, .lowest = 200, .step = 20}), Error);
}

}  // namespace
}  // namespace qat::integer
