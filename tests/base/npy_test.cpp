#include "core/base/npy.h"

#include <gtest/gtest.h>

namespace qat {
namespace {

using std::string_literals::operator""s;

// The bytes that numpy.save writes.
TEST(Npy, HeadersLikeNumpys) {
  EXPECT_EQ(npy("|u1", {2, 3}, "abcdef"), "\x93NUMPY\x01\x00v\x00"s +
                                              "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }" +
                                              std::string(118 - 60, ' ') + "\n" + "abcdef");
  EXPECT_NE(npy("<f4", {7}, "").find("'shape': (7,), }"), std::string::npos);
  EXPECT_NE(npy("<f4", {}, "1234").find("'shape': (), }"), std::string::npos);
  for (int64_t n = 1; n < int64_t{1} << 58; n *= 10) EXPECT_EQ(npy("|i1", {n, n, n, n}, "").size() % 64, 0u) << n;
}

}  // namespace
}  // namespace qat
