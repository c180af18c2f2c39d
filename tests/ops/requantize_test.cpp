#include "core/ops/requantize.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/base/error.h"
#include "core/ops/convolve.h"
#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

constexpr int64_t kChannels[] = {1, 3, 8, 15, 16, 17, 24, 33, 64, 100};

struct Matrix {
  Matrix(int64_t rows_, int64_t channels_, uint64_t seed) : rows(rows_), channels(channels_) {
    std::mt19937_64 random(seed);
    const auto draw = [&](auto& values, size_t n, auto distribution) {
      values.resize(n);
      for (auto& v : values) v = distribution(random);
    };
    draw(acc, rows * channels, std::uniform_int_distribution<int32_t>(-40000, 40000));
    draw(bias, channels, std::uniform_int_distribution<int32_t>(-3000, 3000));
    draw(multiplier, channels, std::uniform_real_distribution<float>(0.0f, 0.01f));
    draw(offset, channels, std::uniform_real_distribution<float>(-30.0f, 30.0f));
    draw(g, rows * channels, std::normal_distribution<float>());
    draw(inside, (rows * channels + 7) / 8, std::uniform_int_distribution<int>(0, 255));
    draw(kept, rows * channels, std::uniform_int_distribution<int>(-32500, 32500));
    draw(step, channels, std::uniform_real_distribution<float>(0.5f, 2.0f));
    // Values where the steps of the formula show: ties, zero, extremes, integers that float32 rounds.
    const int32_t special[] = {0, 1, -1, INT32_MAX, INT32_MIN, (1 << 24) + 1, (1 << 24) + 3, 500, 1500, -500};
    for (size_t i = 0; i < acc.size(); i += 7) acc[i] = special[i / 7 % std::size(special)];
    multiplier[0] = 0.001f;
    if (channels > 2) multiplier[1] = 0.0f, multiplier[2] = 1e-30f;
    if (channels > 8) multiplier[5] = 1e30f, multiplier[7] = std::numeric_limits<float>::infinity();
  }

  bool bit(int64_t i) const { return (inside[i / 8] >> (i % 8) & 1) != 0; }
  KeptAccumulators exact() const { return {.exact = acc.data()}; }
  KeptAccumulators compacted() const { return {.compact = kept.data(), .middle = bias.data(), .step = step.data()}; }
  float value(const KeptAccumulators& k, int64_t i) const {
    if (k.exact != nullptr) return static_cast<float>(acc[i]);
    const float product = static_cast<float>(kept[i]) * step[i % channels];
    return static_cast<float>(bias[i % channels]) + product;
  }

  int64_t rows, channels;
  std::vector<int32_t> acc, bias;
  std::vector<float> multiplier, offset, g, step;
  std::vector<uint8_t> inside;
  std::vector<int16_t> kept;
};

/// The header's definition for one t, by way of double and the C library's rounding.
template <class Code>
struct Expected {
  Expected(float t, CodeRange r, bool relu) {
    const double lo = r.lo - r.zero_point, hi = r.hi - r.zero_point;
    const double clipped = std::isnan(t) ? lo : std::clamp<double>(t, lo, hi);
    code = static_cast<Code>(std::nearbyint(clipped) + r.zero_point);
    inside = t >= lo && t <= hi && (!relu || t > 0);
  }
  Code code;
  bool inside;
};

template <class Code>
void check_requantize(const Matrix& m, CodeRange range, bool relu, bool with_bias, bool affine) {
  const int64_t n = m.rows * m.channels;
  std::vector<Code> codes(n + 1, 99);
  std::vector<uint8_t> mask((n + 7) / 8 + 1, 0xaa);
  if (affine) {
    requantize_affine(m.acc.data(), m.rows, m.channels, m.multiplier.data(), m.offset.data(), range, codes.data(),
                      mask.data(), relu);
  } else {
    requantize(m.acc.data(), m.rows, m.channels, with_bias ? m.bias.data() : nullptr, m.multiplier.data(), range,
               codes.data(), mask.data(), relu);
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = i % m.channels;
    float t;
    if (affine) {
      t = std::fma(static_cast<float>(m.acc[i]), m.multiplier[c], m.offset[c]);
    } else {
      const uint32_t sum = static_cast<uint32_t>(m.acc[i]) + static_cast<uint32_t>(with_bias ? m.bias[c] : 0);
      t = static_cast<float>(static_cast<int32_t>(sum)) * m.multiplier[c];
    }
    const Expected<Code> expected(t, range, relu);
    ASSERT_EQ(codes[i], expected.code) << "t = " << t << " at " << i << " of " << m.channels << " channels";
    ASSERT_EQ(mask[i / 8] >> (i % 8) & 1, expected.inside) << "t = " << t << " at " << i;
  }
  EXPECT_EQ(codes[n], 99);
  EXPECT_EQ(mask.back(), 0xaa);
  if (n % 8 != 0) {
    EXPECT_EQ(mask[n / 8] >> (n % 8), 0) << "unused bits";
  }
}

