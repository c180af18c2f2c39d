// 3x3 convolutions by minimal filtering: the accumulators and codes of the definition.
#include "core/ops/integer_winograd.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/ops/convolve.h"
#include "core/ops/requantize.h"
#include "core/ops/targets.h"
#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

ConvGeometry square(int64_t size, int64_t in_c, int64_t out_c) {
  return {.in_h = size,
          .in_w = size,
          .in_c = in_c,
          .out_c = out_c,
          .kernel_h = 3,
          .kernel_w = 3,
          .pad_top = 1,
          .pad_left = 1,
          .pad_bottom = 1,
          .pad_right = 1};
}

std::string kernel_of(const ConvGeometry& g, int16_t weight) {
  const std::vector<int16_t> w(static_cast<size_t>(g.out_c * g.depth()), weight);
  return PackedConvolution<uint8_t>(g, w.data(), 0).kernel();
}

TEST(IntegerWinograd, ServesWhereItPaysAndCannotOverflow) {
  if ((hwy::SupportedTargets() & HWY_AVX2) == 0) GTEST_SKIP() << "this machine has no AVX2";
  hwy::GetChosenTarget().Update(HWY_AVX2);
  EXPECT_EQ(kernel_of(square(8, 32, 32), 127), "winograd");
  EXPECT_EQ(kernel_of(square(8, 32, 32), 64), "quads");
  EXPECT_EQ(kernel_of(square(8, 32, 32), -255), "winograd");
  EXPECT_EQ(kernel_of(square(7, 32, 32), 127), "winograd");
  EXPECT_EQ(kernel_of(square(6, 32, 32), 127), "pairs");       // 36 outputs
  EXPECT_EQ(kernel_of(square(8, 16, 32), 127), "pairs");       // few channels
  EXPECT_EQ(kernel_of(square(8, 40, 32), 127), "pairs");       // not a multiple of 16
  EXPECT_EQ(kernel_of(square(8, 1840, 32), 127), "winograd");  // 4 * 9 * 1840 * 255 * 127 = 2145182400
  EXPECT_EQ(kernel_of(square(8, 1856, 32), 127), "pairs");     // 2163836160: beyond 2^31
  ConvGeometry g = square(6, 32, 32);
  g.batch = 2;
  EXPECT_EQ(kernel_of(g, 127), "winograd");
  g = square(32, 64, 64);
  g.stride_w = 2;
  EXPECT_EQ(kernel_of(g, 127), "pairs");
  g.stride_h = 2;
  EXPECT_EQ(kernel_of(g, 127), "winograd");
  EXPECT_EQ(kernel_of(g, 64), "quads");
  g.out_c = 48;
  EXPECT_EQ(kernel_of(g, 127), "pairs");  // few channels
  g = square(24, 64, 64);
  g.stride_h = g.stride_w = 2;
  EXPECT_EQ(kernel_of(g, 127), "pairs");  // 144 outputs
  g.batch = 2;
  EXPECT_EQ(kernel_of(g, 127), "winograd");
  g = square(14, 64, 64);
  g.stride_h = g.stride_w = 2, g.batch = 8;
  EXPECT_EQ(kernel_of(g, 127), "pairs");  // 64 outputs made of a map of 49
  g = square(32, 64, 64);
  g.stride_h = g.stride_w = 3;
  EXPECT_EQ(kernel_of(g, 127), "pairs");
  g = square(16, 32, 32);
  g.dilation_h = 2;
  EXPECT_EQ(kernel_of(g, 127), "pairs");
  g = square(16, 64, 64);
  g.groups = 2;
  EXPECT_EQ(kernel_of(g, 127), "pairs");
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

template <class Code>
void expect_equal(const ConvGeometry& g, uint64_t seed, int weight_limit) {
  std::mt19937_64 random(seed);
  constexpr int kLowest = std::numeric_limits<Code>::min(), kHighest = std::numeric_limits<Code>::max();
  const auto draw = [&](int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(random); };
  const int32_t zero_point = draw(kLowest, kHighest);
  std::vector<Code> x(static_cast<size_t>(g.batch * g.in_h * g.in_w * g.in_c));
  std::vector<int16_t> w(static_cast<size_t>(g.out_c * g.depth()));
  std::vector<int32_t> bias(static_cast<size_t>(g.out_c));
  std::vector<float> multiplier(bias.size());
  for (Code& v : x) v = static_cast<Code>(draw(kLowest, kHighest));
  for (int16_t& v : w) v = static_cast<int16_t>(draw(-weight_limit, weight_limit));
  for (int32_t& v : bias) v = draw(-90000, 90000);
  for (float& v : multiplier) v = 1e-6f * static_cast<float>(draw(1, 300));
  const CodeRange range{.lo = kLowest + 3, .hi = kHighest - 5, .zero_point = kLowest + 100};
  const bool biased = seed % 2 == 0;
  std::vector<int32_t> expected(static_cast<size_t>(g.rows() * g.out_c)), acc(expected.size() + 1);
  std::vector<Code> expected_codes(expected.size()), codes(expected.size() + 1);
  convolve_reference(g, x.data(), zero_point, w.data(), expected.data());
  requantize(expected.data(), g.rows(), g.out_c, biased ? bias.data() : nullptr, multiplier.data(), range,
             expected_codes.data());
  on_every_target([&] {
    const PackedConvolution<Code> packed(g, w.data(), zero_point);
    EXPECT_TRUE(vector_target() != "AVX2" || packed.kernel() == std::string("winograd")) << packed.kernel();
    acc.assign(acc.size(), 77);
    packed.accumulate(x.data(), g.batch, acc.data());
    EXPECT_EQ(acc.back(), 77) << "written behind the end";
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), acc.begin()));
    codes.assign(codes.size(), 77);
    packed.requantize(x.data(), g.batch, biased ? bias.data() : nullptr, multiplier.data(), range, codes.data());
    EXPECT_EQ(codes.back(), 77) << "written behind the end";
    EXPECT_TRUE(std::equal(expected_codes.begin(), expected_codes.end(), codes.begin()));
  });
}

