#include "core/ops/convolve.h"

#include "core/base/error.h"
#include "core/ops/cuda/convolve.h"
#include "tests/ops/cuda/geometry.h"
#include "tests/ops/cuda/gpu.h"
#include "tests/ops/cuda/sums.h"

namespace qat::ops::cuda {
namespace {

class CudaConvolve : public GpuTest {};

void expect_convolved(const ConvGeometry& g, const std::vector<uint8_t>& x, int32_t zero_point,
                      const std::vector<int8_t>& w, int64_t shift = 0) {
  SCOPED_TRACE(fmt::format("{}, zero point {}, shift {}", describe(g), zero_point, shift));
  std::vector<int32_t> acc(g.rows() * g.out_c);
  ops::convolve(g, x.data(), zero_point, std::vector<int16_t>(w.begin(), w.end()).data(), acc.data());
  const Array<uint8_t> codes(x, shift);
  const Array<int8_t> weights(w, shift);
  const Array<int32_t> zero({zero_point}), gpu(g.rows() * g.out_c, shift);
  const DeviceSums sums(g.out_c, shift);
  convolve(g, codes.data(), zero.data(), weights.data(), gpu.data(), sums.sums(), nullptr);
  expect_equal(gpu.host(), acc);
  EXPECT_EQ(sums.difference(ops::channel_statistics(acc.data(), g.rows(), g.out_c)), "");
}

void expect_convolved(const ConvGeometry& g, uint64_t seed, int64_t shift = 0) {
  const auto x = drawn_codes<uint8_t>(g.batch * g.in_h * g.in_w * g.in_c, seed);
  const auto w = drawn_codes<int8_t>(g.out_c * g.depth(), seed + 1);
  const int32_t zero_points[] = {131, 0, 255, 1};
  expect_convolved(g, x, zero_points[seed % 4], w, shift);
}

/// Random geometries whose input channels of a group are a multiple of `unit`.
void check_random(int64_t unit, int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto draw = [&](int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  for (int i = 0; i < count; ++i) {
    ConvGeometry g{.batch = draw(1, 3), .in_h = draw(1, 13), .in_w = draw(1, 13)};
    g.groups = draw(0, 3) == 0 ? draw(2, 4) : 1;
    g.in_c = g.groups * unit * draw(1, unit == 16 ? 6 : 19);
    g.out_c = g.groups * draw(1, g.groups > 1 ? 20 : 200);
    g.kernel_h = draw(1, 4), g.kernel_w = draw(1, 4);
    g.stride_h = draw(1, 3), g.stride_w = draw(1, 3);
    g.pad_top = draw(0, 3), g.pad_left = draw(0, 3), g.pad_bottom = draw(0, 3), g.pad_right = draw(0, 3);
    g.dilation_h = draw(1, 2), g.dilation_w = draw(1, 2);
    if (g.in_h + g.pad_top + g.pad_bottom <= g.dilation_h * (g.kernel_h - 1)) continue;
    if (g.in_w + g.pad_left + g.pad_right <= g.dilation_w * (g.kernel_w - 1)) continue;
    expect_convolved(g, i, i % 5 == 4 ? 1 : 0);
  }
}

TEST_F(CudaConvolve, RandomGeometriesOfSixteenChannels) { check_random(16, 150, 1); }
TEST_F(CudaConvolve, RandomGeometriesOfFourChannels) { check_random(4, 150, 2); }
TEST_F(CudaConvolve, RandomGeometriesOfAnyChannels) { check_random(1, 200, 3); }

TEST_F(CudaConvolve, ShapesOfNetworks) {
  expect_convolved(square(2, 64, 3, 64, 7, 2, 3), 1);    // a stem
  expect_convolved(square(4, 28, 64, 64, 3, 1, 1), 2);   // several blocks of rows
  expect_convolved(square(8, 7, 256, 256, 3, 1, 1), 3);  // the depth in several parts
  expect_convolved(square(8, 4, 512, 512, 3, 1, 1), 4);
  expect_convolved(square(3, 14, 128, 256, 1, 2, 0), 5);  // a shortcut
  expect_convolved(square(4, 14, 24, 144, 1, 1, 0), 6);
  expect_convolved(square(4, 14, 144, 24, 1, 1, 0), 7);
  expect_convolved(square(2, 14, 144, 144, 3, 2, 1, 144), 8);
  expect_convolved(square(5, 28, 1, 32, 5, 1, 0), 9);
  expect_convolved(square(2, 14, 128, 128, 3, 1, 1, 32), 10);
  expect_convolved(square(70, 1, 1024, 1000, 1, 1, 0), 11);
  expect_convolved({.in_h = 40, .in_w = 3, .in_c = 16, .out_c = 8, .kernel_h = 32}, 12);  // a bit more than a mask's
  expect_convolved(square(10, 10, 512, 1000, 1, 1, 0), 13);  // enough blocks for the large tiles
}

TEST_F(CudaConvolve, Depthwise) {
  for (const int64_t channels : {2, 4, 8, 15, 16, 36, 96, 132}) {
    for (const int64_t stride : {1, 2}) {
      for (const int64_t kernel : {1, 3, 5}) {
        ConvGeometry g = square(2, 9, channels, channels, kernel, stride, kernel / 2, channels);
        g.in_w = 7, g.pad_bottom = 0;
        expect_convolved(g, channels + kernel);
        expect_convolved(g, channels + kernel, 1);
      }
    }
  }
  // More taps than shared memory holds, and two outputs a channel.
  expect_convolved({.in_h = 130,
                    .in_w = 130,
                    .in_c = 128,
                    .out_c = 128,
                    .kernel_h = 20,
                    .kernel_w = 21,
                    .stride_h = 40,
                    .stride_w = 40,
                    .groups = 128},
                   1);
  expect_convolved({.in_h = 5, .in_w = 6, .in_c = 8, .out_c = 16, .kernel_h = 3, .kernel_w = 3, .groups = 8}, 2);
}

TEST_F(CudaConvolve, ExtremesOfCodesAndPadding) {
  for (const int64_t channels : {3, 4, 16, 64}) {
    const ConvGeometry g = square(2, 6, channels, 40, 3, 1, 2);
    const size_t inputs = g.batch * g.in_h * g.in_w * g.in_c, weights = g.out_c * g.depth();
    for (const int32_t zero_point : {0, 255}) {
      for (const int8_t weight : {127, -127, -128}) {
        for (const uint8_t code : {0, 255}) {
          expect_convolved(g, std::vector<uint8_t>(inputs, code), zero_point, std::vector<int8_t>(weights, weight));
        }
      }
    }
  }
}

TEST_F(CudaConvolve, WrapsModulo2To32) {
  for (const int64_t depth : {70001, 70004, 70016}) {
    const ConvGeometry g{.batch = 3, .in_c = depth, .out_c = 5};
    const std::vector<uint8_t> x(g.batch * g.in_c, 255);
    const std::vector<int8_t> w(g.out_c * g.in_c, -128);
    ASSERT_LT(-128ll * 255 * depth, int64_t{INT32_MIN});
    expect_convolved(g, x, 0, w);
    expect_convolved(g, x, 255, w);
    expect_convolved(g, std::vector<uint8_t>(x.size(), 1), 255, w);
  }
}

TEST_F(CudaConvolve, EmptyBatchWritesNothing) {
  const Array<int32_t> acc(4);
  const DeviceSums sums(1);
  convolve({.batch = 0, .in_c = 2}, nullptr, nullptr, nullptr, acc.data(), sums.sums(), nullptr);
  expect_equal(acc.host(), std::vector<int32_t>(4, static_cast<int32_t>(0xa5a5a5a5)));
  sums.expect_untouched();
}

// Of every kernel: what is there is added to, and without words nothing is.
TEST_F(CudaConvolve, CallsAddUpTheirSums) {
  for (const ConvGeometry& g :
       {square(2, 14, 16, 24, 3, 1, 1), square(1, 9, 64, 64, 1, 1, 0), square(2, 6, 512, 40, 3, 1, 1),
        square(2, 9, 8, 8, 3, 1, 1, 8), square(2, 9, 6, 9, 3, 1, 1, 3)}) {
    SCOPED_TRACE(describe(g));
    const DeviceSums sums(g.out_c);
    const Array<int32_t> zero({7}), out(g.rows() * g.out_c);
    std::vector<int32_t> all;
    for (const uint64_t seed : {1, 2, 3}) {
      const auto x = drawn_codes<uint8_t>(g.batch * g.in_h * g.in_w * g.in_c, seed);
      const auto w = drawn_codes<int8_t>(g.out_c * g.depth(), seed + 9);
      const Array<uint8_t> codes(x);
      const Array<int8_t> weights(w);
      convolve(g, codes.data(), zero.data(), weights.data(), out.data(), seed == 2 ? ChannelSums{} : sums.sums(),
               nullptr);
      const std::vector<int32_t> acc = out.host();
      if (seed != 2) all.insert(all.end(), acc.begin(), acc.end());
    }
    EXPECT_EQ(sums.difference(ops::channel_statistics(all.data(), 2 * g.rows(), g.out_c)), "");
  }
}

TEST(CudaConvolveArguments, RefusesImpossibleGeometries) {
  const auto run = [](const ConvGeometry& g) { convolve(g, nullptr, nullptr, nullptr, nullptr, {}, nullptr); };
  EXPECT_THROW(run({.in_h = 2, .kernel_h = 3}), Error);
  EXPECT_THROW(run({.in_c = 3, .out_c = 2, .groups = 2}), Error);
  EXPECT_THROW(run({.stride_w = 0}), Error);
  EXPECT_THROW(run({.batch = 1 << 20, .in_h = 1 << 10}), Error);
  unsigned long long words = 0;
  EXPECT_THROW(convolve({.batch = 0, .out_c = 2}, nullptr, nullptr, nullptr, nullptr, {&words, 1}, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
