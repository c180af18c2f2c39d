// The kernels for groups, against sums in double; exactly where all numbers are small integers.
#include <algorithm>

#include "core/ops/convolve_gradient.h"
#include "core/ops/cuda/convolve_gradient_kernels.h"
#include "tests/ops/cuda/geometry.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaConvolveGradientGrouped : public GpuTest {};

/// A sum and what its rounding errors grow with.
struct Sum {
  void add(double a, double b) {
    value += a * b;
    size += std::abs(a * b);
  }
  double value = 0, size = 0;
};

/// A convolution and what its gradients are made of.
struct Case {
  ConvGeometry g;
  std::vector<uint8_t> x;
  std::vector<int8_t> w;
  std::vector<float> operand, factor;
  int32_t zero_point = 0;

  int64_t inputs() const { return g.batch * g.in_h * g.in_w * g.in_c; }
  int64_t weights() const { return g.out_c * g.depth(); }

  /// Calls body(operand's element, x's element, w's element) for every product.
  template <class Body>
  void for_products(const Body& body) const {
    const int64_t group_in = g.in_c / g.groups, group_out = g.out_c / g.groups;
    int64_t out = 0;
    for (int64_t n = 0; n < g.batch; ++n) {
      for (int64_t oh = 0; oh < g.out_h(); ++oh) {
        for (int64_t ow = 0; ow < g.out_w(); ++ow) {
          for (int64_t co = 0; co < g.out_c; ++co, ++out) {
            for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
              for (int64_t kw = 0; kw < g.kernel_w; ++kw) {
                const int64_t ih = oh * g.stride_h - g.pad_top + kh * g.dilation_h;
                const int64_t iw = ow * g.stride_w - g.pad_left + kw * g.dilation_w;
                if (ih < 0 || ih >= g.in_h || iw < 0 || iw >= g.in_w) continue;
                for (int64_t c = 0; c < group_in; ++c) {
                  body(out, ((n * g.in_h + ih) * g.in_w + iw) * g.in_c + co / group_out * group_in + c,
                       ((co * g.kernel_h + kh) * g.kernel_w + kw) * group_in + c);
                }
              }
            }
          }
        }
      }
    }
  }
  std::vector<Sum> input_gradient() const {
    std::vector<Sum> sums(inputs());
    for_products([&](int64_t out, int64_t in, int64_t weight) { sums[in].add(operand[out], w[weight]); });
    return sums;
  }
  std::vector<Sum> weight_gradient() const {
    std::vector<Sum> sums(weights());
    for_products([&](int64_t out, int64_t in, int64_t weight) { sums[weight].add(operand[out], x[in] - zero_point); });
    return sums;
  }
};

Case real_case(const ConvGeometry& g, uint64_t seed) {
  Case c{g, {}, {}, {}, {}, 131};
  c.x = drawn_codes<uint8_t>(c.inputs(), seed);
  c.w = drawn_codes<int8_t>(c.weights(), seed + 1);
  c.operand = drawn<float>(g.rows() * g.out_c, seed + 2, std::normal_distribution<float>());
  c.factor = drawn<float>(g.out_c, seed + 3, std::uniform_real_distribution<float>(-2.0f, 2.0f));
  return c;
}

/// All sums are exact.
Case integer_case(const ConvGeometry& g, uint64_t seed) {
  Case c = real_case(g, seed);
  c.zero_point = seed % 2 == 0 ? 0 : 255;
  const int shift = seed % 2 == 0 ? 0 : 248;
  const auto few = [&](int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi); };
  c.x = drawn<uint8_t>(c.inputs(), seed, few(shift, shift + 7));
  c.w = drawn<int8_t>(c.weights(), seed + 1, few(-5, 5));
  c.operand = drawn<float>(g.rows() * g.out_c, seed + 2, few(-4, 4));
  c.factor = drawn<float>(g.out_c, seed + 3, few(-2, 2));
  return c;
}