/// `count` random geometries that are served: input channels from `channels` on, sides of the map between the two.
void check_random(int64_t stride, int64_t channels, int64_t smallest, int64_t largest, int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto draw = [&](int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  const int before = omp_get_max_threads();
  for (uint64_t i = 0; count > 0; ++i) {
    ConvGeometry g = square(1, channels + 16 * draw(0, 3), draw(channels, channels + 43));
    g.stride_h = g.stride_w = stride;
    g.batch = draw(1, 3);
    g.in_h = draw(smallest, largest), g.in_w = draw(smallest, largest);
    g.pad_top = draw(0, 2), g.pad_left = draw(0, 2), g.pad_bottom = draw(0, 2), g.pad_right = draw(0, 2);
    if (!integer_winograd::serves(g, 255, 255)) continue;
    --count;
    SCOPED_TRACE(fmt::format("stride {}, seed {}: {}x{}x{}x{} to {}, pads {} {} {} {}", stride, i, g.batch, g.in_h,
                             g.in_w, g.in_c, g.out_c, g.pad_top, g.pad_left, g.pad_bottom, g.pad_right));
    omp_set_num_threads(i % 3 == 0 ? 3 : 1);
    expect_equal<uint8_t>(g, i, i % 4 == 0 ? 255 : 127);
    expect_equal<int8_t>(g, i, i % 4 == 1 ? 255 : 128);
  }
  omp_set_num_threads(before);
}

TEST(IntegerWinograd, EqualsReferenceOnRandomGeometries) {
  check_random(1, 32, 7, 17, 30, 11);
  check_random(2, 64, 9, 36, 10, 12);
}

TEST(IntegerWinograd, EqualsReferenceWhereAMapNeedsSeveralStrips) {
  ConvGeometry g = square(41, 32, 33);
  expect_equal<uint8_t>(g, 1, 127);
  g.batch = 9;
  g.in_h = g.in_w = 9;
  expect_equal<uint8_t>(g, 2, 127);
  g = square(75, 64, 65);
  g.stride_h = g.stride_w = 2;
  expect_equal<uint8_t>(g, 3, 127);
}

/// Every transformed code and weight at its largest: 4 * 255 and 9 * 255, with stride 4 * 255.
void expect_equal_at_extremes(const ConvGeometry& g) {
  std::vector<uint8_t> x(static_cast<size_t>(g.in_h * g.in_w * g.in_c));
  std::vector<int16_t> w(static_cast<size_t>(g.out_c * g.depth()));
  std::vector<int32_t> expected(static_cast<size_t>(g.rows() * g.out_c)), acc(expected.size());
  for (int pattern = 0; pattern < 16; ++pattern) {  // signs by row and column
    for (size_t i = 0; i < x.size(); ++i) {
      const int64_t pixel = static_cast<int64_t>(i) / g.in_c, row = pixel / g.in_w, col = pixel % g.in_w;
      const bool high = ((pattern & 1) != 0 && row % 4 >= 2) != ((pattern & 2) != 0 && col % 4 >= 2);
      x[i] = high ? 255 : 0;
    }
    for (size_t i = 0; i < w.size(); ++i) {
      const int64_t tap = static_cast<int64_t>(i) / g.in_c % 9;
      const bool low = ((pattern & 4) != 0 && tap / 3 == 1) != ((pattern & 8) != 0 && tap % 3 == 1);
      w[i] = low ? -255 : 255;
    }
    for (const int32_t zero_point : {0, 255}) {
      convolve_reference(g, x.data(), zero_point, w.data(), expected.data());
      on_every_target([&] {
        PackedConvolution<uint8_t>(g, w.data(), zero_point).accumulate(x.data(), 1, acc.data());
        EXPECT_EQ(acc, expected) << pattern << " " << zero_point;
      });
    }
  }
}

TEST(IntegerWinograd, ExtremeCodesAndWeights) {
  expect_equal_at_extremes(square(9, 64, 32));
  ConvGeometry strided = square(27, 64, 64);
  strided.stride_h = strided.stride_w = 2;
  ASSERT_TRUE(integer_winograd::serves(strided, 255, 255));
  expect_equal_at_extremes(strided);
}

}  // namespace
}  // namespace qat::ops
