// Sums in an order of the GPU's own: against sums in long double, and exactly where float holds all that is summed.
#include "core/ops/cuda/reduce_gradient.h"

#include <algorithm>

#include "core/base/error.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaReduceGradient : public GpuTest {};

constexpr int32_t kZeroPoint = 120;
constexpr double kFactor = 0.037;

/// Remainders of rows and channels, one share and many of them, more groups of channels than blocks.
struct Shape {
  int64_t rows, channels;
};
constexpr Shape kShapes[] = {{1, 1},     {5, 3},    {101, 17},  {37, 100},  {70001, 1}, {9000, 12}, {3000, 64},
                             {4097, 16}, {9001, 8}, {5000, 24}, {33, 2047}, {3, 1025},  {130, 512}, {1003, 40},
                             {3, 8500},  {2, 8512}, {2049, 32}, {1, 64},    {63, 32}};

/// whole: small integers, whose sums are exact in any order.
struct Matrix {
  Matrix(const Shape& shape, bool whole) : rows(shape.rows), channels(shape.channels), n(rows * channels) {
    const auto seed = static_cast<uint64_t>(rows + channels);
    if (whole) {
      const auto few = [](int limit) { return std::uniform_int_distribution<int>(-limit, limit); };
      g = drawn<float>(n, seed, few(8));
      acc = drawn<int32_t>(n, seed + 1, few(500));
      kept = drawn<int16_t>(n, seed + 2, few(500));
      step = drawn<float>(channels, seed + 3, few(3));
      multiplier = drawn<float>(channels, seed + 4, few(3));
      offset = drawn<float>(channels, seed + 5, few(30));
    } else {
      g = drawn<float>(n, seed, std::normal_distribution<float>());
      acc = drawn<int32_t>(n, seed + 1, std::uniform_int_distribution<int32_t>(-40000000, 40000000));
      kept = drawn<int16_t>(n, seed + 2, std::uniform_int_distribution<int>(-32768, 32767));
      step = drawn<float>(channels, seed + 3, std::uniform_real_distribution<float>(0.5f, 2.0f));
      multiplier = drawn<float>(channels, seed + 4, std::uniform_real_distribution<float>(0.0f, 0.01f));
      offset = drawn<float>(channels, seed + 5, std::uniform_real_distribution<float>(-30.0f, 30.0f));
    }
    middle = drawn<int32_t>(channels, seed + 6, std::uniform_int_distribution<int32_t>(-3000, 3000));
    inside = drawn_codes<uint8_t>((n + 7) / 8, seed + 7);
    codes = drawn_codes<uint8_t>(n, seed + 8);
  }
  int64_t rows, channels, n;
  std::vector<float> g, step, multiplier, offset;
  std::vector<int32_t> acc, middle;
  std::vector<int16_t> kept;
  std::vector<uint8_t> inside, codes;
};

enum class Kept { kNothing, kCompact, kExact };

struct DeviceMatrix {
  DeviceMatrix(const Matrix& m, int64_t shift)
      : rows(m.rows),
        channels(m.channels),
        g(m.g, shift),
        step(m.step, shift),
        multiplier(m.multiplier, shift),
        offset(m.offset, shift),
        acc(m.acc, shift),
        middle(m.middle, shift),
        kept(m.kept, shift),
        inside(m.inside, shift),
        codes(m.codes, shift),
        zero_point({kZeroPoint}),
        arrived(std::vector<int32_t>(static_cast<size_t>(reduce_gradient_counters(m.channels)))),
        bytes(static_cast<int64_t>(reduce_gradient_scratch(m.rows, m.channels))) {}

  LayerGradient layer(Kept how, bool masked) const {
    LayerGradient result{rows, channels, g.data(), masked ? inside.data() : nullptr, {}};
    if (how == Kept::kCompact) result.kept = {.compact = kept.data(), .middle = middle.data(), .step = step.data()};
    if (how == Kept::kExact) result.kept.exact = acc.data();
    return result;
  }
  ScaleGradient scale(bool affine, double factor, float* gradient) const {
    return {codes.data(), multiplier.data(), affine ? offset.data() : nullptr, zero_point.data(), factor, gradient};
  }
  ReduceScratch scratch() const { return {bytes.data(), arrived.data()}; }
  /// Nothing around the scratch memory was written, and the counters are zeros again.
  void expect_left() const {
    bytes.host();
    expect_equal(arrived.host(), std::vector<int32_t>(static_cast<size_t>(reduce_gradient_counters(channels))));
  }

