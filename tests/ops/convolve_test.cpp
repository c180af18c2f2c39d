#include "core/ops/convolve.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "core/base/error.h"
#include "core/ops/requantize.h"
#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

/// Codes, weights and both results of one geometry.
template <class Code>
struct Case {
  Case(const ConvGeometry& geometry, uint64_t seed, int weight_limit = 255, int code_limit = 255) : g(geometry) {
    std::mt19937_64 random(seed);
    constexpr int kLowest = std::numeric_limits<Code>::min();
    zero_point = kLowest + std::min(131, code_limit / 2);
    std::uniform_int_distribution<int> code(kLowest, kLowest + code_limit);
    std::uniform_int_distribution<int> weight(-weight_limit, weight_limit == 128 ? 127 : weight_limit);
    x.resize(g.batch * g.in_h * g.in_w * g.in_c);
    w.resize(g.out_c * g.depth());
    for (auto& v : x) v = static_cast<Code>(code(random));
    for (auto& v : w) v = static_cast<int16_t>(weight(random));
  }

  std::vector<int32_t> fast() const {
    std::vector<int32_t> acc(g.rows() * g.out_c + 1, kUntouched);
    convolve(g, x.data(), zero_point, w.data(), acc.data());
    EXPECT_EQ(acc.back(), kUntouched) << "written behind the end";
    acc.pop_back();
    return acc;
  }
  /// With weights packed for codes up to the largest one that is there.
  std::vector<int32_t> packed() const {
    const int32_t highest = *std::max_element(x.begin(), x.end());
    std::vector<int32_t> acc(g.rows() * g.out_c + 1, kUntouched);
    PackedConvolution<Code>(g, w.data(), zero_point, highest).accumulate(x.data(), g.batch, acc.data());
    EXPECT_EQ(acc.back(), kUntouched) << "written behind the end";
    acc.pop_back();
    return acc;
  }
  std::vector<int32_t> reference() const {
    std::vector<int32_t> acc(g.rows() * g.out_c);
    convolve_reference(g, x.data(), zero_point, w.data(), acc.data());
    return acc;
  }

  static constexpr int32_t kUntouched = 0x5a5a5a5a;
  ConvGeometry g;
  int32_t zero_point;
  std::vector<Code> x;
  std::vector<int16_t> w;
};

std::string describe(const ConvGeometry& g) {
  return fmt::format("input {}x{}x{}x{} outputs {} kernel {}x{} stride {}x{} pads {},{},{},{} dilation {}x{} groups {}",
                     g.batch, g.in_h, g.in_w, g.in_c, g.out_c, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w,
                     g.pad_top, g.pad_left, g.pad_bottom, g.pad_right, g.dilation_h, g.dilation_w, g.groups);
}

void expect_equal(const ConvGeometry& g, uint64_t seed) {
  SCOPED_TRACE(describe(g));
  const Case<uint8_t> u(g, seed);
  const Case<int8_t> s(g, seed);
  const auto expected_u = u.reference(), expected_s = s.reference();
  on_every_target([&] {
    EXPECT_EQ(u.fast(), expected_u);
    EXPECT_EQ(s.fast(), expected_s);
  });
  // Weights and codes of few bits have other kernels.
  for (const auto& [weights, codes] : {std::pair(128, 255), std::pair(63, 255), std::pair(8, 15), std::pair(8, 255)}) {
    const Case<uint8_t> narrow_u(g, seed, weights, codes);
    const Case<int8_t> narrow_s(g, seed, weights, codes);
    const auto narrow_expected_u = narrow_u.reference(), narrow_expected_s = narrow_s.reference();
    on_every_target([&] {
      EXPECT_EQ(narrow_u.packed(), narrow_expected_u) << weights << " " << codes;
      EXPECT_EQ(narrow_s.packed(), narrow_expected_s) << weights << " " << codes;
    });
  }
}