TEST(Requantize, EqualsTheFormulaOnEveryTarget) {
  on_every_target([] {
    for (const int64_t channels : kChannels) {
      const Matrix m(37, channels, channels);
      for (const bool relu : {false, true}) {
        for (const bool affine : {false, true}) {
          check_requantize<uint8_t>(m, {0, 255, relu ? 0 : 128}, relu, true, affine);
          check_requantize<uint8_t>(m, {3, 14, 8}, relu, false, affine);
          check_requantize<int8_t>(m, {-128, 127, relu ? -128 : 0}, relu, true, affine);
          check_requantize<int8_t>(m, {-8, 7, 1}, relu, false, affine);
        }
      }
    }
  });
}

TEST(Requantize, TiesGoToEvenAndMaskTestsTheValueNotTheCode) {
  // t = acc / 2 exactly; z = 10, codes 0..20, so t is inside [-10, 10].
  const int32_t acc[] = {1, 3, 5, -1, -3, 20, 21, -20, -21, 0};
  const float half = 0.5f;
  uint8_t codes[10], mask[2];
  requantize(acc, 10, 1, nullptr, &half, {0, 20, 10}, codes, mask, false);
  const uint8_t expected[] = {10, 12, 12, 10, 8, 20, 20, 0, 0, 10};
  EXPECT_TRUE(std::equal(codes, codes + 10, expected));
  EXPECT_EQ(mask[0], 0b10111111);  // 10.5 is outside although its code is 20
  EXPECT_EQ(mask[1], 0b10);        // -10.5 is outside, 0 inside
  requantize(acc, 10, 1, nullptr, &half, {10, 20, 10}, codes, mask, true);
  EXPECT_EQ(mask[0], 0b00100111);  // only t > 0
  EXPECT_EQ(mask[1], 0);           // 0 is not
}

TEST(Requantize, AccumulatorPlusBiasWrapsAndRoundsToEven) {
  const int32_t acc[] = {INT32_MAX, (1 << 24)};
  const int32_t bias[] = {1, 1};
  const float one[] = {1.0f, 1.0f};
  float y[2];
  dequantize_accumulators(acc, 1, 2, bias, one, y);
  EXPECT_EQ(y[0], -0x1p31f);
  EXPECT_EQ(y[1], 0x1p24f);  // 2^24 + 1 ties to the even 2^24
}

TEST(Requantize, AffineIsFusedOnEveryTarget) {
  // (1 + 2^-12)^2 - 1 = 2^-11 + 2^-24: a product rounded first would lose 2^-24. Scaled to be seen in a code.
  on_every_target([] {
    const int32_t acc = 4097;                      // 2^12 (1 + 2^-12)
    const float multiplier = 0x1p8f + 0x1p-4f;     // 2^8 (1 + 2^-12)
    const float offset = -(0x1p20f + 0x1p9f);      // leaves 2^20 * 2^-24 = 1/16
    std::vector<float> offsets = {offset + 0.5f};  // 9/16 rounds to 1, 1/2 would round to 0
    uint8_t code;
    requantize_affine(&acc, 1, 1, &multiplier, offsets.data(), {0, 255, 0}, &code);
    EXPECT_EQ(code, 1);
  });
}

