// Both gradients against loops in double. Numbers whose sums are exact in float32 must give them exactly.
#include "core/ops/cuda/convolve_gradient.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "core/base/error.h"
#include "core/ops/cuda/convolve_kernels.h"
#include "tests/ops/cuda/geometry.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

constexpr auto kFloat = GradientPrecision::kFloat;
constexpr auto kBfloat16 = GradientPrecision::kBfloat16;

class CudaConvolveGradient : public GpuTest {};

/// One convolution's arrays.
struct Case {
  ConvGeometry g;
  std::vector<uint8_t> x;
  std::vector<int8_t> w;
  std::vector<float> dy, scale, factor;
  int32_t zero_point = 0;
};

int64_t inputs(const ConvGeometry& g) { return g.batch * g.in_h * g.in_w * g.in_c; }

/// Integers whose sums float32 holds. kFloat: of more digits than a bfloat16 has.
Case integers(const ConvGeometry& g, GradientPrecision precision, uint64_t seed) {
  const int most = precision == kFloat ? 500 : 100;
  const int32_t zero_points[] = {131, 0, 255, 1};
  return {.g = g,
          .x = drawn_codes<uint8_t>(inputs(g), seed),
          .w = drawn_codes<int8_t>(g.out_c * g.depth(), seed + 1),
          .dy = drawn<float>(g.rows() * g.out_c, seed + 2, std::uniform_int_distribution<int>(-most, most)),
          .scale = drawn<float>(g.out_c, seed + 3, std::uniform_int_distribution<int>(1, 2)),
          .factor = drawn<float>(g.out_c, seed + 4, std::uniform_int_distribution<int>(1, 4)),
          .zero_point = zero_points[seed % 4]};
}

Case normals(const ConvGeometry& g, uint64_t seed) {
  Case c = integers(g, kFloat, seed);
  c.dy = drawn<float>(g.rows() * g.out_c, seed + 2, std::normal_distribution<float>(0.0f, 1e-3f));
  c.scale = drawn<float>(g.out_c, seed + 3, std::uniform_real_distribution<float>(1e-3f, 2e-2f));
  c.factor = drawn<float>(g.out_c, seed + 4, std::uniform_real_distribution<float>(1.0f, 3.0f));
  return c;
}

/// Calls visit(row, output channel, tap's place in w, pixel) for all products; the places are those of the first input
/// channel of the output's group.
template <class Visit>
void for_products(const ConvGeometry& g, const Visit& visit) {
  const int64_t group_in = g.in_c / g.groups, group_out = g.out_c / g.groups;
  for (int64_t row = 0; row < g.rows(); ++row) {
    const int64_t sample = row / (g.out_h() * g.out_w()), oh = row / g.out_w() % g.out_h(), ow = row % g.out_w();
    for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
      for (int64_t kw = 0; kw < g.kernel_w; ++kw) {
        const int64_t ih = oh * g.stride_h - g.pad_top + kh * g.dilation_h;
        const int64_t iw = ow * g.stride_w - g.pad_left + kw * g.dilation_w;
        if (ih < 0 || ih >= g.in_h || iw < 0 || iw >= g.in_w) continue;
        const int64_t pixel = ((sample * g.in_h + ih) * g.in_w + iw) * g.in_c;
        for (int64_t co = 0; co < g.out_c; ++co) {
          const int64_t w = (co * g.kernel_h * g.kernel_w + kh * g.kernel_w + kw) * group_in;
          visit(row, co, w, pixel + co / group_out * group_in);
        }
      }
    }
  }
}

std::vector<double> reference_inputs(const Case& c) {
  std::vector<double> dx(static_cast<size_t>(inputs(c.g)));
  for_products(c.g, [&](int64_t row, int64_t co, int64_t w, int64_t pixel) {
    const double dy = double{c.dy[row * c.g.out_c + co]} * c.scale[co];
    for (int64_t ci = 0; ci < c.g.in_c / c.g.groups; ++ci) dx[pixel + ci] += dy * c.w[w + ci];
  });
  return dx;
}

