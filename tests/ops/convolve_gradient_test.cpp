#include "core/ops/convolve_gradient.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <random>
#include <vector>

#include "core/base/error.h"
#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

/// Random codes, weights and gradient of one geometry, and both gradients by their definition in double.
struct Case {
  Case(const ConvGeometry& geometry, uint64_t seed) : g(geometry) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    x.resize(g.batch * g.in_h * g.in_w * g.in_c);
    w.resize(g.out_c * g.depth());
    grad.resize(g.rows() * g.out_c);
    for (auto& v : x) v = static_cast<uint8_t>(random() % 256);
    for (auto& v : w) v = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
    for (auto& v : grad) v = normal(random);
    for (int64_t c = 0; c < g.out_c; ++c) scale.push_back(0.01f * static_cast<float>(1 + random() % 9));
    dw.assign(w.size(), 0.0);
    dx.assign(x.size(), 0.0);
    const int64_t in = g.in_c / g.groups, out = g.out_c / g.groups;
    for (int64_t row = 0; row < g.rows(); ++row) {
      const int64_t n = row / (g.out_h() * g.out_w()), y = row / g.out_w() % g.out_h(), z = row % g.out_w();
      for (int64_t k = 0; k < g.kernel_h * g.kernel_w; ++k) {
        const int64_t iy = y * g.stride_h - g.pad_top + k / g.kernel_w * g.dilation_h;
        const int64_t ix = z * g.stride_w - g.pad_left + k % g.kernel_w * g.dilation_w;
        if (iy < 0 || iy >= g.in_h || ix < 0 || ix >= g.in_w) continue;
        for (int64_t co = 0; co < g.out_c; ++co) {
          const double slope = grad[row * g.out_c + co];
          for (int64_t c = 0; c < in; ++c) {
            const int64_t from = ((n * g.in_h + iy) * g.in_w + ix) * g.in_c + co / out * in + c;
            const int64_t weight = (co * g.kernel_h * g.kernel_w + k) * in + c;
            dw[weight] += slope * (x[from] - kZero) * scale[co];
            dx[from] += slope * static_cast<double>(scale[co] * static_cast<float>(w[weight]));
          }
        }
      }
    }
  }

  std::vector<float> weights() const {
    std::vector<float> result(w.size() + 1, -7.0f);
    weight_gradient(g, x.data(), kZero, grad.data(), scale.data(), result.data());
    EXPECT_EQ(result.back(), -7.0f) << "written behind the end";
    result.pop_back();
    return result;
  }
  std::vector<float> inputs() const {
    std::vector<float> result(x.size() + 1, -7.0f);
    input_gradient(g, grad.data(), w.data(), scale.data(), result.data());
    EXPECT_EQ(result.back(), -7.0f) << "written behind the end";
    result.pop_back();
    return result;
  }

  static constexpr int32_t kZero = 113;
  ConvGeometry g;
  std::vector<uint8_t> x;
  std::vector<int8_t> w;
  std::vector<float> grad, scale;
  std::vector<double> dw, dx;
};