  int64_t rows, channels;
  Array<float> g, step, multiplier, offset;
  Array<int32_t> acc, middle;
  Array<int16_t> kept;
  Array<uint8_t> inside, codes;
  Array<int32_t> zero_point, arrived;
  Array<char> bytes;
};

std::string describe(const Matrix& m, Kept how, bool masked) {
  return fmt::format("{} x {}, kept {}, masked {}", m.rows, m.channels, static_cast<int>(how), masked);
}

/// A sum and how far from it the kernel's may be.
struct Sum {
  long double value = 0, bound = 0;
};

struct Expected {
  std::vector<Sum> s1, s2;
  Sum scale;
};

Expected expected_sums(const Matrix& m, Kept how, bool masked, bool affine) {
  // Four rows, or eight products with codes, in float; one rounding each. In double about a hundred.
  const long double in_double = 1e-14L, in_float = how == Kept::kExact ? 0.0L : std::ldexp(1.0L, -24);
  Expected e{std::vector<Sum>(m.channels), std::vector<Sum>(m.channels), {}};
  std::vector<Sum> products(m.channels);
  Sum errors;
  for (int64_t i = 0; i < m.n; ++i) {
    const int64_t c = i % m.channels;
    const long double g = m.g[i], code = m.codes[i] - kZeroPoint;
    errors.value += g * code, errors.bound += std::fabs(g * code);
    if (masked && ((m.inside[i / 8] >> (i % 8)) & 1) == 0) continue;
    // An accumulator is read as a float.
    const long double a = how == Kept::kExact ? static_cast<float>(m.acc[i]) : static_cast<float>(m.kept[i]);
    e.s1[c].value += g, e.s1[c].bound += std::fabs(g);
    products[c].value += g * a, products[c].bound += std::fabs(g * a);
  }
  e.scale = {errors.value, errors.bound * (8 * in_float + in_double)};
  for (int64_t c = 0; c < m.channels; ++c) {
    e.s1[c].bound *= 4 * in_float + in_double;
    products[c].bound *= 4 * in_float + in_double;
    const long double middle = how == Kept::kExact ? 0 : m.middle[c], step = how == Kept::kExact ? 1 : m.step[c];
    e.s2[c].value = middle * e.s1[c].value + step * products[c].value;
    e.s2[c].bound = std::fabs(middle) * e.s1[c].bound + std::fabs(step) * products[c].bound +
                    in_double * (std::fabs(middle * e.s1[c].value) + std::fabs(step * products[c].value));
    const long double multiplier = m.multiplier[c], offset = affine ? m.offset[c] : 0.0f;
    e.scale.value -= multiplier * e.s2[c].value + offset * e.s1[c].value;
    e.scale.bound += std::fabs(multiplier) * e.s2[c].bound + std::fabs(offset) * e.s1[c].bound +
                     in_double * (std::fabs(multiplier * e.s2[c].value) + std::fabs(offset * e.s1[c].value));
  }
  return e;
}

void expect_near(const std::vector<double>& gpu, const std::vector<Sum>& sums, bool whole) {
  for (size_t c = 0; c < sums.size(); ++c) {
    const long double difference = std::fabs(gpu[c] - sums[c].value);
    if (!(difference <= (whole ? 0.0L : sums[c].bound))) {
      FAIL() << "channel " << c << ": " << gpu[c] << " instead of " << static_cast<double>(sums[c].value);
    }
  }
}

class CudaReduceGradientSums : public CudaReduceGradient, public testing::WithParamInterface<bool> {};

TEST_P(CudaReduceGradientSums, ByChannel) {
  const bool whole = GetParam();
  for (const Shape& shape : kShapes) {
    const Matrix m(shape, whole);
    const DeviceMatrix aligned(m, 0), shifted(m, 1);
    for (const Kept how : {Kept::kNothing, Kept::kCompact, Kept::kExact}) {
      for (const bool masked : {false, true}) {
        SCOPED_TRACE(describe(m, how, masked));
        const Expected expected = expected_sums(m, how, masked, false);
        const Array<double> s1(m.channels), s2(m.channels), again1(m.channels), again2(m.channels);
        const bool products = how != Kept::kNothing;
        const LayerGradients sums{.s1 = s1.data(), .s2 = products ? s2.data() : nullptr};
        const LayerGradients again{.s1 = again1.data(), .s2 = products ? again2.data() : nullptr};
        reduce_gradient(aligned.layer(how, masked), {}, sums, {}, aligned.scratch(), nullptr);
        reduce_gradient(aligned.layer(how, masked), {}, again, {}, aligned.scratch(), nullptr);
        expect_near(s1.host(), expected.s1, whole);
        expect_equal(again1.host(), s1.host());
        if (products) expect_near(s2.host(), expected.s2, whole);
        if (products) expect_equal(again2.host(), s2.host());
        reduce_gradient(shifted.layer(how, masked), {}, again, {}, shifted.scratch(), nullptr);
        expect_equal(again1.host(), s1.host());
        if (products) expect_equal(again2.host(), s2.host());
        if (HasFailure()) return;
      }
    }
    aligned.expect_left();
    shifted.expect_left();
  }
}