std::vector<double> reference_weights(const Case& c) {
  std::vector<double> dw(static_cast<size_t>(c.g.out_c * c.g.depth()));
  for_products(c.g, [&](int64_t row, int64_t co, int64_t w, int64_t pixel) {
    const double dy = double{c.dy[row * c.g.out_c + co]} * c.scale[co] * c.factor[co];
    for (int64_t ci = 0; ci < c.g.in_c / c.g.groups; ++ci) dw[w + ci] += dy * (c.x[pixel + ci] - c.zero_point);
  });
  return dw;
}

/// dx and dw; `before` is added to dx unless it is empty. Scratch and operand are as large as asked for.
std::tuple<std::vector<float>, std::vector<float>> gradients(const Case& c, GradientPrecision precision,
                                                             const std::vector<float>& before = {}, int64_t shift = 0) {
  const Array<float> dy(c.dy, shift), scale(c.scale, shift), factor(c.factor, shift);
  const Array<uint8_t> x(c.x, shift);
  const Array<int8_t> w(c.w, shift);
  const Array<int32_t> zero({c.zero_point});
  const auto bytes = [](size_t count) { return static_cast<int64_t>(std::max<size_t>(count, 1)); };
  const Array<unsigned char> operand(bytes(gradient_operand_bytes(c.g, precision)));
  const Array<unsigned char> input_scratch(bytes(input_gradient_scratch(c.g, precision)));
  const Array<unsigned char> weight_scratch(bytes(weight_gradient_scratch(c.g, precision)));
  const Array<float> dx(before.empty() ? std::vector<float>(static_cast<size_t>(inputs(c.g)), NAN) : before, shift);
  const Array<float> dw(c.g.out_c * c.g.depth(), shift);
  gradient_operand(c.g, precision, {.g = dy.data()}, scale.data(), operand.data(), nullptr);
  input_gradient(c.g, precision, operand.data(), w.data(), !before.empty(), dx.data(), input_scratch.data(), nullptr);
  weight_gradient(c.g, precision, x.data(), zero.data(), operand.data(), factor.data(), dw.data(),
                  weight_scratch.data(), nullptr);
  operand.host(), input_scratch.host(), weight_scratch.host();  // their guards
  return {dx.host(), dw.host()};
}

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

void expect_exact(const ConvGeometry& g, uint64_t seed, int64_t shift = 0) {
  for (const GradientPrecision precision : {kFloat, kBfloat16}) {
    SCOPED_TRACE(
        fmt::format("{}, seed {}, shift {}, {}", describe(g), seed, shift, precision == kFloat ? "float" : "bfloat16"));
    const Case c = integers(g, precision, seed);
    const auto [dx, dw] = gradients(c, precision, {}, shift);
    expect_equal(dx, floats(reference_inputs(c)));
    expect_equal(dw, floats(reference_weights(c)));
  }
}

/// Of the difference's norm.
double relative_error(const std::vector<float>& values, const std::vector<double>& exact) {
  double error = 0.0, norm = 0.0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += (values[i] - exact[i]) * (values[i] - exact[i]);
    norm += exact[i] * exact[i];
  }
  return std::sqrt(error / norm);
}

void expect_close(const ConvGeometry& g, uint64_t seed) {
  const Case c = normals(g, seed);
  const std::vector<double> inputs = reference_inputs(c), weights = reference_weights(c);
  for (const auto& [precision, most] : {std::pair{kFloat, 3e-5}, {kBfloat16, 4e-3}}) {
    SCOPED_TRACE(fmt::format("{}, at most {}", describe(g), most));
    const auto [dx, dw] = gradients(c, precision);
    EXPECT_LT(relative_error(dx, inputs), most);
    EXPECT_LT(relative_error(dw, weights), most);
    // Not more digits than the operand has, or the wrong operand was read.
    if (precision == kBfloat16) {
      EXPECT_GT(relative_error(dw, weights), 5e-4);
    }
  }
}

TEST_F(CudaConvolveGradient, ExactForSmallIntegers) {
  expect_exact(square(2, 6, 16, 24, 3, 1, 1), 1);
  expect_exact(square(3, 7, 3, 10, 3, 2, 1), 2);  // channels that are no multiple of eight
  expect_exact(square(2, 9, 3, 16, 7, 2, 3), 3);  // a stem
  expect_exact(square(1, 13, 10, 7, 5, 3, 2), 4);
  expect_exact(square(3, 8, 40, 70, 1, 2, 0), 5);  // a shortcut: most inputs are read by nobody
  expect_exact(square(5, 4, 130, 33, 1, 1, 0), 6);
  expect_exact(square(9, 1, 100, 75, 1, 1, 0), 7);  // a linear layer
  expect_exact(square(1, 1, 1, 1, 1, 1, 0), 8);
}

