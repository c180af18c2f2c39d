#include "core/ops/pool.h"

#include "core/base/error.h"
#include "core/ops/cuda/pool.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaPool : public GpuTest {};

int64_t outputs(const PoolGeometry& g) { return g.batch * g.out_h() * g.out_w() * g.channels; }
int64_t inputs(const PoolGeometry& g) { return g.batch * g.in_h * g.in_w * g.channels; }

std::string describe(const PoolGeometry& g) {
  return fmt::format("{}x{}x{}x{} kernel {}x{} stride {}x{} pads {},{},{},{} dilation {}x{} ceil {}", g.batch, g.in_h,
                     g.in_w, g.channels, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.pad_top, g.pad_left,
                     g.pad_bottom, g.pad_right, g.dilation_h, g.dilation_w, g.ceil_mode);
}

/// Calls body(geometry) for random pools with an output.
template <class Body>
void for_pools(bool dilated, const Body& body) {
  std::mt19937_64 random(dilated ? 3 : 4);
  const auto draw = [&](int lo, int hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  int run = 0;
  for (int i = 0; i < 300; ++i) {
    PoolGeometry g;
    g.batch = draw(1, 3), g.in_h = draw(1, 12), g.in_w = draw(1, 12),
    g.channels = draw(0, 1) == 0 ? draw(1, 9) : 4 * draw(1, 9);
    g.kernel_h = draw(1, 4), g.kernel_w = draw(1, 4), g.stride_h = draw(1, 4), g.stride_w = draw(1, 4);
    g.pad_top = draw(0, g.kernel_h - 1), g.pad_left = draw(0, g.kernel_w - 1);
    g.pad_bottom = draw(0, g.kernel_h - 1), g.pad_right = draw(0, g.kernel_w - 1);
    if (dilated) g.dilation_h = draw(1, 3), g.dilation_w = draw(1, 3);
    g.ceil_mode = draw(0, 1) == 1;
    if (g.out_h() <= 0 || g.out_w() <= 0) continue;
    ++run;
    SCOPED_TRACE(describe(g));
    body(g, i);
  }
  EXPECT_GT(run, 100);
}

TEST_F(CudaPool, MaxPoolItsWinnersAndItsGradient) {
  for_pools(true, [](const PoolGeometry& g, int seed) {
    // Few different codes: many ties.
    const auto x = drawn<uint8_t>(inputs(g), seed, std::uniform_int_distribution<int>(0, seed % 3 == 0 ? 255 : 3));
    const auto dy = drawn<float>(outputs(g), seed + 1, std::normal_distribution<float>());
    std::vector<uint8_t> y(outputs(g));
    std::vector<uint16_t> winner(outputs(g));
    std::vector<float> dx(inputs(g));
    ops::max_pool(g, x.data(), y.data(), winner.data());
    ops::max_pool_gradient(g, dy.data(), winner.data(), dx.data());
    for (const int64_t shift : {0, 1}) {
      const Array<uint8_t> in(x, shift), gpu(outputs(g), shift), without(outputs(g), shift);
      const Array<uint16_t> gpu_winner(outputs(g), shift);
      const Array<float> gpu_dy(dy, shift), gpu_dx(inputs(g), shift);
      max_pool(g, in.data(), gpu.data(), gpu_winner.data(), nullptr);
      max_pool(g, in.data(), without.data(), nullptr, nullptr);
      max_pool_gradient(g, gpu_dy.data(), gpu_winner.data(), gpu_dx.data(), nullptr);
      expect_equal(gpu.host(), y);
      expect_equal(without.host(), y);
      expect_equal(gpu_winner.host(), winner);
      expect_equal(gpu_dx.host(), dx);
    }
  });
}

TEST_F(CudaPool, AveragePool) {
  for_pools(false, [](const PoolGeometry& g, int seed) {
    const bool padded = g.pad_top + g.pad_left + g.pad_bottom + g.pad_right != 0;
    if (!padded && g.kernel_h == g.in_h && g.kernel_w == g.in_w) return;  // global_average_pool's
    const auto x = drawn_codes<uint8_t>(inputs(g), seed);
    const ops::CodeRange range = seed % 2 == 0 ? ops::CodeRange{0, 255, 101} : ops::CodeRange{2, 15, 8};
    const float scale_x = 0.0137f, scale_y = seed % 3 == 0 ? 0.0137f : 0.0213f;
    const int32_t zero_x = 77;
    const Array<uint8_t> in(x), gpu(outputs(g)), mask((outputs(g) + 7) / 8);
    const Array<float> scales({scale_x, scale_y});
    const Array<int32_t> zeros({zero_x, range.zero_point});
    for (const bool count_include_pad : {false, true}) {
      std::vector<uint8_t> y(outputs(g)), inside((outputs(g) + 7) / 8);
      ops::average_pool(g, count_include_pad, x.data(), scale_x, zero_x, scale_y, range, y.data(), inside.data());
      average_pool(g, count_include_pad, in.data(), scales.data(), zeros.data(), scales.data() + 1,
                   {range.lo, range.hi, zeros.data() + 1}, gpu.data(), mask.data(), nullptr);
      expect_equal(gpu.host(), y);
      expect_equal(mask.host(), inside);
    }
  });
}

constexpr float kScaleOfX = 0.0137f, kScaleOfY = 0.0213f;
constexpr int32_t kZeroOfX = 77;

TEST_F(CudaPool, AverageRange) {
  for_pools(false, [](const PoolGeometry& g, int seed) {
    const auto x = drawn_codes<uint8_t>(inputs(g), seed);
    const Array<float> scale({kScaleOfX});
    const Array<int32_t> zero({kZeroOfX});
    for (const int64_t shift : {0, 1}) {
      const Array<uint8_t> in(x, shift);
      const Array<double> ends(2);
      const Array<char> scratch(static_cast<int64_t>(average_scratch(g)));
      for (const bool count_include_pad : {false, true}) {
        const auto [lo, hi] = ops::average_range(g, count_include_pad, x.data(), kScaleOfX, kZeroOfX);
        average_range(g, count_include_pad, in.data(), scale.data(), zero.data(), ends.data(), scratch.data(), nullptr);
        expect_equal(ends.host(), {lo, hi});
      }
      scratch.host();  // nothing behind it was written
    }
  });
}

/// A map of more windows than all blocks take at once.
PoolGeometry large_pool(int64_t channels) {
  PoolGeometry g;
  g.in_h = 600, g.in_w = 450, g.channels = channels, g.kernel_w = 2;
  return g;
}

TEST_F(CudaPool, AnEndOfAnAverageIsFoundWhereverItIs) {
  for (const int64_t channels : {1, 8}) {
    const PoolGeometry g = large_pool(channels);
    const Array<float> scale({kScaleOfX});
    const Array<int32_t> zero({kZeroOfX});
    const Array<double> ends(2);
    const Array<char> scratch(static_cast<int64_t>(average_scratch(g)));
    for (const int64_t at : {int64_t{0}, inputs(g) / 2, inputs(g) - 1}) {
      std::vector<uint8_t> x(inputs(g), 100);
      x[at] = 200;
      const auto [lo, hi] = ops::average_range(g, false, x.data(), kScaleOfX, kZeroOfX);
      EXPECT_LT(lo, hi);
      const Array<uint8_t> in(x);
      average_range(g, false, in.data(), scale.data(), zero.data(), ends.data(), scratch.data(), nullptr);
      expect_equal(ends.host(), {lo, hi});
    }
  }
}

/// Calls body(input pixel) for the pixels under the window of an output pixel; returns their number.
template <class Body>
int64_t for_window(const PoolGeometry& g, int64_t pixel, const Body& body) {
  const int64_t ow = pixel % g.out_w(), oh = pixel / g.out_w() % g.out_h(), n = pixel / g.out_w() / g.out_h();
  int64_t count = 0;
  for (int64_t tap = 0; tap < g.kernel_h * g.kernel_w; ++tap) {
    const int64_t ih = oh * g.stride_h - g.pad_top + tap / g.kernel_w;
    const int64_t iw = ow * g.stride_w - g.pad_left + tap % g.kernel_w;
    if (ih < 0 || ih >= g.in_h || iw < 0 || iw >= g.in_w) continue;
    ++count;
    body((n * g.in_h + ih) * g.in_w + iw);
  }
  return count;
}

void expect_average_scale_gradient(const PoolGeometry& g, bool count_include_pad, int seed) {
  const auto x = drawn_codes<uint8_t>(inputs(g), seed), y = drawn_codes<uint8_t>(outputs(g), seed + 1);
  const auto dy = drawn<float>(outputs(g), seed + 2, std::normal_distribution<float>());
  const auto inside = drawn_codes<uint8_t>((outputs(g) + 7) / 8, seed + 3);
  const bool whole =
      g.kernel_h == g.in_h && g.kernel_w == g.in_w && g.pad_top + g.pad_left + g.pad_bottom + g.pad_right == 0;
  const Array<float> scales({kScaleOfX, kScaleOfY});
  const Array<int32_t> zeros({kZeroOfX, 101});
  const Array<uint8_t> mask(inside);
  for (const bool masked : {false, true}) {
    double sum = 0, terms = 0;
    for (int64_t i = 0; i < outputs(g); ++i) {
      float values = 0;
      int32_t acc = 0;
      const int64_t valid = for_window(g, i / g.channels, [&](int64_t pixel) {
        const int32_t code = x[pixel * g.channels + i % g.channels] - kZeroOfX;
        values += kScaleOfX * static_cast<float>(code), acc += code;
      });
      const auto count = static_cast<float>(count_include_pad ? g.kernel_h * g.kernel_w : valid);
      const float t = whole ? static_cast<float>(acc) * (kScaleOfX / (kScaleOfY * count)) : values / count / kScaleOfY;
      const bool is_inside = !masked || ((inside[i / 8] >> (i % 8)) & 1) != 0;
      const double term = static_cast<double>(dy[i]) * (static_cast<float>(y[i] - 101) - (is_inside ? t : 0.0f));
      sum += term, terms += std::abs(term);
    }
    std::vector<double> found;
    for (const int64_t shift : {0, 1}) {
      const Array<uint8_t> in(x, shift), codes(y, shift);
      const Array<float> gradient(dy, shift);
      const Array<double> ds(1);
      const Array<char> scratch(static_cast<int64_t>(average_scratch(g)));
      average_scale_gradient(g, count_include_pad, gradient.data(), in.data(), codes.data(),
                             masked ? mask.data() : nullptr, scales.data(), zeros.data(), scales.data() + 1,
                             {0, 255, zeros.data() + 1}, ds.data(), scratch.data(), nullptr);
      found.push_back(ds.host()[0]);
      scratch.host();
    }
    EXPECT_NEAR(found[0], sum, 1e-13 * terms);
    EXPECT_EQ(found[0], found[1]);  // alignment does not matter
  }
}

TEST_F(CudaPool, AverageScaleGradient) {
  for_pools(false, [](const PoolGeometry& g, int seed) { expect_average_scale_gradient(g, seed % 2 == 0, seed); });
  expect_average_scale_gradient(large_pool(1), false, 1);
}

TEST_F(CudaPool, AverageGradient) {
  for_pools(false, [](const PoolGeometry& g, int seed) {
    const auto dy = drawn<float>(outputs(g), seed, std::normal_distribution<float>());
    const auto inside = drawn_codes<uint8_t>((outputs(g) + 7) / 8, seed + 1);
    const Array<uint8_t> mask(inside);
    for (const bool count_include_pad : {false, true}) {
      for (const bool masked : {false, true}) {
        std::vector<float> dx(inputs(g));
        for (int64_t i = 0; i < outputs(g); ++i) {
          const int64_t valid = for_window(g, i / g.channels, [](int64_t) {});
          const auto count = static_cast<float>(count_include_pad ? g.kernel_h * g.kernel_w : valid);
          const bool is_inside = !masked || ((inside[i / 8] >> (i % 8)) & 1) != 0;
          for_window(g, i / g.channels, [&](int64_t pixel) {
            dx[pixel * g.channels + i % g.channels] += (is_inside ? dy[i] : 0.0f) / count;
          });
        }
        for (const int64_t shift : {0, 1}) {
          const Array<float> gradient(dy, shift), gpu(inputs(g), shift);
          average_pool_gradient(g, count_include_pad, gradient.data(), masked ? mask.data() : nullptr, gpu.data(),
                                nullptr);
          expect_equal(gpu.host(), dx);
        }
      }
    }
  });
}

TEST_F(CudaPool, AverageGradientsOfNothing) {
  PoolGeometry g;
  g.batch = 0, g.in_h = g.in_w = 3, g.kernel_h = g.kernel_w = 2;
  const Array<double> ds(1);
  average_pool_gradient(g, false, nullptr, nullptr, nullptr, nullptr);
  average_scale_gradient(g, false, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {}, ds.data(),
                         nullptr, nullptr);
  expect_equal(ds.host(), {0.0});
}

/// Calls body(batch, pixels, channels, shift) for global average pools.
template <class Body>
void for_global_pools(const Body& body) {
  for (const int64_t channels : {1, 3, 8, 31, 32, 33, 100}) {
    for (const int64_t pixels : {1, 2, 7, 49, 1000}) {
      for (const int64_t shift : {0, 1}) {
        SCOPED_TRACE(fmt::format("{} pixels of {} channels, shift {}", pixels, channels, shift));
        body(3, pixels, channels, shift);
      }
    }
  }
  body(97, 2, 100, 0);  // more than the block of a range takes at once
}

TEST_F(CudaPool, GlobalAveragePool) {
  for_global_pools([](int64_t batch, int64_t pixels, int64_t channels, int64_t shift) {
    for (const int32_t zero_x : {0, 131, 255}) {
      const int64_t n = batch * channels;
      const auto x = drawn_codes<uint8_t>(n * pixels, channels + pixels);
      std::vector<uint8_t> y(n), inside((n + 7) / 8);
      std::vector<int32_t> acc(n);
      const ops::CodeRange range{0, 255, 101};
      ops::global_average_pool(x.data(), batch, pixels, channels, 0.03f, zero_x, 0.01f, range, y.data(), acc.data(),
                               inside.data());
      const auto [lo, hi] = ops::global_average_range(x.data(), batch, pixels, channels, 0.03f, zero_x);
      const Array<uint8_t> in(x, shift), gpu(n, shift), mask((n + 7) / 8), without(n, shift);
      const Array<float> scales({0.03f, 0.01f});
      const Array<int32_t> zeros({zero_x, range.zero_point}), sums(n, shift);
      const Array<double> ends(2);
      const DeviceRange codes{0, 255, zeros.data() + 1};
      global_average_sums(in.data(), batch, pixels, channels, zeros.data(), sums.data(), nullptr);
      global_average_range(sums.data(), batch, pixels, channels, scales.data(), ends.data(), nullptr);
      global_average_codes(sums.data(), batch, pixels, channels, scales.data(), scales.data() + 1, codes, gpu.data(),
                           mask.data(), nullptr);
      global_average_codes(sums.data(), batch, pixels, channels, scales.data(), scales.data() + 1, codes,
                           without.data(), nullptr, nullptr);
      expect_equal(sums.host(), acc);
      expect_equal(ends.host(), {lo, hi});
      expect_equal(gpu.host(), y);
      expect_equal(without.host(), y);
      expect_equal(mask.host(), inside);
    }
  });
}

TEST_F(CudaPool, GlobalAverageScaleGradient) {
  for_global_pools([](int64_t batch, int64_t pixels, int64_t channels, int64_t shift) {
    constexpr float kScaleX = 0.03f, kScaleY = 0.01f;
    constexpr int32_t kZero = 101;
    const int64_t n = batch * channels;
    const auto x = drawn_codes<uint8_t>(n * pixels, channels + pixels);
    const auto g = drawn<float>(n, n, std::normal_distribution<float>());
    std::vector<uint8_t> y(n), inside((n + 7) / 8);
    std::vector<int32_t> acc(n);
    ops::global_average_pool(x.data(), batch, pixels, channels, kScaleX, 131, kScaleY, {0, 255, kZero}, y.data(),
                             acc.data(), inside.data());
    const Array<float> gradient(g, shift), scales({kScaleX, kScaleY});
    const Array<int32_t> sums(acc, shift), zero({kZero});
    const Array<uint8_t> codes(y, shift), mask(inside);
    const Array<double> ds(1);
    for (const bool masked : {false, true}) {
      double sum = 0, terms = 0;
      for (int64_t i = 0; i < n; ++i) {
        const float t = static_cast<float>(acc[i]) * (kScaleX / (kScaleY * static_cast<float>(pixels)));
        const bool is_inside = !masked || ((inside[i / 8] >> (i % 8)) & 1) != 0;
        const double term = static_cast<double>(g[i]) * ((y[i] - kZero) - (is_inside ? t : 0.0f));
        sum += term, terms += std::abs(term);
      }
      global_average_scale_gradient(gradient.data(), sums.data(), codes.data(), masked ? mask.data() : nullptr, batch,
                                    pixels, channels, scales.data(), scales.data() + 1, {0, 255, zero.data()},
                                    ds.data(), nullptr);
      EXPECT_NEAR(ds.host()[0], sum, 1e-13 * terms);
    }
  });
}

TEST_F(CudaPool, GlobalAverageScaleGradientByHand) {
  // Codes 3 + 97, 4 + 97, 255 and 0 of t = 2.5, 4.25, 300 and -200; the last two are outside.
  const Array<float> g({1.0f, 2.0f, 3.0f, -4.0f}), scales({0.5f, 0.5f});
  const Array<int32_t> acc({10, 17, 1200, -800}), zero({97});
  const Array<uint8_t> y({100, 101, 255, 0}), inside({0b0011});
  const Array<double> ds(1);
  global_average_scale_gradient(g.data(), acc.data(), y.data(), inside.data(), 2, 4, 2, scales.data(),
                                scales.data() + 1, {0, 255, zero.data()}, ds.data(), nullptr);
  expect_equal(ds.host(), {1.0 * (3 - 2.5) + 2.0 * (4 - 4.25) + 3.0 * 158 + -4.0 * -97});
}

TEST_F(CudaPool, GlobalAverageGradient) {
  for_global_pools([](int64_t batch, int64_t pixels, int64_t channels, int64_t shift) {
    const int64_t n = batch * channels;
    const auto g = drawn<float>(n, n, std::normal_distribution<float>());
    const auto inside = drawn_codes<uint8_t>((n + 7) / 8, n + 1);
    const Array<float> gradient(g, shift), gpu(n * pixels, shift);
    const Array<uint8_t> mask(inside);
    for (const bool masked : {false, true}) {
      std::vector<float> dx(n * pixels);
      for (int64_t i = 0; i < n * pixels; ++i) {
        const int64_t from = i / (pixels * channels) * channels + i % channels;
        const bool is_inside = !masked || ((inside[from / 8] >> (from % 8)) & 1) != 0;
        dx[i] = is_inside ? g[from] / static_cast<float>(pixels) : 0.0f;
      }
      global_average_pool_gradient(gradient.data(), masked ? mask.data() : nullptr, batch, pixels, channels, gpu.data(),
                                   nullptr);
      expect_equal(gpu.host(), dx);
    }
  });
}

TEST_F(CudaPool, GlobalAveragesOfNothing) {
  const Array<double> ds(1);
  const Array<float> scales({0.5f, 0.5f});
  const Array<int32_t> zero({7});
  const DeviceRange range{0, 255, zero.data()};
  global_average_sums(nullptr, 0, 4, 3, nullptr, nullptr, nullptr);
  global_average_codes(nullptr, 0, 4, 3, scales.data(), scales.data(), range, nullptr, nullptr, nullptr);
  global_average_pool_gradient(nullptr, nullptr, 0, 4, 3, nullptr, nullptr);
  global_average_scale_gradient(nullptr, nullptr, nullptr, nullptr, 0, 4, 3, scales.data(), scales.data(), range,
                                ds.data(), nullptr);
  expect_equal(ds.host(), {0.0});
}

TEST(CudaPoolArguments, RefusesWhatTheCpuRefuses) {
  PoolGeometry g;
  g.kernel_h = g.kernel_w = 300, g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = 150;
  uint16_t winner = 0;
  EXPECT_THROW(max_pool(g, nullptr, nullptr, &winner, nullptr), Error);
  PoolGeometry padded;
  padded.pad_top = 1;
  EXPECT_THROW(average_pool(padded, false, nullptr, nullptr, nullptr, nullptr, {}, nullptr, nullptr, nullptr), Error);
  PoolGeometry dilated;
  dilated.dilation_w = 2;
  EXPECT_THROW(average_pool(dilated, false, nullptr, nullptr, nullptr, nullptr, {}, nullptr, nullptr, nullptr), Error);
  for (const PoolGeometry& g : {padded, dilated}) {
    EXPECT_THROW(average_range(g, false, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), Error);
    EXPECT_THROW(average_pool_gradient(g, false, nullptr, nullptr, nullptr, nullptr), Error);
    EXPECT_THROW(average_scale_gradient(g, false, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {},
                                        nullptr, nullptr, nullptr),
                 Error);
  }
  PoolGeometry nothing;
  nothing.batch = 0;
  EXPECT_THROW(average_range(nothing, false, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(average_scale_gradient({}, false, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                                      {0, 256, nullptr}, nullptr, nullptr, nullptr),
               Error);
  EXPECT_THROW(global_average_range(nullptr, 0, 1, 1, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(global_average_codes(nullptr, 1, 1, 1, nullptr, nullptr, {0, 256, nullptr}, nullptr, nullptr, nullptr),
               Error);
  const PoolGeometry whole;  // 1x1 of 1x1
  EXPECT_THROW(average_pool(whole, false, nullptr, nullptr, nullptr, nullptr, {}, nullptr, nullptr, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