void expect_gradients(const Case& c, bool exact, int64_t shift) {
  SCOPED_TRACE(fmt::format("{}, shift {}", describe(c.g), shift));
  const kernels::ConvShape shape(c.g);
  const Array<uint8_t> x(c.x, shift);
  const Array<int8_t> w(c.w, shift);
  const Array<float> operand(c.operand, shift), factor(c.factor), dx(c.inputs(), shift), dw(c.weights(), shift);
  const std::vector<float> before(c.inputs(), 3.0f);
  const Array<float> added(before, shift);
  const Array<int32_t> zero({c.zero_point});
  const Array<char> scratch(static_cast<int64_t>(kernels::weight_gradient_grouped_scratch(shape)));
  kernels::input_gradient_grouped(shape, operand.data(), w.data(), false, dx.data(), nullptr);
  kernels::input_gradient_grouped(shape, operand.data(), w.data(), true, added.data(), nullptr);
  kernels::weight_gradient_grouped(shape, x.data(), zero.data(), operand.data(), factor.data(), dw.data(),
                                   scratch.data(), nullptr);
  scratch.host();  // nothing behind it was written

  const std::vector<float> gpu_dx = dx.host(), gpu_added = added.host(), gpu_dw = dw.host();
  const std::vector<Sum> cpu_dx = c.input_gradient(), cpu_dw = c.weight_gradient();
  for (int64_t i = 0; i < c.inputs(); ++i) {
    const double tolerance = exact ? 0 : 1e-6 * cpu_dx[i].size;
    ASSERT_NEAR(gpu_dx[i], cpu_dx[i].value, tolerance) << "dx at " << i;
    ASSERT_EQ(gpu_added[i], 3.0f + gpu_dx[i]) << "dx at " << i;
  }
  for (int64_t i = 0; i < c.weights(); ++i) {
    const double by = c.factor[i / c.g.depth()], tolerance = exact ? 0 : 1e-6 * std::abs(by) * cpu_dw[i].size;
    ASSERT_NEAR(gpu_dw[i], by * cpu_dw[i].value, tolerance) << "dw at " << i;
  }
}

void expect_gradients(const ConvGeometry& g, uint64_t seed) {
  for (const int64_t shift : {0, 1}) {
    expect_gradients(integer_case(g, seed), true, shift);
    expect_gradients(real_case(g, seed), false, shift);
  }
}

/// Padded by half the kernel.
ConvGeometry grouped(int64_t batch, int64_t size, int64_t in_c, int64_t out_c, int64_t groups, int64_t kernel,
                     int64_t stride) {
  return square(batch, size, in_c, out_c, kernel, stride, kernel / 2, groups);
}

TEST_F(CudaConvolveGradientGrouped, DepthwiseLayersOfNetworks) {
  for (const int64_t stride : {1, 2}) {
    expect_gradients(grouped(2, 16, 32, 32, 32, 3, stride), 1);
    expect_gradients(grouped(1, 14, 96, 96, 96, 3, stride), 2);
    expect_gradients(grouped(2, 7, 132, 132, 132, 3, stride), 3);  // two blocks of channels
    expect_gradients(grouped(1, 9, 40, 40, 40, 5, stride), 4);
  }
  expect_gradients(grouped(1, 7, 960, 960, 960, 3, 1), 5);
}

TEST_F(CudaConvolveGradientGrouped, RowsInSeveralParts) {
  expect_gradients(grouped(1, 75, 32, 32, 32, 3, 1), 1);  // 5625 rows
  expect_gradients(grouped(3, 31, 8, 16, 2, 3, 2), 2);
  expect_gradients(grouped(1, 53, 6, 3, 3, 3, 1), 3);
}

TEST_F(CudaConvolveGradientGrouped, GroupsOfNetworks) {
  expect_gradients(grouped(1, 14, 48, 48, 6, 3, 1), 1);  // RegNet
  expect_gradients(grouped(1, 14, 48, 48, 6, 3, 2), 2);
  expect_gradients(grouped(1, 9, 64, 64, 16, 1, 1), 3);  // ShuffleNet
  expect_gradients(grouped(1, 9, 16, 32, 16, 3, 1), 4);  // a multiplier
  expect_gradients(grouped(1, 9, 16, 48, 16, 3, 2), 5);
  expect_gradients(grouped(1, 5, 12, 20, 1, 3, 1), 6);  // one group
}