TEST_F(CudaConvolveGradient, AllTiles) {
  expect_exact(square(2, 10, 8, 130, 3, 1, 1), 1);    // 128x64 of weights in two parts
  expect_exact(square(2, 12, 136, 136, 1, 1, 0), 2);  // 128x128 of weights
  // 128x128 of inputs, as many as keep the GPU busy
  expect_exact(square(kernels::processors(), 16, 129, 9, 1, 1, 0), 3);
  expect_exact(square(kernels::processors(), 16, 68, 5, 1, 1, 0), 3);  // 128x64; its weights have many parts
  expect_exact(square(kernels::processors(), 16, 18, 5, 1, 1, 0), 3);  // 128x32
  expect_exact(square(3, 24, 20, 20, 1, 1, 0), 4);                     // 64x32, several blocks
  expect_exact({.batch = 70, .in_c = 72, .out_c = 9}, 5);              // several rows of blocks
}

/// Three taps of one slice: maps as small as a kernel, lines that begin inside of a block, samples that end there.
TEST_F(CudaConvolveGradient, OutputsOfTheInputsSize) {
  expect_exact(square(3, 5, 40, 70, 3, 1, 1), 1);
  expect_exact(square(1, 1, 9, 8, 3, 1, 1), 2);
  expect_exact(square(2, 2, 66, 33, 3, 1, 1), 3, 1);
  expect_exact(square(7, 9, 30, 40, 3, 1, 1), 4);
  ConvGeometry g{.batch = 3, .in_h = 7, .in_w = 5, .in_c = 12, .out_c = 44, .kernel_h = 4, .kernel_w = 3};
  g.pad_top = 3, g.pad_left = 2;  // none behind
  expect_exact(g, 5);
  g.pad_top = 0, g.pad_left = 0, g.pad_bottom = 3, g.pad_right = 2;
  expect_exact(g, 6);
  g.dilation_h = 2, g.pad_top = 4, g.pad_bottom = 2;
  expect_exact(g, 7);
  g.kernel_h = 1, g.pad_top = g.pad_bottom = 0;
  expect_exact(g, 8);
  g = {.batch = 5, .in_h = 1, .in_w = 31, .in_c = 4, .out_c = 5, .kernel_h = 31, .kernel_w = 3, .pad_top = 15};
  g.pad_bottom = 15, g.pad_left = g.pad_right = 1;
  expect_exact(g, 9);
  expect_exact(square(kernels::processors(), 16, 68, 5, 3, 1, 1), 10);  // 128x64
  expect_exact(square(kernels::processors(), 16, 18, 5, 3, 1, 1), 11);  // 128x32
}

TEST_F(CudaConvolveGradient, OddGeometries) {
  ConvGeometry g{.batch = 2, .in_h = 9, .in_w = 5, .in_c = 12, .out_c = 9, .kernel_h = 2, .kernel_w = 4};
  g.pad_top = 2, g.pad_left = 0, g.pad_bottom = 1, g.pad_right = 3;
  expect_exact(g, 1);
  g.stride_h = 3;
  expect_exact(g, 2);
  g.dilation_h = 3, g.dilation_w = 2, g.pad_right = 5;  // no tap of two thirds of the rows
  expect_exact(g, 3);
  g.stride_w = 4, g.dilation_w = 1;
  expect_exact(g, 4, 1);
  g.stride_h = 4, g.dilation_h = 6;  // every second tap, by a common divisor
  g.pad_top = 11, g.kernel_h = 3;
  expect_exact(g, 5);
  expect_exact({.in_h = 3, .in_w = 4, .in_c = 2, .out_c = 3, .stride_h = 9, .stride_w = 7}, 6);  // one output
  expect_exact({.in_h = 31, .in_w = 6, .in_c = 1, .out_c = 2, .kernel_h = 31, .kernel_w = 5}, 7);
  expect_exact({.in_h = 2, .in_w = 40, .in_c = 5, .out_c = 6, .kernel_w = 31, .pad_left = 30, .pad_right = 12}, 8);
}