void expect_scale_gradient(const Matrix& m, const DeviceMatrix& d, Kept how, bool masked, bool affine, bool whole) {
  SCOPED_TRACE(describe(m, how, masked));
  const Expected expected = expected_sums(m, how, masked, affine);
  const Array<double> s1(m.channels), s2(m.channels);
  const Array<float> gradient(1), again(1);
  const LayerGradient layer = d.layer(how, masked);
  reduce_gradient(layer, {}, {.s1 = s1.data(), .s2 = s2.data()}, d.scale(affine, kFactor, gradient.data()), d.scratch(),
                  nullptr);
  reduce_gradient(layer, {}, {}, d.scale(affine, kFactor, again.data()), d.scratch(), nullptr);
  expect_near(s1.host(), expected.s1, whole);
  expect_near(s2.host(), expected.s2, whole);
  const auto value = static_cast<double>(expected.scale.value);
  if (whole) {
    EXPECT_EQ(gradient.host()[0], static_cast<float>(value * kFactor));
  } else {
    const double rounding = std::fabs(value) * std::ldexp(1.0, -24);
    EXPECT_NEAR(gradient.host()[0], value * kFactor, (static_cast<double>(expected.scale.bound) + rounding) * kFactor);
  }
  expect_equal(again.host(), gradient.host());
  d.expect_left();
}