TEST(Requantize, DequantizeAndCompactEqualTheFormulaOnEveryTarget) {
  on_every_target([] {
    for (const int64_t channels : kChannels) {
      const Matrix m(29, channels, channels + 1);
      const int64_t n = m.rows * channels;
      std::vector<float> y(n + 1, -7.0f);
      std::vector<int16_t> kept(n + 1, -7);
      dequantize_accumulators(m.acc.data(), m.rows, channels, m.bias.data(), m.multiplier.data(), y.data());
      compact(m.acc.data(), m.rows, channels, m.bias.data(), m.step.data(), kept.data());
      for (int64_t i = 0; i < n; ++i) {
        const int64_t c = i % channels;
        const auto sum = static_cast<int32_t>(static_cast<uint32_t>(m.acc[i]) + static_cast<uint32_t>(m.bias[c]));
        const auto gap = static_cast<int32_t>(static_cast<uint32_t>(m.acc[i]) - static_cast<uint32_t>(m.bias[c]));
        const float expected = static_cast<float>(sum) * m.multiplier[c];
        ASSERT_TRUE(y[i] == expected || (std::isnan(y[i]) && std::isnan(expected))) << i;
        const float scaled = static_cast<float>(gap) * m.step[c];
        ASSERT_EQ(kept[i], std::clamp(std::nearbyint(scaled), -32768.0f, 32767.0f)) << i;
      }
      EXPECT_EQ(y[n], -7.0f);
      EXPECT_EQ(kept[n], -7);
    }
  });
}

TEST(Requantize, RefusesCodesOutsideTheStorageType) {
  const int32_t acc = 0;
  const float m = 1;
  uint8_t u;
  int8_t s;
  EXPECT_THROW(requantize(&acc, 1, 1, nullptr, &m, {0, 256, 0}, &u), Error);
  EXPECT_THROW(requantize(&acc, 1, 1, nullptr, &m, {-8, 7, 0}, &u), Error);
  EXPECT_THROW(requantize(&acc, 1, 1, nullptr, &m, {-8, 7, 130}, &s), Error);
  EXPECT_THROW(requantize(&acc, 1, 1, nullptr, &m, {7, -8, 0}, &s), Error);
}

TEST(Requantize, EmptyMatrixIsFine) {
  const float m = 1;
  double s1[1] = {5}, s2[1] = {5};
  requantize<uint8_t, int32_t>(nullptr, 0, 1, nullptr, &m, {}, nullptr);
  reduce_gradient(nullptr, nullptr, {}, 0, 1, s1, s2);
  EXPECT_EQ(s1[0], 0.0);
  const ChannelStatistics none = channel_statistics(nullptr, 0, 3);
  for (const auto& sums : {none.sum, none.sum_squares}) EXPECT_EQ(sums, std::vector<double>(3, 0.0));
  for (const auto& bounds : {none.min, none.max}) EXPECT_EQ(bounds, std::vector<int32_t>(3, 0));
}

/// What summing eight terms in float may lose, of the sum of their sizes.
constexpr double kGrouped = 8 * 0x1p-24;

TEST(RequantizeGradient, ReduceEqualsDoubleSumsOnEveryTarget) {
  std::vector<std::vector<double>> bits;  // of the first target
  on_every_target([&] {
    std::vector<std::vector<double>> now;
    for (const int64_t channels : kChannels) {
      const Matrix m(channels == 64 ? 1500 : 101, channels, channels + 2);  // several chunks at 64
      for (const auto& k : {m.exact(), m.compacted(), KeptAccumulators{}}) {
        for (const bool all : {false, true}) {
          std::vector<double> s1(channels, -1), s2(channels, -1);
          std::vector<long double> e1(channels), e2(channels), size1(channels), size2(channels);
          reduce_gradient(m.g.data(), all ? nullptr : m.inside.data(), k, m.rows, channels, s1.data(), s2.data());
          const bool products = k.exact != nullptr || k.compact != nullptr;
          for (int64_t i = 0; i < m.rows * channels; ++i) {
            if (!all && !m.bit(i)) continue;
            const int64_t c = i % channels;
            e1[c] += m.g[i];
            size1[c] += std::abs(m.g[i]);
            if (!products) continue;
            const double middle = k.exact != nullptr ? 0.0 : m.bias[c];
            const double rest = k.exact != nullptr ? static_cast<float>(m.acc[i])
                                                   : static_cast<double>(m.kept[i]) * static_cast<double>(m.step[c]);
            e2[c] += static_cast<long double>(m.g[i]) * (middle + rest);
            size2[c] += std::abs(m.g[i]) * (std::abs(middle) + std::abs(rest));
          }
          for (int64_t c = 0; c < channels; ++c) {
            const double precision = k.exact != nullptr ? 1e-12 : kGrouped;
            EXPECT_NEAR(s1[c], e1[c], precision * static_cast<double>(size1[c]));
            if (products) {
              EXPECT_NEAR(s2[c], e2[c], precision * static_cast<double>(size2[c]));
            } else {
              EXPECT_EQ(s2[c], -1);
            }
          }
          now.push_back(s1);
          now.push_back(s2);
        }
      }
    }
    if (bits.empty()) bits = now;
    EXPECT_EQ(now, bits) << "the sums depend on the vector width";
  });
}