TEST(Convolve, SmallSumByHand) {
  // 1x3 map of one channel, 1x2 kernel {2, -1}, one padded pixel on the left, zero point 10.
  ConvGeometry g{.in_w = 3, .kernel_w = 2, .pad_left = 1};
  const uint8_t x[] = {11, 13, 20};
  const int16_t w[] = {2, -1};
  int32_t acc[3] = {};
  convolve(g, x, 10, w, acc);
  EXPECT_EQ(acc[0], -1);          // padding, 1
  EXPECT_EQ(acc[1], 2 * 1 - 3);   // 1, 3
  EXPECT_EQ(acc[2], 2 * 3 - 10);  // 3, 10
}

TEST(Convolve, EqualsReferenceOnRandomGeometries) {
  std::mt19937_64 random(7);
  const auto draw = [&](int lo, int hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  for (int i = 0; i < 250; ++i) {
    ConvGeometry g{.batch = draw(1, 3), .in_h = draw(1, 13), .in_w = draw(1, 13)};
    g.groups = draw(0, 2) == 0 ? draw(2, 4) : 1;
    g.in_c = g.groups * draw(1, 19);
    g.out_c = g.groups * draw(1, 40);
    g.kernel_h = draw(1, 4), g.kernel_w = draw(1, 4);
    g.stride_h = draw(1, 3), g.stride_w = draw(1, 3);
    g.pad_top = draw(0, 3), g.pad_left = draw(0, 3), g.pad_bottom = draw(0, 3), g.pad_right = draw(0, 3);
    g.dilation_h = draw(1, 2), g.dilation_w = draw(1, 2);
    if (g.in_h + g.pad_top + g.pad_bottom <= g.dilation_h * (g.kernel_h - 1)) continue;
    if (g.in_w + g.pad_left + g.pad_right <= g.dilation_w * (g.kernel_w - 1)) continue;
    expect_equal(g, i);
  }
}

TEST(Convolve, EqualsReferenceOnDepthwise) {
  for (const int64_t channels : {2, 8, 15, 16, 17, 33, 96}) {
    for (const int64_t stride : {1, 2}) {
      for (const int64_t kernel : {1, 3, 5}) {
        ConvGeometry g{.batch = 2,
                       .in_h = 9,
                       .in_w = 7,
                       .in_c = channels,
                       .out_c = channels,
                       .kernel_h = kernel,
                       .kernel_w = kernel,
                       .stride_h = stride,
                       .stride_w = stride,
                       .pad_top = kernel / 2,
                       .pad_left = 1,
                       .pad_bottom = 0,
                       .pad_right = kernel / 2,
                       .groups = channels};
        expect_equal(g, channels);
      }
    }
  }
  // Too many taps for exact float sums, and two outputs a channel.
  expect_equal({.in_h = 18, .in_w = 17, .in_c = 3, .out_c = 3, .kernel_h = 17, .kernel_w = 16, .groups = 3}, 1);
  expect_equal({.in_h = 5, .in_w = 6, .in_c = 5, .out_c = 10, .kernel_h = 3, .kernel_w = 3, .groups = 5}, 2);
}

TEST(Convolve, EqualsReferenceOnPointwiseAndLinear) {
  for (const int64_t pixels : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 23, 24, 25}) {
    for (const int64_t outputs : {1, 7, 8, 9, 16, 17, 24, 31, 32, 33, 48, 49}) {
      expect_equal({.batch = pixels, .in_c = 1 + outputs % 7, .out_c = outputs}, pixels);
    }
  }
  expect_equal({.batch = 2, .in_h = 5, .in_w = 4, .in_c = 144, .out_c = 24}, 3);
  expect_equal({.batch = 2, .in_h = 7, .in_w = 5, .in_c = 20, .out_c = 24, .stride_h = 2, .stride_w = 2}, 4);
}

TEST(Convolve, EqualsReferenceWhereAMapNeedsSeveralStrips) {
  expect_equal({.batch = 1,
                .in_h = 61,
                .in_w = 40,
                .in_c = 37,
                .out_c = 5,
                .kernel_h = 3,
                .kernel_w = 3,
                .stride_h = 2,
                .pad_top = 1,
                .pad_left = 1,
                .pad_bottom = 1,
                .pad_right = 1},
               5);
  expect_equal({.batch = 40,
                .in_h = 8,
                .in_w = 8,
                .in_c = 16,
                .out_c = 16,
                .kernel_h = 3,
                .kernel_w = 3,
                .pad_top = 1,
                .pad_left = 1,
                .pad_bottom = 1,
                .pad_right = 1},
               6);
}

