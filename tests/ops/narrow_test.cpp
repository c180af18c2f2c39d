#include "core/ops/narrow.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <random>
#include <vector>

#include "core/base/error.h"
#include "core/ops/convolve.h"
#include "core/ops/requantize.h"
#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

TEST(Narrow, KeepsValuesAndSumsThem) {
  std::mt19937 random(1);
  on_every_target([&] {
    for (const int64_t rows : {0, 1, 2, 3, 40, 70001}) {
      for (const int64_t channels : {1, 7, 8, 16, 17, 33}) {
        if (rows > 100 && channels != 17) continue;
        const int64_t stride = channels + 3;
        std::vector<int32_t> acc(rows * channels + 32, 1 << 20);
        for (int64_t i = 0; i < rows * channels; ++i) {
          acc[i] = i % 5 == 0 ? 32767 : i % 7 == 0 ? -32767 : static_cast<int32_t>(random() % 65535) - 32767;
        }
        std::vector<int16_t> out(rows * stride, 99), expected = out, low(channels, 32767), high(channels, -32768);
        std::vector<int64_t> sum(channels, 5), squares(channels, 6);
        std::vector<int64_t> expected_sum = sum, expected_squares = squares;
        std::vector<int16_t> expected_low = low, expected_high = high;
        for (int64_t i = 0; i < rows * channels; ++i) {
          const int64_t c = i % channels;
          expected[i / channels * stride + c] = static_cast<int16_t>(acc[i]);
          expected_sum[c] += acc[i];
          expected_squares[c] += static_cast<int64_t>(acc[i]) * acc[i];
          expected_low[c] = std::min<int16_t>(expected_low[c], static_cast<int16_t>(acc[i]));
          expected_high[c] = std::max<int16_t>(expected_high[c], static_cast<int16_t>(acc[i]));
        }
        const NarrowStatistics statistics{sum.data(), squares.data(), low.data(), high.data()};
        narrow(acc.data(), rows, channels, out.data(), stride, &statistics);
        EXPECT_EQ(out, expected);
        EXPECT_EQ(sum, expected_sum);
        EXPECT_EQ(squares, expected_squares);
        EXPECT_EQ(low, expected_low);
        EXPECT_EQ(high, expected_high);
        std::fill(out.begin(), out.end(), 99);
        narrow(acc.data(), rows, channels, out.data(), stride, nullptr);
        EXPECT_EQ(out, expected);
      }
    }
  });
}

ConvGeometry geometry(int64_t in_c, int64_t out_c, int64_t size, int64_t kernel, int64_t stride, int64_t groups) {
  ConvGeometry g{.batch = 3, .in_h = size, .in_w = size, .in_c = in_c, .out_c = out_c};
  g.kernel_h = g.kernel_w = kernel, g.stride_h = g.stride_w = stride, g.groups = groups;
  g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = kernel / 2;
  return g;
}

TEST(Narrow, ConvolutionsGiveTheSameAccumulatorsAndStatistics) {
  const ConvGeometry nets[] = {geometry(16, 40, 14, 3, 1, 1), geometry(24, 144, 28, 1, 1, 1),
                               geometry(3, 17, 15, 3, 2, 1),  geometry(32, 32, 13, 3, 1, 32),
                               geometry(20, 20, 9, 3, 2, 20), geometry(12, 18, 8, 3, 1, 3),
                               geometry(64, 130, 3, 3, 1, 1), geometry(200, 10, 1, 1, 1, 1)};
  std::mt19937 random(3);
  const int threads = omp_get_max_threads();
  on_every_target([&] {
    for (const ConvGeometry& g : nets) {
      std::vector<uint8_t> x(g.batch * g.in_h * g.in_w * g.in_c);
      std::vector<int8_t> w(g.out_c * g.depth());
      for (uint8_t& v : x) v = random() % 16;
      for (int8_t& v : w) v = static_cast<int8_t>(random() % 8 - 4);
      const PackedConvolution<uint8_t> packed(g, w.data(), 3, 15);
      ASSERT_TRUE(packed.fits_int16());
      const int64_t rows = g.rows();
      std::vector<int32_t> wide(rows * g.out_c);
      packed.accumulate(x.data(), g.batch, wide.data());
      const ChannelStatistics expected = channel_statistics(wide.data(), rows, g.out_c);
      for (const int count : {1, 3}) {
        omp_set_num_threads(count);
        std::vector<int16_t> narrow(wide.size()), alone(wide.size());
        ChannelStatistics found;
        packed.accumulate(x.data(), g.batch, narrow.data(), &found);
        packed.accumulate(x.data(), g.batch, alone.data());
        EXPECT_TRUE(std::equal(wide.begin(), wide.end(), narrow.begin())) << packed.kernel();
        EXPECT_EQ(alone, narrow);
        EXPECT_EQ(found.sum, expected.sum);
        EXPECT_EQ(found.sum_squares, expected.sum_squares);
        EXPECT_EQ(found.min, expected.min);
        EXPECT_EQ(found.max, expected.max);
      }
      omp_set_num_threads(threads);
    }
  });
}

