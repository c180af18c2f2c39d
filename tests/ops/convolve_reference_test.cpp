#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/ops/convolve.h"

namespace qat::ops {
namespace {

using testing::ElementsAre;

template <class Code>
std::vector<int32_t> convolved(const ConvGeometry& g, const std::vector<Code>& x, int32_t zero,
                               const std::vector<int16_t>& w) {
  std::vector<int32_t> acc(static_cast<size_t>(g.rows() * g.out_c));
  convolve_reference(g, x.data(), zero, w.data(), acc.data());
  return acc;
}

TEST(convolve_reference, padding_stands_for_the_zero_point) {
  ConvGeometry g;
  g.in_h = g.in_w = 2;
  g.kernel_h = g.kernel_w = 3;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = 1;
  // x - 10 = [1 2; 3 4]; the kernel counts its taps 1..9.
  EXPECT_THAT(convolved<uint8_t>(g, {11, 12, 13, 14}, 10, {1, 2, 3, 4, 5, 6, 7, 8, 9}),
              ElementsAre(1 * 5 + 2 * 6 + 3 * 8 + 4 * 9, 1 * 4 + 2 * 5 + 3 * 7 + 4 * 8, 1 * 2 + 2 * 3 + 3 * 5 + 4 * 6,
                          1 * 1 + 2 * 2 + 3 * 4 + 4 * 5));
}

TEST(convolve_reference, asymmetric_padding_stride_and_dilation) {
  ConvGeometry g;
  g.in_w = 5, g.kernel_w = 2, g.stride_w = 2, g.dilation_w = 3, g.pad_left = 1, g.pad_right = 2;
  // Taps at (-1, 2), (1, 4), (3, 6): x = 1 2 3 4 5.
  EXPECT_THAT(convolved<int8_t>(g, {1, 2, 3, 4, 5}, 0, {10, 1}), ElementsAre(3, 25, 40));
}

TEST(convolve_reference, groups_see_their_own_channels) {
  ConvGeometry g;
  g.batch = 2, g.in_c = 4, g.out_c = 2, g.groups = 2;
  EXPECT_THAT(convolved<int8_t>(g, {1, 2, 3, 4, 5, 6, 7, 8}, -1, {1, 10, 100, -1}),
              ElementsAre(2 + 30, 400 - 5, 6 + 70, 800 - 9));
}

TEST(convolve_reference, wraps_modulo_2_to_the_32) {
  ConvGeometry g;
  g.in_c = 40000;
  const std::vector<uint8_t> x(40000, 255);
  const std::vector<int16_t> w(40000, 255);
  // 40000 * 65025 = 2601000000 = 2^32 - 1693967296.
  EXPECT_THAT(convolved(g, x, 0, w), ElementsAre(-1693967296));
}

}  // namespace
}  // namespace qat::ops