TEST(Convolve, WrapsModulo2To32) {
  ConvGeometry g{.batch = 2, .in_c = 40001, .out_c = 3};
  const std::vector<uint8_t> x(g.batch * g.in_c, 255);
  const std::vector<int16_t> w(g.out_c * g.in_c, 255);
  std::vector<int32_t> acc(g.batch * g.out_c);
  const auto expected = static_cast<int32_t>(40001ll * 255 * 255 - (1ll << 32));
  on_every_target([&] {
    convolve(g, x.data(), 0, w.data(), acc.data());
    EXPECT_EQ(acc, std::vector<int32_t>(6, expected));
  });
}

/// All products at their extremes: sums of int16 halves come as near to overflow as they can.
TEST(PackedConvolution, ExtremeCodesAndWeights) {
  for (const auto& [weight, code] : {std::pair(127, 255), std::pair(-128, 255), std::pair(64, 255), std::pair(-64, 255),
                                     std::pair(127, 127), std::pair(-8, 15), std::pair(7, 255), std::pair(-8, 255)}) {
    const ConvGeometry g{.batch = 2,
                         .in_h = 5,
                         .in_w = 6,
                         .in_c = 200,
                         .out_c = 33,
                         .kernel_h = 3,
                         .kernel_w = 3,
                         .pad_top = 1,
                         .pad_left = 1,
                         .pad_bottom = 1,
                         .pad_right = 1};
    const std::vector<uint8_t> x(g.batch * g.in_h * g.in_w * g.in_c, static_cast<uint8_t>(code));
    const std::vector<int8_t> w(g.out_c * g.depth(), static_cast<int8_t>(weight));
    const std::vector<int16_t> wide(w.begin(), w.end());
    std::vector<int32_t> expected(g.rows() * g.out_c), acc(expected.size());
    convolve_reference(g, x.data(), 0, wide.data(), expected.data());
    on_every_target([&] {
      PackedConvolution<uint8_t>(g, w.data(), 0, code).accumulate(x.data(), g.batch, acc.data());
      EXPECT_EQ(acc, expected) << weight << " " << code;
    });
  }
}