double relative_error(const std::vector<float>& found, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

std::string describe(const ConvGeometry& g) {
  return fmt::format("input {}x{}x{}x{} outputs {} kernel {}x{} stride {}x{} pads {},{},{},{} dilation {}x{} groups {}",
                     g.batch, g.in_h, g.in_w, g.in_c, g.out_c, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w,
                     g.pad_top, g.pad_left, g.pad_bottom, g.pad_right, g.dilation_h, g.dilation_w, g.groups);
}

void expect_close(const ConvGeometry& g, uint64_t seed) {
  SCOPED_TRACE(describe(g));
  const Case c(g, seed);
  on_every_target([&] {
    EXPECT_LT(relative_error(c.weights(), c.dw), 3e-6);
    EXPECT_LT(relative_error(c.inputs(), c.dx), 3e-6);
  });
}

ConvGeometry square(int64_t batch, int64_t size, int64_t in_c, int64_t out_c, int64_t kernel, int64_t stride = 1) {
  return {.batch = batch,
          .in_h = size,
          .in_w = size,
          .in_c = in_c,
          .out_c = out_c,
          .kernel_h = kernel,
          .kernel_w = kernel,
          .stride_h = stride,
          .stride_w = stride,
          .pad_top = kernel / 2,
          .pad_left = kernel / 2,
          .pad_bottom = kernel / 2,
          .pad_right = kernel / 2};
}

TEST(ConvolveGradient, SmallSumsByHand) {
  // A row of two pixels, kernel {2, -1} with one padded pixel on the left: y0 = -1 * x0', y1 = 2 x0' - x1'.
  const ConvGeometry g{.in_w = 2, .kernel_w = 2, .pad_left = 1};
  const uint8_t x[] = {11, 14};
  const int8_t w[] = {2, -1};
  const float grad[] = {3, 5}, scale[] = {0.5f};
  float dw[2], dx[2];
  weight_gradient(g, x, 10, grad, scale, dw);
  EXPECT_EQ(dw[0], 0.5f * 5 * 1);
  EXPECT_EQ(dw[1], 0.5f * (3 * 1 + 5 * 4));
  input_gradient(g, grad, w, scale, dx);
  EXPECT_EQ(dx[0], -0.5f * 3 + 1.0f * 5);
  EXPECT_EQ(dx[1], -0.5f * 5);
}

TEST(ConvolveGradient, EqualTheDefinitionOnRandomGeometries) {
  std::mt19937_64 random(5);
  const auto draw = [&](int lo, int hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  for (int i = 0; i < 150; ++i) {
    ConvGeometry g{.batch = draw(1, 4), .in_h = draw(1, 11), .in_w = draw(1, 14)};
    g.in_c = i % 3 == 0 ? 8 * draw(1, 5) : draw(1, 19);
    g.out_c = draw(1, 40);
    if (i % 5 == 0) g.groups = g.out_c = g.in_c;
    g.kernel_h = draw(1, 4), g.kernel_w = draw(1, 4);
    g.stride_h = draw(1, 3), g.stride_w = draw(1, 3);
    g.pad_top = draw(0, 3), g.pad_left = draw(0, 3), g.pad_bottom = draw(0, 3), g.pad_right = draw(0, 3);
    g.dilation_h = draw(1, 2), g.dilation_w = draw(1, 2);
    if (g.in_h + g.pad_top + g.pad_bottom <= g.dilation_h * (g.kernel_h - 1)) continue;
    if (g.in_w + g.pad_left + g.pad_right <= g.dilation_w * (g.kernel_w - 1)) continue;
    expect_close(g, i);
  }
}

TEST(ConvolveGradient, EqualTheDefinitionOnUsualLayers) {
  expect_close(square(2, 23, 3, 16, 7, 2), 1);
  expect_close(square(3, 18, 16, 16, 3), 2);
  expect_close(square(6, 5, 24, 20, 3), 3);
  expect_close(square(2, 29, 24, 40, 1), 4);
  expect_close(square(1, 1, 70, 10, 1), 5);
  ConvGeometry depthwise = square(2, 15, 24, 24, 3, 2);
  depthwise.groups = 24;
  expect_close(depthwise, 6);
}

/// Winograd's algorithm: whole and cut tiles, several images or several rows a batch, or all at once.
TEST(ConvolveGradient, EqualTheDefinitionByMinimalFiltering) {
  expect_close(square(1, 16, 32, 48, 3), 1);
  expect_close(square(4, 7, 48, 32, 3), 2);
  expect_close(square(17, 4, 32, 32, 3), 3);
  ConvGeometry wide = square(2, 9, 32, 64, 3);
  wide.in_w = 31;
  expect_close(wide, 4);
  expect_close(square(1, 26, 128, 32, 3), 5);
  expect_close(square(40, 4, 32, 32, 3), 6);
  expect_close(square(8, 4, 112, 160, 3), 7);
  expect_close(square(2, 7, 160, 112, 3), 8);
}

TEST(ConvolveGradient, DependNeitherOnThreadsNorOnTheWidthOfVectors) {
  for (const ConvGeometry& g : {square(5, 20, 16, 24, 3), square(6, 9, 32, 48, 3), square(8, 4, 112, 160, 3),
                                square(3, 13, 24, 72, 1),
                                square(9, 3, 40, 33, 3, 2), square(2, 24, 3, 16, 7, 2)}) {
    SCOPED_TRACE(describe(g));
    const Case c(g, 3);
    const int before = omp_get_max_threads();
    omp_set_num_threads(1);
    const std::vector<float> dw = c.weights(), dx = c.inputs();
    for (const int threads : {2, 3, 7}) {
      omp_set_num_threads(threads);
      EXPECT_EQ(c.weights(), dw) << threads;
      EXPECT_EQ(c.inputs(), dx) << threads;
    }
    omp_set_num_threads(before);
    if ((hwy::SupportedTargets() & HWY_AVX2) == 0) continue;
    hwy::GetChosenTarget().Update(HWY_AVX2);
    EXPECT_EQ(c.weights(), dw);
    EXPECT_EQ(c.inputs(), dx);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

TEST(ConvolveGradient, RefusesGroupsThatAreNotDepthwise) {
  const ConvGeometry g{.in_c = 4, .out_c = 4, .groups = 2};
  EXPECT_FALSE(has_gradients(g));
  const uint8_t x[4] = {};
  const int8_t w[8] = {};
  const float grad[4] = {}, scale[4] = {};
  float out[8];
  EXPECT_THROW(weight_gradient(g, x, 0, grad, scale, out), Error);
  EXPECT_THROW(input_gradient(g, grad, w, scale, out), Error);
}

}  // namespace
}  // namespace qat::ops
