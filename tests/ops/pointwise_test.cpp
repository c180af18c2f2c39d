#include "core/ops/pointwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

using testing::ElementsAre;

BinaryParams params(float a, float b, float y, int32_t zero_a, int32_t zero_b, CodeRange range) {
  return {.scale_a = a, .scale_b = b, .scale_y = y, .zero_a = zero_a, .zero_b = zero_b, .range = range};
}

template <class Code>
std::vector<Code> random_codes(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Code> codes(n);
  for (Code& c : codes) c = static_cast<Code>(random());
  return codes;
}

template <class Code>
std::vector<int> added(const std::vector<Code>& a, const std::vector<Code>& b, const BinaryParams& p) {
  std::vector<Code> y(a.size());
  add(a.data(), b.data(), static_cast<int64_t>(a.size()), p, y.data());
  return {y.begin(), y.end()};
}

TEST(add, rounds_ties_to_even_after_adding_the_zero_point) {
  // a / 2 + b / 4 (+ z_y): 2, 0.5, 1.5, 2.5, and the same above 101.
  const std::vector<uint8_t> a{3, 1, 3, 5}, b{2, 0, 0, 0};
  EXPECT_THAT(added(a, b, params(0.5f, 0.25f, 1, 0, 0, {0, 255, 0})), ElementsAre(2, 0, 2, 2));
  EXPECT_THAT(added(a, b, params(0.5f, 0.25f, 1, 0, 0, {0, 255, 101})), ElementsAre(103, 102, 102, 104));
}

TEST(add, subtracts_zero_points_and_saturates) {
  // (a - 10) + (b - 20) + 5.
  const std::vector<uint8_t> a{10, 200, 0, 12}, b{20, 200, 0, 21};
  EXPECT_THAT(added(a, b, params(1, 1, 1, 10, 20, {0, 255, 5})), ElementsAre(5, 255, 0, 8));
  EXPECT_THAT(added(a, b, params(1, 1, 1, 10, 20, {0, 15, 5})), ElementsAre(5, 15, 0, 8));
  // (a + 1) + (b - 2) - 3.
  const std::vector<int8_t> c{-1, 127, -128}, d{2, 127, -128};
  EXPECT_THAT(added(c, d, params(1, 1, 1, -1, 2, {-128, 127, -3})), ElementsAre(-3, 127, -128));
}

TEST(add, mask_excludes_exact_zero_only_under_relu) {
  // value = a - 4 (b = 0): -1, 0, 1, 255, 256 -> with lo = z_y = 0, hi = 252.
  const std::vector<uint8_t> a{3, 4, 5, 255, 0}, b{0, 0, 0, 2, 4};
  std::vector<uint8_t> y(5), inside(1);
  const BinaryParams p = params(1, 1, 1, 4, 0, {0, 252, 0});
  add(a.data(), b.data(), 5, p, y.data(), inside.data());
  EXPECT_THAT(y, ElementsAre(0, 0, 1, 252, 0));
  EXPECT_EQ(inside[0], 0b10110);
  add(a.data(), b.data(), 5, p, y.data(), inside.data(), true);
  EXPECT_EQ(inside[0], 0b00100);
}

TEST(add, is_the_written_formula_on_every_target) {
  const auto a = random_codes<uint8_t>(70001, 1), b = random_codes<uint8_t>(70001, 2);
  const BinaryParams p = params(0.0137f, 0.0291f, 0.0355f, 37, 91, {0, 255, 61});
  const float ra = p.scale_a / p.scale_y, rb = p.scale_b / p.scale_y;
  const float product = rb * 91.0f;
  const float f = 61.0f - std::fma(ra, 37.0f, product);
  on_every_target([&] {
    std::vector<uint8_t> y(a.size()), inside((a.size() + 7) / 8);
    add(a.data(), b.data(), static_cast<int64_t>(a.size()), p, y.data(), inside.data());
    int64_t wrong = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const float v = std::fma(static_cast<float>(a[i]), ra, std::fma(static_cast<float>(b[i]), rb, f));
      const float code = std::min(std::max(std::nearbyint(v), 0.0f), 255.0f);
      wrong += static_cast<float>(y[i]) != code || ((inside[i / 8] >> (i % 8)) & 1) != (v >= 0 && v <= 255 ? 1 : 0);
    }
    EXPECT_EQ(wrong, 0);
  });
}

