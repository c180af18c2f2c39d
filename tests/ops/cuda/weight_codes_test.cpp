#include "core/ops/cuda/weight_codes.h"

#include <algorithm>
#include <deque>

#include "core/base/error.h"
#include "core/ops/encode.h"
#include "core/ops/weight_codes.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaWeightCodes : public GpuTest {};

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kSmallestScale = 1.1920928955078125e-07f;

struct Shape {
  int64_t channels, depth;
};
constexpr Shape kShapes[] = {{1, 1},    {3, 1},    {5, 3},    {40, 9},   {7, 15},   {6, 16},   {6, 17},    {12, 27},
                             {3, 1023}, {2, 1024}, {3, 1025}, {2, 2048}, {2, 2056}, {2, 4608}, {1, 20'011}};

/// quantizers::largest_scale() of a finite magnitude.
float largest_scale(float largest, float most) {
  float scale = std::max(largest / most, kSmallestScale);
  for (int pass = 0; pass < 2; ++pass) scale = scale * most / most;
  return scale;
}

std::vector<float> gpu_scales(const std::vector<float>& x, Shape s, double levels, int64_t shift, int32_t* failed) {
  const Array<float> values(x, shift), scale(std::vector<float>(s.channels, 1e30f), shift);  // which must not stay
  const Array<int32_t> flag({*failed});
  largest_scales(values.data(), s.channels, s.depth, levels, scale.data(), flag.data(), nullptr);
  *failed = flag.host()[0];
  return scale.host();
}

TEST_F(CudaWeightCodes, LargestScalesOfEveryShape) {
  for (const Shape& s : kShapes) {
    for (const int64_t shift : {0, 1}) {
      SCOPED_TRACE(fmt::format("{} x {}, shift {}", s.channels, s.depth, shift));
      auto x = drawn<float>(s.channels * s.depth, s.depth, std::normal_distribution<float>(0.0f, 0.1f));
      std::vector<float> largest(s.channels), expected;
      // The largest one last, first, and anywhere.
      const int64_t places[] = {s.depth - 1, 0, s.depth / 2, s.depth * 7 / 9};
      for (int64_t c = 0; c < s.channels; ++c) {
        x[c * s.depth + places[c % 4]] = (c % 2 == 0 ? -1.0f : 1.0f) * (1.0f + 0.01f * static_cast<float>(c));
      }
      ops::largest_magnitudes(x.data(), s.channels, s.depth, largest.data());
      for (const double levels : {127.0, 7.0, 1.0}) {
        expected.clear();
        for (const float m : largest) expected.push_back(largest_scale(m, static_cast<float>(levels)));
        int32_t failed = 0;
        expect_equal(gpu_scales(x, s, levels, shift, &failed), expected);
        EXPECT_EQ(failed, 0);
      }
    }
  }
}

TEST_F(CudaWeightCodes, LargestScalesAtTheEnds) {
  constexpr float kMost = std::numeric_limits<float>::max();
  const std::vector<float> x{0.0f, -0.0f, 1e-45f, -1e-30f, 127.0f / 32, -1.0f, -kMost, 3.0f};
  int32_t failed = 0;
  const std::vector<float> scales = gpu_scales(x, {4, 2}, 127.0, 0, &failed);
  const float smallest = largest_scale(0.0f, 127.0f);
  expect_equal(scales, {smallest, smallest, 1.0f / 32, largest_scale(kMost, 127.0f)});
  EXPECT_NEAR(smallest, kSmallestScale, 1e-13);
  EXPECT_EQ(failed, 0);
  // The scale that the quantized values have in turn.
  for (const float s : scales) EXPECT_EQ(largest_scale(s * 127.0f, 127.0f), s);
}

TEST_F(CudaWeightCodes, WeightsThatAreNotFiniteFail) {
  for (const float wrong : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
    for (const int64_t place : {0, 1000, 1024, 2999}) {
      std::vector<float> x(9000, 0.5f);
      x[3000 + place] = wrong;
      int32_t failed = 0;
      const std::vector<float> scales = gpu_scales(x, {3, 3000}, 7.0, 0, &failed);
      EXPECT_EQ(failed, 1) << wrong << " at " << place;
      EXPECT_EQ(scales[0], largest_scale(0.5f, 7.0f));
      EXPECT_EQ(scales[2], largest_scale(0.5f, 7.0f));
    }
  }
  int32_t failed = 1;  // an earlier kernel's
  gpu_scales({1.0f}, {1, 1}, 7.0, 0, &failed);
  EXPECT_EQ(failed, 1);
}

/// A list of one weight a shape: scales that follow, scales that stay, and one for several channels.
TEST_F(CudaWeightCodes, EncodesAList) {
  struct Listed {
    Listed(const Shape& shape, int64_t shift, const std::vector<float>& values, const std::vector<float>& scales)
        : x(values, shift), scale(scales), repeated(shape.channels), codes(shape.channels * shape.depth, shift) {}
    Array<float> x, scale, repeated;
    Array<int8_t> codes;
  };
  std::deque<Listed> arrays;
  std::vector<EncodedWeight> list;
  std::vector<std::vector<float>> scales;
  std::vector<std::vector<int8_t>> codes;
  int32_t channels = 0;
  for (const Shape& s : kShapes) {
    const auto i = static_cast<int64_t>(list.size());
    auto x = drawn<float>(s.channels * s.depth, s.depth, std::normal_distribution<float>(0.0f, 0.1f));
    const int32_t hi = i % 4 == 0 ? 7 : 127, lo = i % 2 == 0 ? -hi : -hi - 1;
    const bool follows = i % 3 == 0, one = i % 3 == 1;
    if (!follows) x[0] = NAN, x.back() = -INFINITY;
    const int64_t count = one ? 1 : s.channels;
    std::vector<float> given(count), expected;
    for (int64_t c = 0; c < count; ++c) given[c] = 0.01f * static_cast<float>(1 + c % 7);
    std::vector<float> largest(s.channels);
    if (follows) ops::largest_magnitudes(x.data(), s.channels, s.depth, largest.data());
    for (int64_t c = 0; c < s.channels; ++c) {
      expected.push_back(follows ? largest_scale(largest[c], static_cast<float>(hi)) : given[one ? 0 : c]);
    }
    codes.emplace_back(x.size());
    ops::encode_per_channel(x.data(), s.channels, s.depth, expected.data(), lo, hi, codes.back().data());
    scales.push_back(expected);
    Listed& made = arrays.emplace_back(s, i % 2, x, given);
    list.push_back({made.x.data(), made.codes.data(), made.scale.data(), one ? made.repeated.data() : nullptr, s.depth,
                    static_cast<int32_t>(s.channels), static_cast<int32_t>(count), lo, hi, follows, channels});
    channels += static_cast<int32_t>(s.channels);
  }
  const Array<EncodedWeight> on_device(list);
  const Array<int32_t> failed({0});
  encode_weights(on_device.data(), std::ssize(list), channels, failed.data(), nullptr);
  for (size_t i = 0; i < list.size(); ++i) {
    SCOPED_TRACE(i);
    expect_equal(arrays[i].codes.host(), codes[i]);
    expect_equal(list[i].repeated == nullptr ? arrays[i].scale.host() : arrays[i].repeated.host(), scales[i]);
  }
  expect_equal(failed.host(), {0});
  for (const float wrong : {std::nanf(""), kInfinity}) {
    std::vector<float> values(500, 0.5f);
    values[377] = wrong;
    const Array<float> x(values), scale(2);
    const Array<int8_t> to(500);
    const Array<EncodedWeight> two(std::vector<EncodedWeight>{
        {x.data(), to.data(), scale.data(), nullptr, 250, 2, 2, -127, 127, /*follows=*/true, 0}});
    encode_weights(two.data(), 1, 2, failed.data(), nullptr);
    expect_equal(failed.host(), {1});
    EXPECT_EQ(scale.host()[0], largest_scale(0.5f, 127.0f));
    check(cudaMemset(failed.data(), 0, sizeof(int32_t)));
  }
}

/// Weights on and off the grid, on its ties and edges, and gradients of very different sizes: their sums show an order.
struct Weights {
  Weights(Shape s, int lo, int hi) : shape(s) {
    const int64_t n = s.channels * s.depth;
    std::mt19937_64 random(n + hi);
    std::normal_distribution<float> normal;
    for (int64_t c = 0; c < s.channels; ++c) scale.push_back(0.01f * static_cast<float>(1 + c % 5));
    for (int64_t i = 0; i < n; ++i) {
      const float step = scale[i / s.depth];
      const auto codes = static_cast<float>(random() % (2 * (hi - lo) + 7));
      const float half = (codes / 2 + static_cast<float>(lo) - 1.5f) * step;
      x.push_back(i % 3 == 0   ? half
                  : i % 3 == 1 ? std::nextafter(half, random() % 2 == 0 ? kInfinity : -kInfinity)
                               : normal(random) * step * static_cast<float>(hi - lo));
      g.push_back(std::ldexp(normal(random), static_cast<int>(random() % 40) - 20));
    }
    const float ends[] = {kInfinity, std::nanf(""), -kInfinity, std::numeric_limits<float>::max(), -1e-45f, -0.0f};
    for (int64_t i = 5; i < n; i += 37) x[i] = ends[i / 37 % std::size(ends)];
  }
  Shape shape;
  std::vector<float> x, g, scale;
};

TEST_F(CudaWeightCodes, GradientsInTheCpusOrder) {
  struct Codes {
    int lo, hi;
  };
  for (const Shape& s : kShapes) {
    for (const auto& [lo, hi] : {Codes{-127, 127}, Codes{-8, 7}, Codes{-128, 127}, Codes{-1, 0}}) {
      const Weights w(s, lo, hi);
      for (const bool by_code : {false, true}) {
        const int64_t n = s.channels * s.depth, shift = by_code ? 1 : 0;
        SCOPED_TRACE(fmt::format("{} x {}, [{}, {}], by code {}", s.channels, s.depth, lo, hi, by_code));
        std::vector<float> dx(n);
        std::vector<double> dscale(s.channels);
        ops::encode_weights_gradient(w.x.data(), w.g.data(), s.channels, s.depth, w.scale.data(), lo, hi, by_code,
                                     dx.data(), dscale.data());
        const Array<float> x(w.x, shift), g(w.g, shift), scale(w.scale, shift), gpu_dx(n, shift);
        const Array<double> alone(s.channels), both(s.channels);
        const auto run = [&, lo = lo, hi = hi](float* to, double* sums) {
          encode_weights_gradient(x.data(), g.data(), s.channels, s.depth, scale.data(), lo, hi, by_code, to, sums,
                                  nullptr);
        };
        run(nullptr, nullptr);
        run(gpu_dx.data(), nullptr);
        expect_equal(gpu_dx.host(), dx);
        run(nullptr, alone.data());
        expect_equal(alone.host(), dscale);
        expect_equal(g.host(), w.g);
        run(g.data(), both.data());
        expect_equal(g.host(), dx);
        expect_equal(both.host(), dscale);
        expect_equal(x.host(), w.x);
      }
    }
  }
}

TEST_F(CudaWeightCodes, GradientByHand) {
  // Scale 0.5, codes -2 to 1: t = -2.2, -2, 0.5, 1.4, 1.6, -5.
  const Array<float> x({-1.1f, -1.0f, 0.25f, 0.7f, 0.8f, -2.5f}), g({1, 2, 4, 8, 16, 32}), scale({0.5f}), dx(6);
  const Array<double> dscale(1);
  const auto run = [&](bool by_code) {
    encode_weights_gradient(x.data(), g.data(), 1, 6, scale.data(), -2, 1, by_code, dx.data(), dscale.data(), nullptr);
  };
  run(false);
  expect_equal(dx.host(), {0, 2, 4, 0, 0, 0});
  EXPECT_EQ(dscale.host()[0], -2.0 + 0 + 4 * (0 - 0.5) + 8 + 16 - 64);
  run(true);  // -2.2 and 1.4 round to codes
  expect_equal(dx.host(), {1, 2, 4, 8, 0, 0});
  EXPECT_NEAR(dscale.host()[0], 0.2 + 0 + 4 * (0 - 0.5) + 8 * (1 - 1.4) + 16 - 64, 1e-5);
}

TEST_F(CudaWeightCodes, ScalesRows) {
  for (const Shape& s : kShapes) {
    for (const int64_t shift : {0, 1}) {
      SCOPED_TRACE(fmt::format("{} x {}, shift {}", s.channels, s.depth, shift));
      const int64_t n = s.channels * s.depth;
      const auto x = drawn<float>(n, 1, std::normal_distribution<float>());
      const auto factor = drawn<double>(s.channels, 3, std::normal_distribution<double>());
      std::vector<float> scaled(n);
      for (int64_t i = 0; i < n; ++i) scaled[i] = x[i] * static_cast<float>(factor[i / s.depth]);
      const Array<float> gpu_x(x, shift), other(n, shift);
      const Array<double> gpu_factor(factor, shift);
      scale_rows(gpu_x.data(), s.channels, s.depth, gpu_factor.data(), other.data(), nullptr);
      expect_equal(other.host(), scaled);
      scale_rows(gpu_x.data(), s.channels, s.depth, gpu_factor.data(), gpu_x.data(), nullptr);
      expect_equal(gpu_x.host(), scaled);
    }
  }
}

TEST_F(CudaWeightCodes, EmptyWeights) {
  int32_t failed = 0;
  expect_equal(gpu_scales({1.0f}, {3, 0}, 127.0, 0, &failed), std::vector<float>(3, kSmallestScale));
  EXPECT_EQ(failed, 0);
  const Array<float> values({1.0f, 2.0f});
  const Array<double> dscale({3.0, 4.0});
  encode_weights_gradient(nullptr, nullptr, 2, 0, values.data(), -8, 7, false, values.data(), dscale.data(), nullptr);
  expect_equal(dscale.host(), {0.0, 0.0});
  // No channels: nothing is written.
  encode_weights_gradient(nullptr, nullptr, 0, 4, nullptr, -8, 7, false, nullptr, nullptr, nullptr);
  largest_scales(nullptr, 0, 5, 127.0, nullptr, nullptr, nullptr);
  encode_weights(nullptr, 0, 0, nullptr, nullptr);
  scale_rows(nullptr, 0, 4, nullptr, nullptr, nullptr);
  scale_rows(nullptr, 4, 0, nullptr, nullptr, nullptr);
  expect_equal(values.host(), {1.0f, 2.0f});
}

TEST(CudaWeightCodesArguments, RefusesImpossibleOnes) {
  EXPECT_THROW(largest_scales(nullptr, 1, 1, 0.0, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(largest_scales(nullptr, 1, -1, 127.0, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(largest_scales(nullptr, int64_t{1} << 32, 1, 127.0, nullptr, nullptr, nullptr), Error);
  const auto gradient = [](int64_t channels, int lo, int hi) {
    encode_weights_gradient(nullptr, nullptr, channels, 1, nullptr, lo, hi, false, nullptr, nullptr, nullptr);
  };
  EXPECT_THROW(gradient(1, 7, -8), Error);
  EXPECT_THROW(gradient(1, -129, 7), Error);
  EXPECT_THROW(gradient(1, -8, 128), Error);
  EXPECT_THROW(gradient(-1, -8, 7), Error);
  EXPECT_THROW(encode_weights(nullptr, 1, -1, nullptr, nullptr), Error);
  EXPECT_THROW(encode_weights(nullptr, 1, int64_t{1} << 31, nullptr, nullptr), Error);
  EXPECT_THROW(scale_rows(nullptr, 1, -1, nullptr, nullptr, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