TEST(RequantizeGradient, ReduceSumsEightRowsInFloatAndTheirSumsInDouble) {
  // 1 + 2^-25 is 1 in float: the first row of the first and the last group swallows the others, which the second
  // group's sum in float, 2^-22, must not be. 31 is what remains after the last whole row.
  for (const int64_t rest : {0, 31}) {
    constexpr int64_t kWhole = 20;
    const int64_t channels = 1, rows = kWhole * 32 + rest;
    std::vector<float> g(rows, 0x1p-25f);
    for (int64_t row : {0, 16}) std::fill_n(g.begin() + row * 32, 32, 1.0f);
    const std::vector<int16_t> kept(rows, 3);
    const std::vector<int32_t> exact(rows, 3);
    const int32_t middle = 5;
    const float step = 0.5f;
    const double sum = 64.0 + 32 * 0x1p-22 + static_cast<double>(rest) * 0x1p-25;
    on_every_target([&] {
      double s1 = -1, s2 = -1;
      reduce_gradient(g.data(), nullptr, {}, rows, channels, &s1, nullptr);
      EXPECT_EQ(s1, sum);
      reduce_gradient(g.data(), nullptr, {.exact = exact.data()}, rows, channels, &s1, nullptr);
      EXPECT_EQ(s1, sum);
      reduce_gradient(g.data(), nullptr, {.compact = kept.data(), .middle = &middle, .step = &step}, rows, channels,
                      &s1, &s2);
      EXPECT_EQ(s1, sum);
      EXPECT_EQ(s2, sum * 6.5);
      reduce_gradient(g.data(), nullptr, {.exact = exact.data()}, rows, channels, &s1, &s2);
      const double all = 64.0 + static_cast<double>(rows - 64) * 0x1p-25;
      EXPECT_EQ(s1, all);
      EXPECT_EQ(s2, 3 * all);
    });
  }
}

TEST(RequantizeGradient, BatchNormAndMaskEqualTheFormulaOnEveryTarget) {
  on_every_target([] {
    for (const int64_t channels : kChannels) {
      const Matrix m(41, channels, channels + 3);
      const int64_t n = m.rows * channels;
      std::vector<float> dx(n + 1, -7.0f);
      for (const auto& k : {m.exact(), m.compacted()}) {
        batch_norm_gradient(m.g.data(), m.inside.data(), k, m.rows, channels, m.step.data(), m.offset.data(),
                            m.step.data(), dx.data());
        for (int64_t i = 0; i < n; ++i) {
          const int64_t c = i % channels;
          const float slope = m.bit(i) ? m.step[c] * m.g[i] : 0.0f;
          const float product = m.offset[c] * m.value(k, i);
          const float rest = product + m.step[c];
          ASSERT_EQ(dx[i], slope + rest) << i;
        }
      }
      mask_gradient(m.g.data(), m.inside.data(), n, dx.data());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(dx[i], m.bit(i) ? m.g[i] : 0.0f) << i;
      EXPECT_EQ(dx[n], -7.0f);
    }
  });
}

TEST(RequantizeGradient, ScaleOfEncodeEqualsTheRuleOnEveryTarget) {
  const CodeRange range{3, 250, 120};
  for (const int64_t n : {1, 31, 257, 53 * 100, 70001}) {
    const Matrix m(n, 1, n);
    std::vector<float> x(n);
    for (int64_t i = 0; i < n; ++i) x[i] = 60.0f * m.g[n - 1 - i];
    std::vector<uint8_t> codes(n), mask((n + 7) / 8);
    double expected = 0, size = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float t = x[i] / 0.7f;
      const Expected<uint8_t> e(t, range, false);
      codes[i] = e.code;
      mask[i / 8] |= static_cast<uint8_t>(e.inside << (i % 8));
      const double term = m.g[i] * (e.inside ? static_cast<double>(e.code) - 120.0 - t : e.code - 120.0);
      expected += term;
      size += std::abs(term) + std::abs(m.g[i] * t) * 0x1p-24;
    }
    double bits = 0;
    on_every_target([&] {
      const double sum = encode_scale_gradient(m.g.data(), codes.data(), mask.data(), x.data(), 0.7f, range, n);
      EXPECT_NEAR(sum, expected, 2 * kGrouped * size);
      if (bits == 0) bits = sum;
      EXPECT_EQ(sum, bits) << "the sum depends on the vector width";
    });
    EXPECT_NE(bits, 0.0);
  }
}