TEST(PackedConvolution, QuadsAreChosenWhereTheyAreExact) {
  if ((hwy::SupportedTargets() & HWY_AVX2) == 0) GTEST_SKIP() << "this machine has no AVX2";
  const auto kernel = [](int weight, int code) {
    const std::vector<int16_t> w(16 * 16, static_cast<int16_t>(weight));
    return std::string(PackedConvolution<uint8_t>({.in_c = 16, .out_c = 16}, w.data(), 0, code).kernel());
  };
  hwy::GetChosenTarget().Update(HWY_AVX2);
  EXPECT_EQ(kernel(64, 255), "quads");   // 2 * 255 * 64 = 32640
  EXPECT_EQ(kernel(-65, 255), "pairs");  // 33150
  EXPECT_EQ(kernel(127, 129), "quads");
  EXPECT_EQ(kernel(127, 130), "pairs");
  EXPECT_EQ(kernel(200, 1), "pairs");  // no int8
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST(PackedConvolution, CodesAreThoseOfRequantize) {
  std::mt19937_64 random(21);
  const auto draw = [&](int lo, int hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  for (int i = 0; i < 60; ++i) {
    ConvGeometry g{.batch = draw(1, 3), .in_h = draw(1, 9), .in_w = draw(1, 9)};
    g.groups = draw(0, 2) == 0 ? draw(2, 4) : 1;
    g.in_c = g.groups * draw(1, 19);
    g.out_c = i % 7 == 0 ? g.in_c : g.groups * draw(1, 90);
    if (i % 7 == 0) g.groups = g.in_c;
    g.kernel_h = g.kernel_w = draw(1, 3);
    g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = 1;
    SCOPED_TRACE(describe(g));
    const Case<uint8_t> c(g, i, 127);
    std::vector<int32_t> bias(g.out_c);
    std::vector<float> multiplier(g.out_c);
    for (auto& b : bias) b = static_cast<int32_t>(draw(-9000, 9000));
    for (auto& m : multiplier) m = 1e-5f * static_cast<float>(draw(1, 900));
    const CodeRange range{.lo = 3, .hi = 250, .zero_point = 100};
    const std::vector<int32_t> acc = c.reference();
    std::vector<uint8_t> expected(acc.size()), codes(acc.size());
    const int before = omp_get_max_threads();
    for (const int threads : {1, 3}) {
      omp_set_num_threads(threads);
      requantize(acc.data(), g.rows(), g.out_c, i % 2 ? bias.data() : nullptr, multiplier.data(), range,
                 expected.data());
      on_every_target([&] {
        const PackedConvolution<uint8_t> packed(g, c.w.data(), c.zero_point);
        packed.requantize(c.x.data(), g.batch, i % 2 ? bias.data() : nullptr, multiplier.data(), range, codes.data());
        EXPECT_EQ(codes, expected);
      });
    }
    omp_set_num_threads(before);
  }
}

TEST(PackedConvolution, WeightsOfFourBitsShrinkToHalf) {
  const ConvGeometry geometries[] = {
      {.batch = 2,
       .in_h = 9,
       .in_w = 11,
       .in_c = 20,
       .out_c = 50,
       .kernel_h = 3,
       .kernel_w = 3,
       .pad_top = 1,
       .pad_left = 1},
      {.batch = 3, .in_h = 14, .in_w = 14, .in_c = 64, .out_c = 70},
      {.batch = 1, .in_h = 8, .in_w = 8, .in_c = 12, .out_c = 36, .kernel_h = 3, .kernel_w = 3, .groups = 3},
      {.batch = 1, .in_c = 500, .out_c = 300}};
  on_every_target([&] {
    for (const ConvGeometry& g : geometries) {
      const Case<uint8_t> c(g, 5, 7);
      PackedConvolution<uint8_t> packed(g, c.w.data(), c.zero_point);
      if (std::string(packed.kernel()) != "quads") continue;  // needs AVX2
      const int64_t before = packed.bytes();
      packed.shrink();
      EXPECT_LT(packed.bytes(), before * 3 / 5);
      std::vector<int32_t> acc(g.rows() * g.out_c);
      packed.accumulate(c.x.data(), g.batch, acc.data());
      EXPECT_EQ(acc, c.reference());
      packed.shrink();  // nothing is left to do
      packed.accumulate(c.x.data(), g.batch, acc.data());
      EXPECT_EQ(acc, c.reference());
    }
    const Case<uint8_t> wide(geometries[1], 6, 100);
    PackedConvolution<uint8_t> packed(wide.g, wide.w.data(), wide.zero_point);
    const int64_t before = packed.bytes();
    packed.shrink();
    EXPECT_EQ(packed.bytes(), before) << "weights of eight bits stay";
  });
}

TEST(Convolve, DoesNotDependOnThreads) {
  const Case<uint8_t> c({.batch = 3, .in_h = 20, .in_w = 20, .in_c = 24, .out_c = 40, .kernel_h = 3, .kernel_w = 3}, 9);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = c.fast();
  omp_set_num_threads(3);
  const auto three = c.fast();
  omp_set_num_threads(before);
  EXPECT_EQ(one, three);
  EXPECT_EQ(one, c.reference());
}

TEST(Convolve, EmptyBatchWritesNothing) {
  const int16_t w[] = {1, 1};
  int32_t acc = 77;
  convolve<uint8_t>({.batch = 0, .in_c = 2}, nullptr, 0, w, &acc);
  EXPECT_EQ(acc, 77);
}

TEST(Convolve, RefusesImpossibleGeometries) {
  const uint8_t x[4] = {};
  const int16_t w[16] = {};
  int32_t acc[4];
  EXPECT_THROW(convolve<uint8_t>({.in_h = 2, .kernel_h = 3}, x, 0, w, acc), Error);
  EXPECT_THROW(convolve<uint8_t>({.in_c = 3, .out_c = 2, .groups = 2}, x, 0, w, acc), Error);
  EXPECT_THROW(convolve<uint8_t>({.stride_w = 0}, x, 0, w, acc), Error);
  EXPECT_THROW(convolve<uint8_t>({}, x, -1, w, acc), Error);
}

}  // namespace
}  // namespace qat::ops