template <class Code>
void check_add(float scale_a, float scale_b, CodeRange range, bool relu) {
  constexpr int64_t kN = 1000;
  const auto a = random_codes<Code>(kN, 21), b = random_codes<Code>(kN, 22);
  const BinaryParams p = params(scale_a, scale_b, 0.5f, 11, -3, range);
  const float ra = scale_a / 0.5f, rb = scale_b / 0.5f;
  const float f = static_cast<float>(range.zero_point) - std::fma(ra, 11.0f, rb * -3.0f);
  on_every_target([&] {
    std::vector<Code> y(kN);
    std::vector<uint8_t> inside((kN + 7) / 8);
    add(a.data(), b.data(), kN, p, y.data(), inside.data(), relu);
    int wrong = 0;
    for (int64_t i = 0; i < kN; ++i) {
      const float v = std::fma(static_cast<float>(a[i]), ra, std::fma(static_cast<float>(b[i]), rb, f));
      const float lo = static_cast<float>(range.lo), hi = static_cast<float>(range.hi);
      const bool in = v >= lo && v <= hi && (!relu || v > lo);
      wrong +=
          static_cast<float>(y[i]) != std::nearbyint(std::clamp(v, lo, hi)) || (inside[i / 8] >> (i % 8) & 1) != in;
    }
    EXPECT_EQ(wrong, 0) << scale_a << " " << scale_b << " [" << range.lo << ", " << range.hi << "] " << relu;
  });
}

TEST(add, equals_its_definition_for_all_ranges_and_sizes_of_scales) {
  // Values beyond int32, on the ends of the range, and everywhere in it.
  for (const auto& [scale_a, scale_b] :
       {std::pair(0.37f, 0.21f), {0.5f, 0.5f}, {1e9f, 1.0f}, {1.0f, 1e30f}, {1e-9f, 1e-3f}}) {
    for (const bool relu : {false, true}) {
      for (const CodeRange& range :
           {CodeRange{0, 255, relu ? 0 : 60}, {3, 200, relu ? 3 : 90}, {0, 15, relu ? 0 : 7}}) {
        check_add<uint8_t>(scale_a, scale_b, range, relu);
      }
      for (const CodeRange& range : {CodeRange{-128, 127, relu ? -128 : 5}, {-8, 7, relu ? -8 : 1}}) {
        check_add<int8_t>(scale_a, scale_b, range, relu);
      }
    }
  }
}

TEST(add, a_relu_with_one_code_has_nothing_inside) {
  const std::vector<uint8_t> a(40, 2), b(40, 3);
  on_every_target([&] {
    std::vector<uint8_t> y(40), inside(5, 0xff);
    add(a.data(), b.data(), 40, params(1, 1, 1, 0, 0, {5, 5, 0}), y.data(), inside.data(), true);
    EXPECT_EQ(y, std::vector<uint8_t>(40, 5));
    EXPECT_EQ(inside, std::vector<uint8_t>(5, 0));
  });
}

TEST(add, the_output_may_be_an_operand) {
  std::vector<uint8_t> a{1, 2, 3, 4}, b{10, 20, 30, 40};
  add(a.data(), b.data(), 4, params(1, 1, 1, 0, 0, {0, 255, 0}), a.data());
  EXPECT_THAT(a, ElementsAre(11, 22, 33, 44));
}

template <class Code>
void check_range(const std::vector<Code>& a, const std::vector<Code>& b, const BinaryParams& p) {
  float lo = 1e30f, hi = -1e30f;
  for (size_t i = 0; i < a.size(); ++i) {
    const float left = p.scale_a * static_cast<float>(a[i] - p.zero_a);
    const float right = p.scale_b * static_cast<float>(b[i] - p.zero_b);
    lo = std::min(lo, left + right);
    hi = std::max(hi, left + right);
  }
  on_every_target([&] {
    const auto range = add_range(a.data(), b.data(), static_cast<int64_t>(a.size()), p);
    EXPECT_EQ(range.first, lo) << p.scale_a << " " << p.scale_b << " " << a.size();
    EXPECT_EQ(range.second, hi) << p.scale_a << " " << p.scale_b << " " << a.size();
  });
}