TEST(RequantizeGradient, ReduceGivesTheScaleGradientToo) {
  std::vector<double> bits;
  on_every_target([&] {
    std::vector<double> now;
    for (const int64_t channels : kChannels) {
      const Matrix m(channels == 100 ? 700 : 53, channels, channels + 4);
      const int64_t n = m.rows * channels;
      const CodeRange range{118, 133, 120};
      const std::vector<float> multiplier(channels, 0.01f), offset(channels, 3.3f);
      for (const KeptAccumulators& kept : {m.exact(), m.compacted()}) {
        for (const bool affine : {false, true}) {
          std::vector<uint8_t> codes(n), mask((n + 7) / 8), packed(packed_bytes(n));
          double expected = 0, size = 0;
          for (int64_t i = 0; i < n; ++i) {
            const int64_t c = i % channels;
            const double a = kept.exact != nullptr
                                 ? static_cast<float>(m.acc[i])
                                 : m.bias[c] + static_cast<double>(m.kept[i]) * static_cast<double>(m.step[c]);
            const double t = static_cast<double>(0.01f) * a + (affine ? static_cast<double>(3.3f) : 0.0);
            const Expected<uint8_t> e(static_cast<float>(t), range, false);
            codes[i] = e.code;
            mask[i / 8] |= static_cast<uint8_t>(e.inside << (i % 8));
            expected += m.g[i] * (codes[i] - 120 - (e.inside ? t : 0.0));
            size += std::abs(m.g[i]) * (kept.exact != nullptr ? 25 : 25 + 0.01 * 65000);
          }
          ASSERT_TRUE(pack_nibbles(codes.data(), n, range.lo, packed.data()));
          std::vector<double> s1(channels), s2(channels), plain1(channels), plain2(channels);
          double sum = -1, of_packed = -1;
          ScaleGradient request{codes.data(), multiplier.data(), affine ? offset.data() : nullptr, range, &sum};
          reduce_gradient(m.g.data(), mask.data(), kept, m.rows, channels, plain1.data(), plain2.data());
          reduce_gradient(m.g.data(), mask.data(), kept, m.rows, channels, s1.data(), s2.data(), &request);
          EXPECT_EQ(s1, plain1);
          EXPECT_EQ(s2, plain2);
          EXPECT_NEAR(sum, expected, (kept.exact != nullptr ? 1e-13 : kGrouped) * size);
          request.codes = {packed.data(), range.lo}, request.sum = &of_packed;
          reduce_gradient(m.g.data(), mask.data(), kept, m.rows, channels, s1.data(), s2.data(), &request);
          EXPECT_EQ(of_packed, sum);
          now.push_back(sum);
        }
      }
    }
    if (bits.empty()) bits = now;
    EXPECT_EQ(now, bits) << "the sums depend on the vector width";
  });
}

TEST(RequantizeGradient, ReluZerosAddNothing) {
  // t <= 0 under a ReLU has code z: c0 is 0 there and the mask is clear.
  const float g[] = {3.0f, 5.0f}, multiplier = 1.0f;
  const int32_t acc[] = {0, -4};
  const uint8_t codes[] = {7, 7}, mask = 0;
  double s1 = -1, s2 = -1, sum = -1;
  const ScaleGradient scale{codes, &multiplier, nullptr, {7, 255, 7}, &sum};
  reduce_gradient(g, &mask, {.exact = acc}, 2, 1, &s1, &s2, &scale);
  EXPECT_EQ(sum, 0.0);
}

TEST(RequantizeGradient, RefusesContradictingAccumulators) {
  const float g = 1;
  const int32_t exact = 1;
  const int16_t kept = 1;
  double s1, s2;
  EXPECT_THROW(reduce_gradient(&g, nullptr, {.compact = &kept, .exact = &exact}, 1, 1, &s1, &s2), Error);
  EXPECT_THROW(reduce_gradient(&g, nullptr, {.compact = &kept}, 1, 1, &s1, &s2), Error);
  const ScaleGradient scale;
  EXPECT_THROW(reduce_gradient(&g, nullptr, {}, 1, 1, &s1, &s2, &scale), Error);
  EXPECT_THROW(reduce_gradient(&g, nullptr, {.exact = &exact}, 1, 1, &s1, nullptr, &scale), Error);
}

