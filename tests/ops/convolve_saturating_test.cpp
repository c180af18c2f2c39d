#include "core/ops/convolve_saturating.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/base/random.h"
#include "core/ops/convolve.h"

namespace qat::ops {
namespace {

using testing::ElementsAre;

std::vector<int32_t> convolved(const ConvGeometry& g, const std::vector<uint8_t>& x, int32_t zero,
                               const std::vector<int8_t>& w) {
  std::vector<int32_t> acc(static_cast<size_t>(g.rows() * g.out_c));
  SaturatingConvolution(g, w.data(), zero).accumulate(x.data(), g.batch, acc.data());
  return acc;
}

std::vector<int32_t> exact(const ConvGeometry& g, const std::vector<uint8_t>& x, int32_t zero,
                           const std::vector<int8_t>& w) {
  const std::vector<int16_t> wide(w.begin(), w.end());
  std::vector<int32_t> acc(static_cast<size_t>(g.rows() * g.out_c));
  convolve_reference(g, x.data(), zero, wide.data(), acc.data());
  return acc;
}

TEST(convolve_saturating, neighbours_saturate_together_and_an_odd_last_product_stands_alone) {
  ConvGeometry g;
  g.in_c = 5, g.out_c = 3;
  // 255 * 127 + 255 * 127 = 64770 -> 32767; 255 * 127 - 255 * 100 = 6885; 255 * 127 = 32385 alone.
  EXPECT_THAT(convolved(g, {255, 255, 255, 255, 255}, 0,
                        {127, 127, 127, -100, 127, -128, -128, 1, 1, 0, 127, -128, 127, -128, 127}),
              ElementsAre(32767 + 6885 + 32385, -32768 + 510, -255 - 255 + 32385));
}

TEST(convolve_saturating, products_are_those_of_raw_codes) {
  ConvGeometry g;
  g.in_c = 2;
  // (200 - 190) * 127 + (210 - 190) * 127 = 3810, but 200 * 127 + 210 * 127 = 52070 -> 32767, less 190 * 254.
  EXPECT_THAT(convolved(g, {200, 210}, 190, {127, 127}), ElementsAre(32767 - 190 * 254));
}

TEST(convolve_saturating, pairs_follow_kernel_rows_columns_and_channels_padding_included) {
  ConvGeometry g;
  g.in_w = 2, g.in_c = 1, g.out_c = 2, g.kernel_w = 3, g.pad_left = g.pad_right = 1;
  // Columns (z, a), (b) and (a, b), (z) with a = 255, b = 250, z = 100; the second channel's pairs cancel.
  EXPECT_THAT(convolved(g, {255, 250}, 100, {127, 127, 127, 127, -127, 2}),
              ElementsAre(32767 + 250 * 127 - 100 * 381, 100 * 127 - 255 * 127 + 500 - 200,
                          32767 + 100 * 127 - 100 * 381, 255 * 127 - 250 * 127 + 200 - 200));
  // Two input channels: a pair is one pixel's.
  ConvGeometry two;
  two.in_w = 2, two.in_c = 2, two.kernel_w = 2;
  EXPECT_THAT(convolved(two, {255, 255, 255, 255}, 0, {127, -127, 127, 127}), ElementsAre(0 + 32767));
}

TEST(convolve_saturating, a_depthwise_convolution_never_saturates) {
  ConvGeometry g;
  g.in_w = 2, g.kernel_w = 2, g.in_c = g.out_c = g.groups = 2;
  EXPECT_TRUE(never_saturates(g));
  g.out_c = 4;  // two outputs a group
  EXPECT_FALSE(never_saturates(g));
  EXPECT_THAT(convolved(g, {255, 255, 255, 255}, 0, {127, 127, 127, 127, 1, 1, 2, 2}),
              ElementsAre(32767, 32767, 510, 1020));
}

/// The formula, term by term.
int32_t defined(const ConvGeometry& g, const std::vector<uint8_t>& x, int32_t zero, const std::vector<int8_t>& w,
                int64_t row, int64_t channel) {
  const int64_t image = row / (g.out_h() * g.out_w()), oh = row / g.out_w() % g.out_h(), ow = row % g.out_w();
  const int64_t group_in = g.in_c / g.groups, first = channel / (g.out_c / g.groups) * group_in;
  std::vector<int64_t> products;
  int64_t sum = 0;
  for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
    for (int64_t kw = 0; kw < g.kernel_w; ++kw) {
      for (int64_t c = 0; c < group_in; ++c) {
        const int64_t ih = oh * g.stride_h + kh * g.dilation_h - g.pad_top;
        const int64_t iw = ow * g.stride_w + kw * g.dilation_w - g.pad_left;
        const bool inside = ih >= 0 && ih < g.in_h && iw >= 0 && iw < g.in_w;
        const int64_t at = ((image * g.in_h + ih) * g.in_w + iw) * g.in_c + first + c;
        const int64_t weight = w.at(static_cast<size_t>(channel * g.depth() + static_cast<int64_t>(products.size())));
        products.push_back((inside ? x.at(static_cast<size_t>(at)) : zero) * weight);
        sum -= zero * weight;
      }
    }
  }
  products.push_back(0);
  for (size_t k = 0; k + 1 < products.size(); k += 2) {
    sum += std::clamp<int64_t>(products[k] + products[k + 1], -32768, 32767);
  }
  return static_cast<int32_t>(sum);
}

/// any(n): a number below n.
template <class Any>
ConvGeometry random_geometry(const Any& any, int64_t most_channels) {
  ConvGeometry g;
  g.batch = 1 + any(3), g.groups = 1 + any(3);
  g.in_c = g.groups * (1 + any(most_channels)), g.out_c = g.groups * (1 + any(4));
  g.kernel_h = 1 + any(3), g.kernel_w = 1 + any(3), g.stride_h = 1 + any(2), g.stride_w = 1 + any(2);
  g.dilation_h = 1 + any(2), g.dilation_w = 1 + any(2), g.in_h = 6 + any(4), g.in_w = 6 + any(4);
  g.pad_top = any(2), g.pad_left = any(2), g.pad_bottom = any(2), g.pad_right = any(2);
  return g;
}

TEST(convolve_saturating, random_convolutions_follow_the_definition) {
  CounterRng random(5);
  const auto any = [&](int64_t n) { return static_cast<int64_t>(random.below(static_cast<uint64_t>(n))); };
  for (int i = 0; i < 60; ++i) {
    const ConvGeometry g = random_geometry(any, 40);
    std::vector<uint8_t> x(static_cast<size_t>(g.batch * g.in_h * g.in_w * g.in_c));
    std::vector<int8_t> w(static_cast<size_t>(g.out_c * g.depth()));
    for (uint8_t& code : x) code = static_cast<uint8_t>(128 + any(128));
    for (int8_t& code : w) code = static_cast<int8_t>(any(256) - 128);
    const auto zero = static_cast<int32_t>(any(256));
    const std::vector<int32_t> found = convolved(g, x, zero, w);
    int64_t inexact = 0;
    const std::vector<int32_t> sums = exact(g, x, zero, w);
    for (int64_t at = 0; at < static_cast<int64_t>(found.size()); ++at) {
      const auto k = static_cast<size_t>(at);
      ASSERT_EQ(found[k], defined(g, x, zero, w, at / g.out_c, at % g.out_c)) << i << " at " << at;
      inexact += found[k] != sums[k] ? 1 : 0;
    }
    EXPECT_TRUE(g.depth() <= 20 || inexact > 0) << i;
  }
}

TEST(convolve_saturating, within_half_the_range_all_sums_are_exact) {
  CounterRng random(3);
  const auto any = [&](int64_t n) { return static_cast<int64_t>(random.below(static_cast<uint64_t>(n))); };
  for (int i = 0; i < 200; ++i) {
    const ConvGeometry g = random_geometry(any, 6);
    std::vector<uint8_t> x(static_cast<size_t>(g.batch * g.in_h * g.in_w * g.in_c));
    std::vector<int8_t> w(static_cast<size_t>(g.out_c * g.depth()));
    for (uint8_t& code : x) code = static_cast<uint8_t>(any(256));
    for (int8_t& code : w) code = static_cast<int8_t>(any(129) - 64);
    const auto zero = static_cast<int32_t>(any(256));
    ASSERT_EQ(convolved(g, x, zero, w), exact(g, x, zero, w)) << i;
  }
}

}  // namespace
}  // namespace qat::ops
