#include "core/ops/pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace qat::ops {
namespace {

using testing::ElementsAre;

PoolGeometry geometry(int64_t h, int64_t w, int64_t kernel, int64_t stride, int64_t pad = 0, bool ceil_mode = false) {
  PoolGeometry g;
  g.in_h = h, g.in_w = w;
  g.kernel_h = g.kernel_w = kernel;
  g.stride_h = g.stride_w = stride;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = pad;
  g.ceil_mode = ceil_mode;
  return g;
}

TEST(pool_geometry, ceil_mode_never_starts_a_window_in_the_trailing_padding) {
  EXPECT_EQ(geometry(8, 8, 3, 2).out_h(), 3);
  EXPECT_EQ(geometry(8, 8, 3, 2, 0, true).out_h(), 4);
  // (5 + 2 - 2) / 3 + 1 = 3 windows from -1, 2, 5 by rounding up; 5 is past the input.
  EXPECT_EQ(geometry(5, 5, 2, 3, 1, true).out_h(), 2);
  PoolGeometry g = geometry(7, 9, 3, 2);
  g.dilation_h = 2;  // reach 5
  EXPECT_EQ(g.out_h(), 2);
  EXPECT_EQ(g.out_w(), 4);
}

TEST(max_pool, padding_never_wins_and_the_first_maximum_is_the_winner) {
  // 3x3, all negative; kernel 2, stride 2, pad 1: windows {(0,0)}, {(0,1),(0,2)}, {(1,0),(2,0)}, the rest.
  const std::vector<int8_t> x{-5, -7, -6,  //
                              -3, -9, -2,  //
                              -3, -2, -8};
  PoolGeometry g = geometry(3, 3, 2, 2, 1);
  std::vector<int8_t> y(4);
  std::vector<uint16_t> winner(4);
  max_pool(g, x.data(), y.data(), winner.data());
  EXPECT_THAT(y, ElementsAre(-5, -6, -3, -2));
  EXPECT_THAT(winner, ElementsAre(3, 3, 1, 1));  // window (1,1): -2 at (1,2) comes before -2 at (2,1)
  std::vector<int8_t> without(4);
  max_pool(g, x.data(), without.data());
  EXPECT_EQ(without, y);
}

TEST(max_pool, gradient_goes_to_the_winner_and_adds_up) {
  // 1x3, kernel 1x2, stride 1: both windows pick the middle; the second channel picks the first of equals.
  PoolGeometry g;
  g.batch = 2, g.in_w = 3, g.channels = 2, g.kernel_w = 2;
  const std::vector<uint8_t> x{1, 4, 9, 4, 2, 4,  //
                               0, 0, 0, 1, 0, 2};
  std::vector<uint8_t> y(8);
  std::vector<uint16_t> winner(8);
  max_pool(g, x.data(), y.data(), winner.data());
  EXPECT_THAT(y, ElementsAre(9, 4, 9, 4, 0, 1, 0, 2));
  const std::vector<float> dy{1, 2, 4, 8, 16, 32, 64, 128};
  std::vector<float> dx(12, 99.0f);
  max_pool_gradient(g, dy.data(), winner.data(), dx.data());
  EXPECT_THAT(dx, ElementsAre(0, 2, 5, 8, 0, 0, 16, 0, 64, 32, 0, 128));
}

TEST(max_pool, a_dilated_window_of_padding_alone_gives_the_lowest_code_and_no_gradient) {
  PoolGeometry g = geometry(1, 1, 2, 1, 1);
  g.dilation_h = g.dilation_w = 2;  // taps at -1 and 1 of one pixel
  const std::vector<uint8_t> x{7};
  std::vector<uint8_t> y(1, 9);
  std::vector<uint16_t> winner(1, 9);
  max_pool(g, x.data(), y.data(), winner.data());
  EXPECT_EQ(y[0], 0);
  const float dy = 3.0f;
  float dx = 1.0f;
  max_pool_gradient(g, &dy, winner.data(), &dx);
  EXPECT_EQ(dx, 0.0f);
}

TEST(max_pool, refuses_kernels_beyond_the_winner_s_range) {
  PoolGeometry g = geometry(1, 1, 300, 1, 150);
  uint8_t x = 0, y = 0;
  uint16_t winner = 0;
  EXPECT_THROW(max_pool(g, &x, &y, &winner), Error);
}

TEST(average_pool, rounds_ties_to_even_after_adding_the_zero_point) {
  const std::vector<uint8_t> x{1, 2, 100, 3, 4, 200};  // the window's mean is 2.5
  uint8_t y = 0;
  average_pool(geometry(2, 3, 2, 2), false, x.data(), 1.0f, 0, 1.0f, {0, 255, 0}, &y);
  EXPECT_EQ(y, 2);
  average_pool(geometry(2, 3, 2, 2), false, x.data(), 1.0f, 0, 1.0f, {0, 255, 1}, &y);
  EXPECT_EQ(y, 4);
  average_pool(geometry(2, 3, 2, 2), false, x.data(), 2.0f, 1, 0.5f, {0, 255, 0}, &y);  // 2 * 1.5 / 0.5
  EXPECT_EQ(y, 6);
}

// Measured: 0 of 22,550 codes of ONNX Runtime differ from the global formula, 538 from the other.
TEST(average_pool, of_the_whole_map_is_a_global_average_pool) {
  const std::vector<uint8_t> x{1, 2, 3, 4};
  uint8_t y = 0;
  average_pool(geometry(2, 2, 2, 2), false, x.data(), 1.0f, 0, 1.0f, {0, 255, 1}, &y);
  EXPECT_EQ(y, 3);  // 2.5 -> 2, then the zero point: the other order gives 4
  average_pool(geometry(2, 2, 2, 1), true, x.data(), 1.0f, 0, 1.0f, {0, 255, 1}, &y);
  EXPECT_EQ(y, 3);
  PoolGeometry padded = geometry(2, 2, 2, 2);
  padded.pad_bottom = 1;  // not the whole of what the pool sees
  average_pool(padded, false, x.data(), 1.0f, 0, 1.0f, {0, 255, 1}, &y);
  EXPECT_EQ(y, 4);
}

TEST(average_pool, divides_by_valid_pixels_or_by_the_kernel) {
  const std::vector<uint8_t> nine{9};
  uint8_t y = 0;
  average_pool(geometry(1, 1, 3, 1, 1), false, nine.data(), 1.0f, 0, 1.0f, {0, 255, 0}, &y);
  EXPECT_EQ(y, 9);
  average_pool(geometry(1, 1, 3, 1, 1), true, nine.data(), 1.0f, 0, 1.0f, {0, 255, 0}, &y);
  EXPECT_EQ(y, 1);
  // Ceil mode: the second window holds one pixel; with count_include_pad it still divides by 2.
  PoolGeometry g;
  g.in_w = 3, g.kernel_w = 2, g.stride_w = 2, g.ceil_mode = true;
  const std::vector<uint8_t> x{2, 4, 8};
  std::vector<uint8_t> out(2);
  average_pool(g, false, x.data(), 1.0f, 0, 1.0f, {0, 255, 0}, out.data());
  EXPECT_THAT(out, ElementsAre(3, 8));
  average_pool(g, true, x.data(), 1.0f, 0, 1.0f, {0, 255, 0}, out.data());
  EXPECT_THAT(out, ElementsAre(3, 4));
}

TEST(average_pool, mask_and_saturation) {
  PoolGeometry g;
  g.channels = 3;  // 1x1 kernel: y = 2 x
  const std::vector<int8_t> x{63, 64, -65};
  std::vector<int8_t> y(3);
  uint8_t inside = 0;
  average_pool(g, false, x.data(), 2.0f, 0, 1.0f, {-128, 127, 0}, y.data(), &inside);
  EXPECT_THAT(y, ElementsAre(126, 127, -128));
  EXPECT_EQ(inside, 0b001);
}

TEST(average_pool, refuses_windows_without_a_pixel) {
  uint8_t x = 0, y = 0;
  EXPECT_THROW(average_pool(geometry(1, 1, 1, 1, 1), false, &x, 1.0f, 0, 1.0f, {0, 255, 0}, &y), Error);
  PoolGeometry g = geometry(5, 5, 2, 1);
  g.dilation_h = 2;
  EXPECT_THROW(average_pool(g, false, &x, 1.0f, 0, 1.0f, {0, 255, 0}, &y), Error);
}

TEST(average_range, of_means_before_they_are_codes) {
  // Values 0, 2.5, 49.5, and 1, 1.5, 0.5: means 52 / 3, rounded to float, and 1.
  const std::vector<uint8_t> x{1, 6, 100, 3, 4, 2};
  PoolGeometry g = geometry(1, 6, 3, 3);
  g.kernel_h = g.stride_h = 1;
  EXPECT_EQ(average_range(g, false, x.data(), 0.5f, 1), (std::pair<double, double>(1.0f, 52.0f / 3)));
  g.in_w = 2, g.kernel_w = 2, g.stride_w = 2, g.pad_left = g.pad_right = 1;  // windows of one pixel
  EXPECT_EQ(average_range(g, false, x.data(), 0.5f, 0), std::pair(0.5, 3.0));
  EXPECT_EQ(average_range(g, true, x.data(), 0.5f, 0), std::pair(0.25, 1.5));
  EXPECT_EQ(average_range(g, true, x.data(), 0.5f, 255), std::pair(-63.5, -62.25));
}

TEST(average_range, is_that_of_every_window) {
  // More channels than are summed at once, and enough for several threads; an end is in the last channel, or row.
  PoolGeometry g = geometry(13, 11, 3, 2, 1, true);
  g.batch = 3, g.channels = 301;
  std::vector<uint8_t> x(g.batch * g.in_h * g.in_w * g.channels);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>((i * 2654435761u) >> 24);
  for (int64_t pixel = 0; pixel < 2; ++pixel) x[pixel * g.channels + 300] = 255;
  x.back() = 0;
  for (const bool count_include_pad : {false, true}) {
    float lo = 1e9f, hi = -1e9f;
    for (int64_t n = 0; n < g.batch; ++n) {
      for (int64_t oh = 0; oh < g.out_h(); ++oh) {
        for (int64_t ow = 0; ow < g.out_w(); ++ow) {
          for (int64_t c = 0; c < g.channels; ++c) {
            float sum = 0, count = 0;
            for (int64_t tap = 0; tap < 9; ++tap) {
              const int64_t ih = oh * 2 - 1 + tap / 3, iw = ow * 2 - 1 + tap % 3;
              if (ih < 0 || ih >= g.in_h || iw < 0 || iw >= g.in_w) continue;
              sum += 0.0137f * static_cast<float>(x[((n * g.in_h + ih) * g.in_w + iw) * g.channels + c] - 77);
              ++count;
            }
            const float mean = sum / (count_include_pad ? 9.0f : count);
            lo = std::min(lo, mean), hi = std::max(hi, mean);
          }
        }
      }
    }
    EXPECT_EQ(average_range(g, count_include_pad, x.data(), 0.0137f, 77), (std::pair<double, double>(lo, hi)));
  }
}

TEST(average_range, of_the_whole_map_is_a_global_average_pool_s) {
  const std::vector<int8_t> x{-1, 5, 3, 8};
  const double mean = static_cast<double>(0.1f) * 15 / 4;  // in double; float would round
  EXPECT_EQ(average_range(geometry(2, 2, 2, 2), true, x.data(), 0.1f, 0), std::pair(mean, mean));
}

TEST(average_range, refuses_what_has_no_means) {
  const uint8_t x = 0;
  EXPECT_THROW(average_range(geometry(1, 1, 1, 1, 1), false, &x, 1.0f, 0), Error);
  EXPECT_THROW(average_range(geometry(1, 1, 2, 1), false, &x, 1.0f, 0), Error);
  PoolGeometry g = geometry(5, 5, 2, 1);
  g.dilation_w = 2;
  EXPECT_THROW(average_range(g, false, &x, 1.0f, 0), Error);
  g = geometry(5, 5, 2, 1);
  g.batch = 0;
  EXPECT_THROW(average_range(g, false, &x, 1.0f, 0), Error);
}

TEST(global_average_pool, rounds_before_adding_the_zero_point) {
  // Two samples of two pixels and two channels, zero point 1: sums 1, 3 and 5, 500; divided by 2.
  const std::vector<uint8_t> x{1, 2, 2, 3, 3, 251, 4, 251};
  std::vector<uint8_t> y(4);
  std::vector<int32_t> acc(4);
  uint8_t inside = 0;
  global_average_pool(x.data(), 2, 2, 2, 1.0f, 1, 1.0f, {0, 255, 101}, y.data(), acc.data(), &inside);
  EXPECT_THAT(acc, ElementsAre(1, 3, 5, 500));
  EXPECT_THAT(y, ElementsAre(101, 103, 103, 255));  // 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
  EXPECT_EQ(inside, 0b0111);
}

TEST(global_average_pool, range_of_the_real_values) {
  // Sums 1, 3 and 5, 500 without the zero point 1, of two pixels each.
  const std::vector<uint8_t> x{1, 2, 2, 3, 3, 251, 4, 251};
  EXPECT_EQ(global_average_range(x.data(), 2, 2, 2, 0.5f, 1), std::pair(0.25, 125.0));
  EXPECT_EQ(global_average_range(x.data(), 2, 2, 2, 0.5f, 255), std::pair(-126.75, -2.0));
  // One value; in double: float would round 0.1f * 7 / 3.
  const std::vector<int8_t> three{-1, 5, 3};
  const double value = static_cast<double>(0.1f) * 7 / 3;
  EXPECT_EQ(global_average_range(three.data(), 1, 3, 1, 0.1f, 0), std::pair(value, value));
}

TEST(global_average_pool, range_is_that_of_the_sums) {
  // More channels than are summed at once, and enough for several threads.
  constexpr int64_t kBatch = 5, kPixels = 49, kWidth = 301;
  std::vector<uint8_t> x(kBatch * kPixels * kWidth);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>((i * 2654435761u) >> 24);
  for (int64_t p = 0; p < kPixels; ++p) {
    x[(3 * kPixels + p) * kWidth + 300] = 255;
    x[(4 * kPixels + p) * kWidth + 256] = static_cast<uint8_t>(p == 0);
  }
  const auto [lo, hi] = global_average_range(x.data(), kBatch, kPixels, kWidth, 1.0f, 100);
  EXPECT_EQ(hi, 155.0);
  EXPECT_EQ(lo, (1.0 - 4900) / 49);
}

}  // namespace
}  // namespace qat::ops