TEST(add_range, is_that_of_the_real_sums_on_every_target) {
  std::mt19937 random(3);
  const auto drawn = [&](auto code, int64_t n, double spread) {
    using Code = decltype(code);
    std::normal_distribution<double> distribution(std::numeric_limits<Code>::lowest() + 128, spread);
    std::vector<Code> codes(n);
    for (auto& v : codes) {
      v = static_cast<Code>(std::clamp<double>(distribution(random), std::numeric_limits<Code>::lowest(),
                                               std::numeric_limits<Code>::max()));
    }
    return codes;
  };
  for (const int64_t n : {1, 7, 31, 33, 512, 5000, 140001}) {
    // Codes that reach their ends in every block, that spread, and that all are the same.
    for (const double spread : {1000.0, 25.0, 0.0}) {
      for (const auto& [scale_a, scale_b] : {std::pair(0.37f, 0.011f),
                                             {0.011f, 0.37f},
                                             {1.0f, 1.0f},
                                             {0.7071f, 1.0f},
                                             {1e-20f, 1.0f},
                                             {0.1f, 3e-6f},
                                             {0.0391f, 0.0392f}}) {
        const auto a = drawn(uint8_t{}, n, spread), b = drawn(uint8_t{}, n, spread);
        check_range(a, b, params(scale_a, scale_b, 1, 100, 3, {0, 255, 0}));
        const auto c = drawn(int8_t{}, n, spread), d = drawn(int8_t{}, n, spread);
        check_range(c, d, params(scale_a, scale_b, 1, -100, 127, {0, 255, 0}));
      }
    }
  }
}

/// Two sums next to each other among all there are: the lesser one in the first block, the greater one anywhere behind
/// it, and codes at the other end all around. Where whole numbers put the two the other way round, only the tolerance
/// finds it.
template <class Code>
void check_neighbours(float scale_a, float scale_b, std::mt19937& random) {
  constexpr int64_t kN = 4 * 512;
  constexpr Code kLowest = std::numeric_limits<Code>::lowest(), kHighest = std::numeric_limits<Code>::max();
  const BinaryParams p = params(scale_a, scale_b, 1, kLowest + 7, kLowest + 201, {0, 255, 0});
  struct Pair {
    Code a, b;
    float sum;
  };
  std::vector<Pair> pairs(65536);
  for (size_t i = 0; i < pairs.size(); ++i) {
    Pair& pair = pairs[i];
    pair.a = static_cast<Code>(i / 256), pair.b = static_cast<Code>(i % 256);
    const float left = scale_a * static_cast<float>(pair.a - p.zero_a);
    pair.sum = left + scale_b * static_cast<float>(pair.b - p.zero_b);
  }
  std::sort(pairs.begin(), pairs.end(), [](const Pair& x, const Pair& y) { return x.sum < y.sum; });
  for (int trial = 0; trial < 20; ++trial) {
    for (const bool highest : {true, false}) {
      const size_t half = pairs.size() / 2, at = (highest ? half : 0) + random() % (half - 1);
      const Pair &first = pairs[highest ? at : at + 1], &extreme = pairs[highest ? at + 1 : at];
      std::vector<Code> a(kN, static_cast<Code>(highest ? kLowest + 20 : kHighest - 20));
      std::fill_n(a.begin(), 512, highest ? kLowest : kHighest);  // no block behind is looked at for its other end
      std::vector<Code> b = a;
      const size_t one = random() % 512, other = 512 + random() % (kN - 512);
      a[one] = first.a, b[one] = first.b;
      a[other] = extreme.a, b[other] = extreme.b;
      check_range(a, b, p);
    }
  }
}

TEST(add_range, finds_sums_that_differ_by_little_in_any_block) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 12; ++trial) {
    const float ratio = std::exp2(std::uniform_real_distribution<float>(-9, 9)(random));
    check_neighbours<uint8_t>(0.1f, 0.1f * ratio, random);
    check_neighbours<int8_t>(0.1f * ratio, 0.1f, random);
  }
}

TEST(add_broadcast, swaps_the_operands_where_the_first_is_broadcast) {
  constexpr int64_t kBatch = 2, kPixels = 50, kChannels = 5, kSize = kBatch * kPixels * kChannels;
  const auto big = random_codes<int8_t>(kSize, 3), small = random_codes<int8_t>(kBatch * kChannels, 4);
  std::vector<int8_t> spread(kSize), expected(kSize), y(kSize);
  for (int64_t i = 0; i < kSize; ++i) spread[i] = small[i / (kPixels * kChannels) * kChannels + i % kChannels];
  const BinaryParams p = params(0.0137f, 0.0291f, 0.0455f, 37, -91, {-128, 127, 61});

  add(big.data(), spread.data(), kSize, p, expected.data());
  add_broadcast(big.data(), false, small.data(), kBatch, kPixels, kChannels, p, y.data());
  EXPECT_EQ(y, expected);

  const BinaryParams swapped = params(p.scale_b, p.scale_a, p.scale_y, p.zero_b, p.zero_a, p.range);
  add(big.data(), spread.data(), kSize, swapped, expected.data());
  add_broadcast(small.data(), true, big.data(), kBatch, kPixels, kChannels, p, y.data());
  EXPECT_EQ(y, expected);
}