TEST(Narrow, TheBoundIsExact) {
  // Codes 0 to 15 around 3: one weight of 100 gives [-300, 1200]. 27 of them: 32400; 28: 33600.
  const ConvGeometry most{.batch = 1, .in_c = 27, .out_c = 1}, too_many{.batch = 1, .in_c = 28, .out_c = 1};
  const std::vector<int8_t> w(28, 100), negative(28, -100);
  EXPECT_TRUE(PackedConvolution<uint8_t>(most, w.data(), 3, 15).fits_int16());
  EXPECT_FALSE(PackedConvolution<uint8_t>(too_many, w.data(), 3, 15).fits_int16());
  EXPECT_TRUE(PackedConvolution<uint8_t>(most, negative.data(), 3, 15).fits_int16());
  EXPECT_FALSE(PackedConvolution<uint8_t>(too_many, negative.data(), 3, 15).fits_int16());
  // Around 15 every product is one of -1500 to 0: 21 fit, 22 do not.
  EXPECT_TRUE(PackedConvolution<uint8_t>({.batch = 1, .in_c = 21, .out_c = 1}, w.data(), 15, 15).fits_int16());
  const PackedConvolution<uint8_t> wide({.batch = 1, .in_c = 22, .out_c = 1}, w.data(), 15, 15);
  EXPECT_FALSE(wide.fits_int16());
  int16_t acc;
  const std::vector<uint8_t> x(22);
  EXPECT_THROW(wide.accumulate(x.data(), 1, &acc), Error);
}

TEST(Narrow, RequantizesLikeInt32) {
  std::mt19937 random(4);
  on_every_target([&] {
    for (const int64_t channels : {1, 5, 16, 48}) {
      const int64_t rows = 37, n = rows * channels;
      std::vector<int32_t> wide(n), bias(channels, 77);
      std::vector<int16_t> narrow(n);
      std::vector<float> multiplier(channels, 0.003f), offset(channels, 1.7f);
      for (int64_t i = 0; i < n; ++i) wide[i] = narrow[i] = static_cast<int16_t>(random() % 65535 - 32767);
      const CodeRange range{2, 200, 90};
      for (const bool affine : {false, true}) {
        std::vector<uint8_t> codes(n), expected(n), mask((n + 7) / 8), expected_mask = mask;
        if (affine) {
          requantize_affine(wide.data(), rows, channels, multiplier.data(), offset.data(), range, expected.data(),
                            expected_mask.data());
          requantize_affine(narrow.data(), rows, channels, multiplier.data(), offset.data(), range, codes.data(),
                            mask.data());
        } else {
          requantize(wide.data(), rows, channels, bias.data(), multiplier.data(), range, expected.data(),
                     expected_mask.data());
          requantize(narrow.data(), rows, channels, bias.data(), multiplier.data(), range, codes.data(), mask.data());
        }
        EXPECT_EQ(codes, expected);
        EXPECT_EQ(mask, expected_mask);
      }
    }
  });
}

}  // namespace
}  // namespace qat::ops