TEST_F(CudaConvolveGradientGrouped, LargeKernels) {
  expect_gradients(grouped(1, 9, 4, 4, 1, 33, 2), 1);
  expect_gradients(grouped(1, 10, 8, 8, 8, 33, 3), 2);
  // Weights that a block has no room for: of four channels a thread, and at all.
  expect_gradients(grouped(1, 8, 128, 128, 128, 11, 3), 3);
  expect_gradients(grouped(1, 7, 32, 32, 32, 33, 5), 4);
}

TEST_F(CudaConvolveGradientGrouped, RandomGeometries) {
  std::mt19937_64 random(7);
  const auto draw = [&](int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  int run = 0;
  for (int i = 0; i < 250; ++i) {
    ConvGeometry g{.batch = draw(1, 3), .in_h = draw(1, 11), .in_w = draw(1, 11)};
    g.groups = draw(1, 9);
    const int64_t unit = draw(0, 1) == 0 ? 1 : 4;
    g.in_c = g.groups * unit * draw(1, 2), g.out_c = g.groups * unit * draw(1, 3);
    if (draw(0, 1) == 0) g.groups = g.in_c = g.out_c = unit * draw(1, 40);
    g.kernel_h = draw(1, 5), g.kernel_w = draw(1, 5);
    g.stride_h = draw(1, 4), g.stride_w = draw(1, 4);
    if (draw(0, 1) == 0) g.kernel_h = g.kernel_w = 3, g.stride_h = g.stride_w = draw(1, 2);
    g.pad_top = draw(0, 3), g.pad_left = draw(0, 3), g.pad_bottom = draw(0, 3), g.pad_right = draw(0, 3);
    g.dilation_h = draw(1, 3), g.dilation_w = draw(1, 3);
    if (g.in_h + g.pad_top + g.pad_bottom <= g.dilation_h * (g.kernel_h - 1)) continue;
    if (g.in_w + g.pad_left + g.pad_right <= g.dilation_w * (g.kernel_w - 1)) continue;
    ++run;
    expect_gradients(integer_case(g, i), true, i % 3 == 0 ? 1 : 0);
    expect_gradients(real_case(g, i), false, i % 3 == 1 ? 1 : 0);
  }
  EXPECT_GT(run, 150);
}

TEST(CudaConvolveGradientGroupedReference, IsTheCpus) {
  const ConvGeometry g = grouped(2, 13, 24, 24, 24, 3, 2);
  const Case c = real_case(g, 9);
  const std::vector<float> ones(g.out_c, 1.0f);
  std::vector<float> cpu_dx(c.inputs()), cpu_dw(c.weights());
  ops::input_gradient(g, c.operand.data(), c.w.data(), ones.data(), cpu_dx.data());
  ops::weight_gradient(g, c.x.data(), c.zero_point, c.operand.data(), c.factor.data(), cpu_dw.data());
  const std::vector<Sum> dx = c.input_gradient(), dw = c.weight_gradient();
  for (int64_t i = 0; i < c.inputs(); ++i) ASSERT_NEAR(dx[i].value, cpu_dx[i], 1e-6 * dx[i].size);
  for (int64_t i = 0; i < c.weights(); ++i) {
    const double by = c.factor[i / g.depth()];
    ASSERT_NEAR(by * dw[i].value, cpu_dw[i], 1e-6 * std::abs(by) * dw[i].size);
  }
}

TEST_F(CudaConvolveGradientGrouped, AnEmptyBatchHasNoGradient) {
  for (const int64_t groups : {8, 2}) {
    const kernels::ConvShape shape(grouped(0, 5, 8, 8, groups, 3, 1));
    const int64_t n = int64_t{shape.out_c} * shape.depth;
    const Array<char> scratch(static_cast<int64_t>(kernels::weight_gradient_grouped_scratch(shape)));
    const Array<float> factor(std::vector<float>(8, 1.0f)), dw(n);
    const Array<int32_t> zero({3});
    kernels::input_gradient_grouped(shape, nullptr, nullptr, false, nullptr, nullptr);
    kernels::weight_gradient_grouped(shape, nullptr, zero.data(), nullptr, factor.data(), dw.data(), scratch.data(),
                                     nullptr);
    expect_equal(dw.host(), std::vector<float>(n, 0.0f));
    scratch.host();
  }
}

}  // namespace
}  // namespace qat::ops::cuda