TEST(mul, rounds_after_adding_the_zero_point) {
  // (a - 1)(b - 2) / 2 + z: 7.5, 0.5, -1.5, 1000.
  const std::vector<uint8_t> a{4, 2, 0, 101}, b{7, 3, 5, 22};
  std::vector<uint8_t> y(4);
  mul(a.data(), b.data(), 4, params(1, 0.5f, 1, 1, 2, {0, 255, 0}), y.data());
  EXPECT_THAT(y, ElementsAre(8, 0, 0, 255));
  mul(a.data(), b.data(), 4, params(1, 0.5f, 1, 1, 2, {0, 255, 101}), y.data());
  EXPECT_THAT(y, ElementsAre(108, 102, 100, 255));
}

TEST(mul, rounds_product_and_sum_separately_on_every_target) {
  const auto a = random_codes<int8_t>(20001, 6), b = random_codes<int8_t>(20001, 7);
  const BinaryParams p = params(0.0137f, 0.0291f, 0.0455f, 3, -7, {-128, 127, 11});
  const float scales = p.scale_a * p.scale_b;
  const float m = scales / p.scale_y;
  on_every_target([&] {
    std::vector<int8_t> y(a.size());
    mul(a.data(), b.data(), static_cast<int64_t>(a.size()), p, y.data());
    int64_t wrong = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const float scaled = static_cast<float>((a[i] - 3) * (b[i] + 7)) * m;
      const float sum = scaled + 11.0f;
      wrong += static_cast<float>(y[i]) != std::min(std::max(std::nearbyint(sum), -128.0f), 127.0f);
    }
    EXPECT_EQ(wrong, 0);
  });
}

TEST(mul_broadcast, spreads_the_second_operand_over_the_pixels) {
  const std::vector<uint8_t> a{1, 2, 3, 4, 5, 6, 7, 8}, b{1, 2, 3, 4};  // 2 samples, 2 pixels, 2 channels
  std::vector<uint8_t> y(8);
  mul_broadcast(a.data(), b.data(), 2, 2, 2, params(1, 1, 1, 0, 0, {0, 255, 0}), y.data());
  EXPECT_THAT(y, ElementsAre(1, 4, 3, 8, 15, 24, 21, 32));
}

TEST(relu, is_a_maximum_with_the_zero_point) {
  const std::vector<int8_t> x{-128, -4, -3, -2, 127, 0, 1, 2, -5, 5};
  std::vector<int8_t> y(x.size());
  std::vector<uint8_t> inside(2);
  relu(x.data(), 10, -3, y.data(), inside.data());
  EXPECT_THAT(y, ElementsAre(-3, -3, -3, -2, 127, 0, 1, 2, -3, 5));
  EXPECT_EQ(inside[0], 0b11111000);
  EXPECT_EQ(inside[1], 0b10);
}

TEST(lookup, starts_at_the_lowest_code_of_the_type) {
  std::vector<int16_t> table(256);
  for (int i = 0; i < 256; ++i) table[i] = static_cast<int16_t>(255 - i);
  const std::vector<uint8_t> u{0, 1, 255};
  std::vector<uint8_t> yu(3);
  lookup(u.data(), 3, table.data(), yu.data());
  EXPECT_THAT(yu, ElementsAre(255, 254, 0));
  for (int16_t& t : table) t = static_cast<int16_t>(t - 128);
  const std::vector<int8_t> s{-128, 0, 127};
  std::vector<int8_t> ys(3);
  lookup(s.data(), 3, table.data(), ys.data());
  EXPECT_THAT(ys, ElementsAre(127, -1, -128));
}

