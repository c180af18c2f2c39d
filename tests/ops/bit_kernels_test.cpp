// Convolutions of two-valued codes with signs: the accumulators and codes of the definition.
#include "core/ops/bit_kernels.h"

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

TEST(BitKernels, GatherSetsTheBitsOfCodesThatAreNotZero) {
  std::vector<uint8_t> x(128, 0);
  for (const size_t i : {0, 7, 8, 31, 32, 63, 64, 127}) x[i] = i % 2 == 0 ? 1 : 255;
  on_every_target([&] {
    uint64_t bits[2] = {};
    kernels::gather_bits(x.data(), 128, bits);
    EXPECT_EQ(bits[0], 0x8000000180000181u);
    EXPECT_EQ(bits[1], 0x8000000000000001u);
  });
}

TEST(BitKernels, ServeTwoCodesAndSigns) {
  if ((hwy::SupportedTargets() & HWY_AVX2) == 0) GTEST_SKIP() << "this machine has no AVX2";
  const auto kernel = [](int64_t channels, int16_t weight, int32_t zero_point, int32_t highest) {
    std::vector<int16_t> w(static_cast<size_t>(channels * 16), weight);
    w[0] = -1;
    return std::string(
        PackedConvolution<uint8_t>({.in_c = channels, .out_c = 16}, w.data(), zero_point, highest).kernel());
  };
  EXPECT_EQ(kernel(64, 1, 0, 1), "bits");
  EXPECT_EQ(kernel(64, 1, 1, 1), "bits");
  EXPECT_EQ(kernel(64, 1, 2, 1), "quads");  // padding would hold 2
  EXPECT_EQ(kernel(64, 1, 0, 2), "quads");
  EXPECT_EQ(kernel(64, 0, 0, 1), "quads");  // ternary
  EXPECT_EQ(kernel(64, 2, 0, 1), "quads");
  EXPECT_EQ(kernel(32, 1, 0, 1), "quads");  // half a word
}

template <class Code>
void expect_equal(const ConvGeometry& g, uint64_t seed) {
  std::mt19937_64 random(seed);
  constexpr int kLowest = std::numeric_limits<Code>::min();
  const auto draw = [&](int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(random); };
  const int32_t zero_point = kLowest + draw(0, 1);
  std::vector<Code> x(static_cast<size_t>(g.batch * g.in_h * g.in_w * g.in_c));
  std::vector<int16_t> w(static_cast<size_t>(g.out_c * g.depth()));
  std::vector<int32_t> bias(static_cast<size_t>(g.out_c));
  std::vector<float> multiplier(bias.size());
  for (Code& v : x) v = static_cast<Code>(kLowest + draw(0, 1));
  for (int16_t& v : w) v = static_cast<int16_t>(2 * draw(0, 1) - 1);
  for (int32_t& v : bias) v = draw(-90, 90);
  for (float& v : multiplier) v = 1e-2f * static_cast<float>(draw(1, 300));
  const CodeRange range{.lo = kLowest, .hi = kLowest + 200, .zero_point = kLowest + 100};
  std::vector<int32_t> expected(static_cast<size_t>(g.rows() * g.out_c)), acc(expected.size() + 1);
  std::vector<Code> expected_codes(expected.size()), codes(expected.size() + 1);
  convolve_reference(g, x.data(), zero_point, w.data(), expected.data());
  requantize(expected.data(), g.rows(), g.out_c, bias.data(), multiplier.data(), range, expected_codes.data());
  on_every_target([&] {
    const PackedConvolution<Code> packed(g, w.data(), zero_point, kLowest + 1);
    EXPECT_TRUE(vector_target() != "AVX2" || packed.kernel() == std::string("bits")) << packed.kernel();
    acc.assign(acc.size(), 77);
    packed.accumulate(x.data(), g.batch, acc.data());
    EXPECT_EQ(acc.back(), 77) << "written behind the end";
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), acc.begin()));
    codes.assign(codes.size(), 77);
    packed.requantize(x.data(), g.batch, bias.data(), multiplier.data(), range, codes.data());
    EXPECT_EQ(codes.back(), 77) << "written behind the end";
    EXPECT_TRUE(std::equal(expected_codes.begin(), expected_codes.end(), codes.begin()));
  });
}

TEST(BitKernels, EqualReferenceOnRandomGeometries) {
  std::mt19937_64 random(13);
  const auto draw = [&](int lo, int hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  const int before = omp_get_max_threads();
  for (uint64_t i = 0; i < 40; ++i) {
    ConvGeometry g{.batch = draw(1, 3), .in_h = draw(3, 12), .in_w = draw(3, 12)};
    g.in_c = 64 * draw(1, i % 8 == 0 ? 5 : 2);  // 45 words: more than a byte can count
    g.out_c = draw(1, 70);
    g.kernel_h = draw(1, 3), g.kernel_w = draw(1, 3);
    g.stride_h = draw(1, 2), g.stride_w = draw(1, 2);
    g.pad_top = draw(0, 2), g.pad_left = draw(0, 2), g.pad_bottom = draw(0, 2), g.pad_right = draw(0, 2);
    g.dilation_w = i % 5 == 0 && g.in_w >= 5 ? 2 : 1;
    SCOPED_TRACE(fmt::format("seed {}: {}x{}x{}x{} to {}, kernel {}x{}", i, g.batch, g.in_h, g.in_w, g.in_c, g.out_c,
                             g.kernel_h, g.kernel_w));
    omp_set_num_threads(i % 3 == 0 ? 3 : 1);
    expect_equal<uint8_t>(g, i);
    expect_equal<int8_t>(g, i);
  }
  omp_set_num_threads(before);
  expect_equal<uint8_t>({.batch = 5, .in_c = 4096, .out_c = 33}, 1);  // a linear layer
}

}  // namespace
}  // namespace qat::ops