/// Channel by channel, in 128 bits.
void expect_exact(const std::vector<int32_t>& acc, int64_t rows, int64_t channels) {
  const ChannelStatistics s = channel_statistics(acc.data(), rows, channels);
  for (int64_t c = 0; c < channels; ++c) {
    int64_t sum = 0;
    unsigned __int128 squares = 0;
    int32_t min = INT32_MAX, max = INT32_MIN;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t v = acc[r * channels + c];
      sum += v;
      squares += static_cast<unsigned __int128>(v * v);
      min = std::min<int32_t>(min, v);
      max = std::max<int32_t>(max, v);
    }
    ASSERT_EQ(s.sum[c], static_cast<double>(sum)) << "channel " << c << " of " << channels;
    ASSERT_EQ(s.sum_squares[c], static_cast<double>(squares)) << "channel " << c << " of " << channels;
    ASSERT_EQ(s.min[c], min);
    ASSERT_EQ(s.max[c], max);
  }
}

TEST(ChannelStatistics, AreExactOnEveryTarget) {
  on_every_target([&] {
    for (const int64_t channels : kChannels) {
      for (const int bits : {20, 27, 28, 32}) {  // up to the largest values of the vectors' sums, and beyond
        const int64_t rows = channels == 64 ? 5000 : 77;
        std::mt19937 random(channels);
        std::vector<int32_t> acc(rows * channels);
        for (auto& v : acc) v = static_cast<int32_t>(random()) >> (32 - bits);
        expect_exact(acc, rows, channels);
      }
    }
  });
}

TEST(ChannelStatistics, ExtremesAreExactOnEveryTarget) {
  constexpr int64_t kRows = 3000;
  constexpr int32_t kEdge = 1 << 26;
  on_every_target([&] {
    expect_exact(std::vector<int32_t>(40000 * 32, kEdge), 40000, 32);  // more rows than 64 bits hold, on any thread
    for (const int64_t channels : {1, 3, 32}) {
      for (const int32_t value :
           {INT32_MIN, INT32_MIN + 1, INT32_MAX, kEdge, kEdge + 1, -kEdge, -kEdge - 1, 8 * kEdge}) {
        expect_exact(std::vector<int32_t>(kRows * channels, value), kRows, channels);  // sums of squares above 2^64
        // One of them among small ones, in the first, a middle and the last row.
        for (const int64_t row : {int64_t{0}, int64_t{1500}, kRows - 1}) {
          std::vector<int32_t> acc(kRows * channels, -7);
          acc[row * channels + channels / 2] = value;
          expect_exact(acc, kRows, channels);
        }
      }
      // 2^53 + 1 and 2^53 + 3 lie between doubles: one goes down, one up.
      for (const int32_t odd : {1, 3}) {
        std::vector<int32_t> acc(kRows * channels, 0);
        for (int64_t c = 0; c < channels; ++c) {
          acc[c] = acc[channels + c] = kEdge;
          for (int32_t k = 0; k < odd; ++k) acc[(2 + k) * channels + c] = -1;
        }
        expect_exact(acc, kRows, channels);
        EXPECT_EQ(channel_statistics(acc.data(), kRows, channels).sum_squares[0], odd == 1 ? 0x1p53 : 0x1p53 + 4);
      }
    }
  });
}

TEST(RequantizeGradient, SumsDoNotDependOnThreads) {
  const Matrix m(3000, 24, 11);
  std::vector<std::vector<double>> results[2];
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2}) {
    omp_set_num_threads(threads);
    std::vector<double> s1(24), s2(24);
    std::vector<uint8_t> codes(m.acc.size());
    requantize(m.acc.data(), m.rows, 24, m.bias.data(), m.step.data(), {0, 255, 9}, codes.data());
    double scale = 0;
    const ScaleGradient request{codes.data(), m.step.data(), m.offset.data(), {0, 255, 9}, &scale};
    reduce_gradient(m.g.data(), m.inside.data(), m.compacted(), m.rows, 24, s1.data(), s2.data(), &request);
    const auto s = channel_statistics(m.acc.data(), m.rows, 24);
    results[threads - 1] = {s1, s2, {scale}, {codes.begin(), codes.end()}, s.sum, s.sum_squares};
  }
  omp_set_num_threads(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_NE(results[0][2][0], 0.0);
}

}  // namespace
}  // namespace qat::ops