TEST(add_scale_gradient, is_the_rounding_error_inside_and_the_bound_outside) {
  // value = a / 2 + b / 2 + 10: 10.5 (code 10), 12 (12), 265 (255, outside), 11.5 (12), range [0, 255], z = 10.
  const std::vector<uint8_t> a{1, 4, 255, 3}, b{0, 0, 255, 0}, y{10, 12, 255, 12};
  const std::vector<float> g{2, 3, 5, 7};
  const std::vector<uint8_t> inside{0b1011};
  const BinaryParams p = params(0.5f, 0.5f, 1, 0, 0, {0, 255, 10});
  // 2 * (10 - 10.5) + 3 * 0 + 5 * (255 - 10) + 7 * (12 - 11.5).
  std::vector<float> dx(4);
  EXPECT_EQ(add_scale_gradient(g.data(), a.data(), b.data(), y.data(), inside.data(), 4, p, dx.data()),
            -1.0 + 1225.0 + 3.5);
  EXPECT_THAT(dx, ElementsAre(2, 3, 0, 7));
}

TEST(add_scale_gradient, sums_eight_steps_in_float_and_their_sums_in_double) {
  // value = a + b, y - value = 1; 1 + 2^-25 is 1 in float, so that the first step of the first and the last eight
  // swallows the others; the second eight make 2^-22.
  for (const int64_t rest : {0, 31}) {
    const int64_t n = 20 * 32 + rest;
    const std::vector<uint8_t> a(n, 3), b(n, 4), y(n, 8);
    std::vector<float> g(n, 0x1p-25f);
    for (int64_t step : {0, 16}) std::fill_n(g.begin() + step * 32, 32, 1.0f);
    const BinaryParams p = params(1, 1, 1, 0, 0, {0, 255, 0});
    on_every_target([&] {
      EXPECT_EQ(add_scale_gradient(g.data(), a.data(), b.data(), y.data(), nullptr, n, p),
                64.0 + 32 * 0x1p-22 + static_cast<double>(rest) * 0x1p-25);
    });
  }
}

TEST(add_scale_gradient, reads_packed_codes_and_masks_the_gradient) {
  constexpr int64_t kN = 9001;
  std::mt19937 random(11);
  std::vector<uint8_t> a(kN), b(kN), y(kN), inside((kN + 7) / 8), packed[3];
  std::vector<float> g(kN);
  for (int64_t i = 0; i < kN; ++i) a[i] = random() % 16, b[i] = 40 + random() % 16, g[i] = 1.0f + random() % 9;
  const BinaryParams p = params(0.3f, 0.2f, 0.25f, 3, 44, {100, 115, 105});
  add(a.data(), b.data(), kN, p, y.data(), inside.data());
  int32_t lo[] = {0, 40, 100};
  StoredCodes stored[3];
  for (int i = 0; i < 3; ++i) {
    packed[i].resize(packed_bytes(kN));
    ASSERT_TRUE(pack_nibbles((i == 0 ? a : i == 1 ? b : y).data(), kN, lo[i], packed[i].data()));
    stored[i] = {packed[i].data(), lo[i]};
  }
  std::vector<float> expected(kN), dx(kN);
  for (int64_t i = 0; i < kN; ++i) expected[i] = (inside[i / 8] >> (i % 8) & 1) != 0 ? g[i] : 0.0f;
  on_every_target([&] {
    EXPECT_EQ(add_scale_gradient(g.data(), stored[0], stored[1], stored[2], inside.data(), kN, p, dx.data()),
              add_scale_gradient(g.data(), a.data(), b.data(), y.data(), inside.data(), kN, p));
    EXPECT_EQ(dx, expected);
  });
}

TEST(add_scale_gradient, has_the_same_bits_for_every_thread_count_and_target) {
  const auto a = random_codes<uint8_t>(100003, 8), b = random_codes<uint8_t>(100003, 9);
  const auto n = static_cast<int64_t>(a.size());
  std::vector<float> g(a.size());
  std::mt19937 random(10);
  for (float& v : g) v = std::normal_distribution<float>()(random);
  const BinaryParams p = params(0.0137f, 0.0291f, 0.0355f, 37, 91, {0, 255, 61});
  std::vector<uint8_t> y(a.size()), inside((a.size() + 7) / 8);
  add(a.data(), b.data(), n, p, y.data(), inside.data());
  const auto gradient = [&] { return add_scale_gradient(g.data(), a.data(), b.data(), y.data(), inside.data(), n, p); };
  const double expected = gradient();
  EXPECT_NE(expected, 0.0);
  const int threads = omp_get_max_threads();
  for (int count : {1, 2, 3, 8}) {
    omp_set_num_threads(count);
    on_every_target([&] { EXPECT_EQ(gradient(), expected) << count << " threads"; });
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace qat::ops