TEST_P(CudaReduceGradientSums, OfAScale) {
  for (const Shape& shape : kShapes) {
    const Matrix m(shape, GetParam());
    const DeviceMatrix aligned(m, 0), shifted(m, 1);
    for (const Kept how : {Kept::kCompact, Kept::kExact}) {
      for (const bool masked : {false, true}) {
        expect_scale_gradient(m, aligned, how, masked, masked, GetParam());
        expect_scale_gradient(m, shifted, how, masked, !masked, GetParam());
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(CudaReduceGradientSums, OfMoreRowsThanAThreadReadsAtOnce) {
  const Matrix m({1100, 2112}, GetParam());
  for (const int64_t shift : {0, 1}) {
    const DeviceMatrix d(m, shift);
    for (const Kept how : {Kept::kCompact, Kept::kExact}) expect_scale_gradient(m, d, how, true, true, GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaReduceGradientSums, testing::Bool(),
                         [](const auto& whole) { return std::string(whole.param ? "Exact" : "Bounded"); });

/// Results in the order of LayerGradients, but for the sums.
constexpr int kResults = 7;

/// `only` of the results in out [kResults][channels], or all of them (-1).
LayerGradients results(const Array<float>& out, int64_t channels, int only) {
  const auto wanted = [&](int i) { return only < 0 || only == i ? out.data() + i * channels : nullptr; };
  return {nullptr, nullptr, wanted(0), wanted(1), wanted(2), wanted(3), wanted(4), wanted(5), wanted(6)};
}

/// What the sums are multiplied with, here and on the device.
struct Factors {
  explicit Factors(int64_t channels) {
    const auto values = [&](uint64_t seed) {
      return drawn<double>(channels, seed, std::normal_distribution<double>(0.0, 9.0));
    };
    p = values(1), q = values(2), gain = values(3), k = values(4), weight_factor = values(5);
    scale_ran = drawn<float>(channels, 6, std::uniform_real_distribution<float>(1e-3f, 1e-2f));
  }
  std::vector<double> p, q, gain, k, weight_factor;
  std::vector<float> scale_ran;
  float scale_x = 0.013f;
};

struct DeviceFactors {
  explicit DeviceFactors(const Factors& f)
      : p(f.p, 1),
        q(f.q, 1),
        gain(f.gain, 1),
        k(f.k, 1),
        weight_factor(f.weight_factor, 1),
        scale_ran(f.scale_ran, 1),
        scale_x({f.scale_x}) {}
  LayerFactors folded(bool with_factor) const {
    return {.k = k.data(),
            .scale_x = scale_x.data(),
            .weight_factor = with_factor ? weight_factor.data() : nullptr,
            .scale_ran = scale_ran.data()};
  }
  LayerFactors live(bool running_statistics) const {
    LayerFactors result = folded(true);
    result.p = p.data(), result.q = q.data(), result.gain = gain.data(), result.k = nullptr;
    result.running_statistics = running_statistics;
    return result;
  }
  Array<double> p, q, gain, k, weight_factor;
  Array<float> scale_ran, scale_x;
};

constexpr Shape kFinishedShapes[] = {{1, 1}, {2, 255}, {1000, 64}, {12544, 3}, {77, 1000}};

TEST_F(CudaReduceGradient, GivesTheGradientsOfALiveBatchNorm) {
  for (const Shape& shape : kFinishedShapes) {
    const Matrix m(shape, false);
    const DeviceMatrix d(m, 0);
    const Factors f(m.channels);
    const DeviceFactors on_device(f);
    for (const bool running : {false, true}) {
      SCOPED_TRACE(fmt::format("{} x {}, running statistics {}", m.rows, m.channels, running));
      const Array<double> sums1(m.channels), sums2(m.channels);
      const LayerGradient layer = d.layer(Kept::kCompact, true);
      reduce_gradient(layer, {}, {.s1 = sums1.data(), .s2 = sums2.data()}, {}, d.scratch(), nullptr);
      const std::vector<double> s1 = sums1.host(), s2 = sums2.host();
      std::vector<float> expected[kResults];
      for (int64_t c = 0; c < m.channels; ++c) {
        const double dgamma = f.p[c] * s2[c] + f.q[c] * s1[c], per_row = 1.0 / static_cast<double>(m.rows);
        expected[0].push_back(static_cast<float>(f.gain[c]));
        expected[1].push_back(running ? 0.0f : static_cast<float>(-f.gain[c] * f.p[c] * dgamma * per_row));
        expected[2].push_back(running ? 0.0f : static_cast<float>(-f.gain[c] * (s1[c] + f.q[c] * dgamma) * per_row));
        expected[3].push_back(static_cast<float>(dgamma));
        expected[4].push_back(static_cast<float>(s1[c]));
        expected[5].push_back(static_cast<float>(s1[c] * ((running ? 1.0 : 0.0) * f.gain[c])));
        expected[6].push_back(static_cast<float>(f.scale_x * f.weight_factor[c]) / f.scale_ran[c]);
      }
      const LayerFactors factors = on_device.live(running);
      for (int only = -1; only < kResults; ++only) {  // all together, and each alone
        const Array<float> out(kResults * m.channels);
        reduce_gradient(layer, factors, results(out, m.channels, only), {}, d.scratch(), nullptr);
        const std::vector<float> made = out.host();
        for (int i = 0; i < kResults; ++i) {
          if (only >= 0 && only != i) continue;
          expect_equal({made.begin() + i * m.channels, made.begin() + (i + 1) * m.channels}, expected[i]);
        }
      }
    }
    d.expect_left();
  }
}

TEST_F(CudaReduceGradient, GivesTheGradientsOfAFoldedLayer) {
  for (const Shape& shape : kFinishedShapes) {
    const Matrix m(shape, false);
    const DeviceMatrix d(m, 0);
    const Factors f(m.channels);
    const DeviceFactors on_device(f);
    SCOPED_TRACE(fmt::format("{} x {}", m.rows, m.channels));
    const Array<double> sums(m.channels);
    const LayerGradient layer = d.layer(Kept::kNothing, true);
    reduce_gradient(layer, {}, {.s1 = sums.data()}, {}, d.scratch(), nullptr);
    const std::vector<double> s1 = sums.host();
    std::vector<float> dbeta, dbias, factor, plain;
    for (int64_t c = 0; c < m.channels; ++c) {
      dbeta.push_back(static_cast<float>(s1[c]));
      dbias.push_back(static_cast<float>(s1[c] * f.k[c]));
      factor.push_back(static_cast<float>(f.scale_x * f.weight_factor[c]) / f.scale_ran[c]);
      plain.push_back(f.scale_x / f.scale_ran[c]);
    }
    const Array<float> beta(m.channels), bias(m.channels), made(m.channels), beta_alone(m.channels);
    reduce_gradient(layer, on_device.folded(true),
                    {.dbeta = beta.data(), .dbias = bias.data(), .weight_factor = made.data()}, {}, d.scratch(),
                    nullptr);
    reduce_gradient(layer, {}, {.dbeta = beta_alone.data()}, {}, d.scratch(), nullptr);
    expect_equal(beta.host(), dbeta);
    expect_equal(beta_alone.host(), dbeta);
    expect_equal(bias.host(), dbias);
    expect_equal(made.host(), factor);
    // A factor alone needs no gradient.
    const Array<float> alone(m.channels);
    reduce_gradient({.rows = m.rows, .channels = m.channels}, on_device.folded(false), {.weight_factor = alone.data()},
                    {}, d.scratch(), nullptr);
    expect_equal(alone.host(), plain);
    d.expect_left();
  }
}

TEST_F(CudaReduceGradient, EmptyMatrices) {
  const Matrix m({0, 3}, false);
  const DeviceMatrix d(m, 0);
  const Array<double> s1(3), s2(3);
  const Array<float> dbeta(3), gradient(1), of_nothing(1);
  reduce_gradient(d.layer(Kept::kExact, true), {}, {.s1 = s1.data(), .s2 = s2.data(), .dbeta = dbeta.data()},
                  d.scale(true, 1.0, gradient.data()), d.scratch(), nullptr);
  expect_equal(s1.host(), {0.0, 0.0, 0.0});
  expect_equal(s2.host(), {0.0, 0.0, 0.0});
  expect_equal(dbeta.host(), {0.0f, 0.0f, 0.0f});
  EXPECT_EQ(gradient.host()[0], 0.0f);
  d.expect_left();

  const DeviceMatrix none(Matrix({7, 0}, false), 0);
  reduce_gradient(none.layer(Kept::kExact, false), {}, {.s1 = s1.data()}, none.scale(false, 1.0, of_nothing.data()),
                  none.scratch(), nullptr);
  expect_equal(of_nothing.host(), {0.0f});
  reduce_gradient(none.layer(Kept::kNothing, false), {}, {.s1 = s1.data()}, {}, none.scratch(), nullptr);
  none.expect_left();
}

TEST(CudaReduceGradientArguments, RefusesContradictions) {
  const int32_t exact = 1;
  const int16_t kept = 1;
  float number = 1;
  double sum = 0;
  const KeptAccumulators both{.compact = &kept, .exact = &exact}, whole{.exact = &exact};
  const LayerFactors live{.p = &sum, .q = &sum, .gain = &sum};
  const auto refuses = [](const LayerGradient& layer, const LayerFactors& factors, const LayerGradients& gradients,
                          const ScaleGradient& scale) {
    alignas(16) char bytes[1024];
    int32_t arrived[4] = {};
    EXPECT_THROW(reduce_gradient(layer, factors, gradients, scale, {bytes, arrived}, nullptr), Error);
  };
  refuses({.rows = 1, .channels = 1, .kept = both}, {}, {.s1 = &sum}, {});
  refuses({.rows = 1, .channels = 1, .kept = {.compact = &kept}}, {}, {.s1 = &sum}, {});
  refuses({.rows = 1, .channels = 1}, {}, {.s2 = &sum}, {});
  refuses({.rows = 1, .channels = 1}, live, {.dgamma = &number}, {});
  refuses({.rows = 1, .channels = 1}, {}, {}, {.gradient = &number});
  refuses({.rows = 0, .channels = 1, .kept = whole}, live, {.b = &number}, {});
  refuses({.rows = 1, .channels = 1, .kept = whole}, {.p = &sum, .q = &sum}, {.s1 = &sum}, {});
  refuses({.rows = 1, .channels = 1, .kept = whole}, {.p = &sum, .gain = &sum}, {.s1 = &sum}, {});
  refuses({.rows = 1, .channels = 1, .kept = whole}, {.k = &sum}, {.a = &number}, {});
  refuses({.rows = 1, .channels = 1, .kept = whole}, {.k = &sum}, {.dgamma = &number}, {});
  const float g = 1;
  refuses({.rows = 1, .channels = 1, .g = &g}, {}, {.dbias = &number}, {});
  refuses({.rows = 1, .channels = 1, .g = &g}, {.scale_x = &g}, {.weight_factor = &number}, {});
  refuses({.rows = 1, .channels = 1, .g = &g}, {.scale_ran = &g}, {.weight_factor = &number}, {});
  const uint8_t code = 1;
  const int32_t zero = 0;
  const LayerGradient layer{.rows = 1, .channels = 1, .g = &g, .kept = whole};
  refuses(layer, {}, {}, {.multiplier = &g, .zero_point = &zero, .gradient = &number});
  refuses(layer, {}, {}, {.codes = &code, .zero_point = &zero, .gradient = &number});
  refuses(layer, {}, {}, {.codes = &code, .multiplier = &g, .gradient = &number});
  EXPECT_THROW(reduce_gradient(layer, {}, {.s1 = &sum}, {}, {}, nullptr), Error);  // no counter
  refuses({.rows = -1, .channels = 1}, {}, {.s1 = &sum}, {});
  refuses({.rows = 1, .channels = -1}, {}, {.s1 = &sum}, {});
}

}  // namespace
}  // namespace qat::ops::cuda