TEST_F(CudaConvolveGradient, RandomGeometries) {
  std::mt19937_64 random(1);
  const auto draw = [&](int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  for (int i = 0; i < 60; ++i) {
    ConvGeometry g{.batch = draw(1, 3), .in_h = draw(1, 9), .in_w = draw(1, 9)};
    g.in_c = draw(1, i % 8 == 0 ? 140 : 20), g.out_c = draw(1, i % 8 == 1 ? 140 : 20);
    g.kernel_h = draw(1, 4), g.kernel_w = draw(1, 4);
    g.stride_h = draw(1, 3), g.stride_w = draw(1, 3);
    g.pad_top = draw(0, 3), g.pad_left = draw(0, 3), g.pad_bottom = draw(0, 3), g.pad_right = draw(0, 3);
    g.dilation_h = draw(1, 3), g.dilation_w = draw(1, 3);
    if (g.in_h + g.pad_top + g.pad_bottom <= g.dilation_h * (g.kernel_h - 1)) continue;
    if (g.in_w + g.pad_left + g.pad_right <= g.dilation_w * (g.kernel_w - 1)) continue;
    expect_exact(g, static_cast<uint64_t>(i), i % 5 == 4 ? 1 : 0);
  }
}

TEST_F(CudaConvolveGradient, PrecisionOfNormalGradients) {
  expect_close(square(2, 8, 40, 72, 3, 1, 1), 1);
  expect_close(square(3, 9, 16, 16, 3, 2, 1), 2);
  expect_close(square(33, 1, 90, 130, 1, 1, 0), 3);
}

/// One channel of another size must keep its own digits: 2^-16 of its own products.
TEST_F(CudaConvolveGradient, ChannelsOfDifferentSizes) {
  Case c = normals(square(2, 5, 16, 8, 3, 1, 1), 9);
  for (size_t co = 0; co < 8; ++co) c.scale[co] = std::ldexp(1.5f, static_cast<int>(co) * 10 - 60);
  const auto [dx, dw] = gradients(c, kFloat);
  const std::vector<double> exact = reference_weights(c);
  const auto depth = static_cast<std::ptrdiff_t>(c.g.depth());
  for (std::ptrdiff_t co = 0; co < 8; ++co) {
    const auto begin = co * depth, end = begin + depth;
    EXPECT_LT(relative_error({dw.begin() + begin, dw.begin() + end}, {exact.begin() + begin, exact.begin() + end}),
              3e-5)
        << co;
  }
}

TEST_F(CudaConvolveGradient, AddsToWhatIsThere) {
  for (const int64_t stride : {1, 2}) {
    for (const int64_t channels : {6, 7}) {
      const ConvGeometry g = square(2, 7, channels, 12, 1, stride, 0);
      const Case c = integers(g, kFloat, 3);
      const auto before = drawn<float>(inputs(g), 11, std::uniform_int_distribution<int>(-1000, 1000));
      std::vector<double> sum = reference_inputs(c);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += before[i];
      expect_equal(std::get<0>(gradients(c, kFloat, before, stride - 1)), floats(sum));
    }
  }
}

TEST_F(CudaConvolveGradient, TheSameEveryTime) {
  const Case c = normals(square(2, 12, 33, 20, 3, 1, 1), 4);
  for (const GradientPrecision precision : {kFloat, kBfloat16}) {
    const auto first = gradients(c, precision), second = gradients(c, precision);
    expect_equal(std::get<0>(first), std::get<0>(second));
    expect_equal(std::get<1>(first), std::get<1>(second));
  }
}

TEST_F(CudaConvolveGradient, OtherGroupsAndLargeKernels) {
  ConvGeometry depthwise = square(2, 6, 12, 12, 3, 2, 1);
  depthwise.groups = 12;
  expect_exact(depthwise, 1);
  ConvGeometry groups = square(2, 5, 6, 9, 3, 1, 1);
  groups.groups = 3;
  expect_exact(groups, 2, 1);
  expect_exact({.in_h = 40, .in_w = 3, .in_c = 4, .out_c = 3, .kernel_h = 32}, 3);
}

float value_of(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

TEST_F(CudaConvolveGradient, OperandIsTwoNearestBfloat16) {
  const auto operand_of = [](const std::vector<float>& dy, int64_t out_c, float scale, GradientPrecision precision) {
    const ConvGeometry g{.batch = static_cast<int64_t>(dy.size()) / out_c, .out_c = out_c};
    const size_t bytes = gradient_operand_bytes(g, precision);
    EXPECT_EQ(bytes % 16, 0u);
    const Array<uint16_t> operand(static_cast<int64_t>(bytes / 2));
    const Array<float> gradient(dy, 1), scales(std::vector<float>(static_cast<size_t>(out_c), scale));
    gradient_operand(g, precision, {.g = gradient.data()}, scales.data(), operand.data(), nullptr);
    return operand.host();
  };
  // By hand: 1 + 2^-8 is halfway and goes to the even neighbour, 1 + 3 * 2^-8 to the one above.
  const std::vector<float> halves = {1.00390625f, 1.01171875f, -1.00390625f, 1.00390637f, 0.0f, -0.0f};
  const std::vector<uint16_t> expected = {0x3f80, 0x3f82, 0xbf80, 0x3f81, 0, 0x8000, 0, 0};
  expect_equal(operand_of(halves, 6, 1.0f, kBfloat16), expected);
  std::vector<uint16_t> both = expected;
  both.insert(both.end(), {0x3b80, 0xbb80, 0xbb80, 0xbb80, 0, 0, 0, 0});
  expect_equal(operand_of(halves, 6, 1.0f, kFloat), both);

  const auto dy = drawn<float>(77 * 11, 5, std::normal_distribution<float>());
  const auto operand = operand_of(dy, 11, 0.3f, kFloat);
  ASSERT_EQ(operand.size(), 2u * 77 * 16);
  for (size_t i = 0; i < dy.size(); ++i) {
    const size_t place = i / 11 * 16 + i % 11;
    const float value = dy[i] * 0.3f, high = value_of(operand[place]), low = value_of(operand[77 * 16 + place]);
    EXPECT_LE(std::abs(value - high), std::ldexp(std::abs(value), -8));
    EXPECT_LE(std::abs(double{value} - high - low), std::ldexp(std::abs(value), -17));
  }
  EXPECT_TRUE(std::isnan(value_of(operand_of({std::bit_cast<float>(0x7fffffffu)}, 1, 1.0f, kBfloat16)[0])));
}

TEST_F(CudaConvolveGradient, EmptyBatch) {
  const ConvGeometry g{.batch = 0, .in_c = 2, .out_c = 3};
  EXPECT_EQ(gradient_operand_bytes(g, kFloat), 0u);
  EXPECT_EQ(weight_gradient_scratch(g, kFloat), 0u);
  const Array<float> dx(4), dw(6);
  gradient_operand(g, kFloat, {}, nullptr, nullptr, nullptr);
  input_gradient(g, kFloat, nullptr, nullptr, false, dx.data(), nullptr, nullptr);
  weight_gradient(g, kFloat, nullptr, nullptr, nullptr, nullptr, dw.data(), nullptr, nullptr);
  expect_equal(dx.host(), std::vector<float>(4, std::bit_cast<float>(0xa5a5a5a5u)));
  expect_equal(dw.host(), std::vector<float>(6, 0.0f));
}

TEST(CudaConvolveGradientArguments, RefusesImpossibleGeometries) {
  const auto refuses = [](const ConvGeometry& g) {
    SCOPED_TRACE(describe(g));
    EXPECT_THROW(gradient_operand_bytes(g, kFloat), Error);
    EXPECT_THROW(gradient_operand(g, kFloat, {}, nullptr, nullptr, nullptr), Error);
    EXPECT_THROW(input_gradient_scratch(g, kFloat), Error);
    EXPECT_THROW(input_gradient(g, kFloat, nullptr, nullptr, false, nullptr, nullptr, nullptr), Error);
    EXPECT_THROW(weight_gradient_scratch(g, kFloat), Error);
    EXPECT_THROW(weight_gradient(g, kFloat, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), Error);
  };
  refuses({.in_h = 2, .kernel_h = 3});
  refuses({.in_c = 3, .out_c = 2, .groups = 2});
  refuses({.stride_w = 0});
  refuses({.batch = 1 << 20, .in_h = 1 << 10});
  refuses({.batch = 1 << 20, .in_h = 1 << 10, .stride_h = 1 << 10});  // few outputs of many pixels
  refuses({.stride_h = int64_t{1} << 31});
}

}  // namespace
}  // namespace qat::ops::cuda
