#include "core/ops/table.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/base/error.h"
#include "core/ops/cuda/table.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaTable : public GpuTest {};

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A function as core/nn/activation.cpp has it, for the CPU.
struct Case {
  Function function;
  float alpha;
  float value(float v) const {
    switch (function) {
      case Function::kIdentity:
        return v;
      case Function::kLeakyRelu:
        return ops::leaky_relu(v, alpha);
      case Function::kHardsigmoid:
        return ops::hardsigmoid(v);
      case Function::kHardswish:
        return ops::hardswish(v);
    }
    return v;
  }
  double derivative(double v) const {
    switch (function) {
      case Function::kIdentity:
        return 1.0;
      case Function::kLeakyRelu:
        return v > 0 ? 1.0 : static_cast<double>(alpha);
      case Function::kHardsigmoid:
        return v > -3 && v < 3 ? 1.0 / 6.0 : 0.0;
      case Function::kHardswish:
        if (v <= -3) return 0.0;
        return v < 3 ? (2.0 * v + 3.0) / 6.0 : 1.0;
    }
    return 0.0;
  }
};

constexpr Case kCases[] = {{Function::kIdentity, 0},      {Function::kLeakyRelu, 0.1f},   {Function::kLeakyRelu, 0.0f},
                           {Function::kLeakyRelu, -0.5f}, {Function::kHardsigmoid, 0.0f}, {Function::kHardswish, 0.0f}};

/// Scales and zero points, on both sides.
struct Coding {
  float scale_x;
  int32_t zero_x;
  float scale_y;
  ops::CodeRange range;
};

constexpr Coding kCodings[] = {
    {0.05f, 128, 0.04f, {0, 255, 100}},   {0.0471f, 64, 0.0231f, {0, 255, 0}},    {0.0471f, 64, 0.0471f, {0, 255, 64}},
    {0.0471f, 64, 0.0471f, {3, 200, 64}}, {0.0471f, 64, 0.0471f, {0, 255, 65}},   {0.25f, 12, 0.5f, {5, 15, 8}},
    {3e-41f, 200, 3e-41f, {0, 255, 7}},   {1e-38f, 128, 1e-3f, {0, 255, 128}},    {1e30f, 128, 1e-8f, {10, 245, 128}},
    {1e36f, 0, 1e38f, {0, 255, 255}},     {0.023529f, 128, 1.0f / 3, {0, 15, 15}}};

/// A coding on the device.
struct DeviceCoding {
  explicit DeviceCoding(const Coding& c) : scales({c.scale_x, c.scale_y}), zeros({c.zero_x, c.range.zero_point}) {}
  TableParams params(const Case& f, const ops::CodeRange& range) const {
    return {f.function,   f.alpha,           scales.data(),
            zeros.data(), scales.data() + 1, {range.lo, range.hi, zeros.data() + 1}};
  }
  Array<float> scales;
  Array<int32_t> zeros;
};

std::vector<float> floats(const float (&values)[256]) { return {values, values + 256}; }

TEST_F(CudaTable, TablesAndSlopesAreTheCpus) {
  for (const Case& f : kCases) {
    for (const Coding& c : kCodings) {
      SCOPED_TRACE(fmt::format("function {}, alpha {}, scales {} and {}, zero points {} and {}",
                               static_cast<int>(f.function), f.alpha, c.scale_x, c.scale_y, c.zero_x,
                               c.range.zero_point));
      const auto table = f.function == Function::kIdentity
                             ? ops::concat_table<uint8_t>(c.scale_x, c.zero_x, c.scale_y, c.range)
                             : ops::function_table<uint8_t>(c.scale_x, c.zero_x, c.scale_y, c.range,
                                                            [&](float v) { return f.value(v); });
      Slopes expected;
      const double lo = c.range.lo - c.range.zero_point, hi = c.range.hi - c.range.zero_point;
      for (int q = 0; q < 256; ++q) {
        const float real = c.scale_x * static_cast<float>(q - c.zero_x);
        const double t = f.value(real) / c.scale_y;
        const bool inside = t >= lo && t <= hi;
        expected.to_input[q] = inside ? static_cast<float>(f.derivative(real)) : 0.0f;
        expected.to_scale[q] = static_cast<float>(inside ? std::nearbyint(t) - t : std::clamp(t, lo, hi));
      }
      const DeviceCoding device(c);
      const Array<uint8_t> gpu(256), alone(256);
      const Array<Slopes> slopes(1);
      make_table(device.params(f, c.range), gpu.data(), slopes.data(), nullptr);
      make_table(device.params(f, c.range), alone.data(), nullptr, nullptr);
      expect_equal(gpu.host(), std::vector<uint8_t>(table.begin(), table.end()));
      expect_equal(alone.host(), std::vector<uint8_t>(table.begin(), table.end()));
      const Slopes found = slopes.host()[0];
      expect_equal(floats(found.to_input), floats(expected.to_input));
      expect_equal(floats(found.to_scale), floats(expected.to_scale));
    }
  }
}

TEST_F(CudaTable, SlopesByHand) {
  // Hardswish of -4, 1 and 4, codes of a half: 0, 1.33 and 8, of which the last is beyond the highest code, 10 - 4.
  const Coding c{0.25f, 100, 0.5f, {0, 10, 4}};
  const DeviceCoding device(c);
  const Array<uint8_t> table(256);
  const Array<Slopes> slopes(1);
  make_table(device.params({Function::kHardswish, 0}, c.range), table.data(), slopes.data(), nullptr);
  const std::vector<uint8_t> codes = table.host();
  const Slopes found = slopes.host()[0];
  EXPECT_EQ(codes[84], 4);
  EXPECT_EQ(codes[104], 5);
  EXPECT_EQ(codes[116], 10);
  EXPECT_EQ(found.to_input[84], 0.0f);
  EXPECT_FLOAT_EQ(found.to_input[104], 5.0f / 6.0f);
  EXPECT_EQ(found.to_input[116], 0.0f);
  EXPECT_EQ(found.to_scale[84], 0.0f);
  EXPECT_FLOAT_EQ(found.to_scale[104], -1.0f / 3.0f);
  EXPECT_EQ(found.to_scale[116], 6.0f);
}

/// What the CPU finds (core/autograd/table.cpp), joined to what was there.
std::vector<double> range_of(const std::vector<uint8_t>& x, const Case& f, const Coding& c, double lo, double hi) {
  std::array<bool, 256> seen{};
  for (const uint8_t code : x) seen[code] = true;
  double least = kInfinity, most = -kInfinity;
  for (int q = 0; q < 256; ++q) {
    if (!seen[static_cast<size_t>(q)]) continue;
    const double v = f.value(c.scale_x * static_cast<float>(q - c.zero_x));
    least = std::min(least, v);
    most = std::max(most, v);
  }
  return {std::min(lo, least), std::max(hi, most)};
}

void expect_range(const std::vector<uint8_t>& x, const Case& f, const Coding& c, int64_t shift) {
  SCOPED_TRACE(fmt::format("{} codes, function {}, alpha {}, scale {}, zero point {}, shift {}", x.size(),
                           static_cast<int>(f.function), f.alpha, c.scale_x, c.zero_x, shift));
  const DeviceCoding device(c);
  const Array<uint8_t> codes(x, shift);
  const Array<double> ends(2), others({-0.375, 0.25});
  const Array<char> scratch(static_cast<int64_t>(table_range_scratch()));
  const auto n = static_cast<int64_t>(x.size());
  TableParams p = device.params(f, c.range);
  p.scale_y = nullptr, p.range = {};
  table_range(codes.data(), n, p, ends.data(), false, scratch.data(), nullptr);
  table_range(codes.data(), n, p, others.data(), true, scratch.data(), nullptr);
  expect_equal(ends.host(), range_of(x, f, c, kInfinity, -kInfinity));
  expect_equal(others.host(), range_of(x, f, c, -0.375, 0.25));
  scratch.host();  // nothing behind it was written
}

TEST_F(CudaTable, RangesOfTheCodesThatOccur) {
  for (const Case& f : kCases) {
    for (const Coding& c : kCodings) {
      for (const int n : {1, 7, 9, 3001}) {
        // Few codes of the middle, or all of them.
        expect_range(drawn<uint8_t>(n, n, std::uniform_int_distribution<int>(90, 140)), f, c, 0);
        expect_range(drawn_codes<uint8_t>(n, n + 1), f, c, 1);
      }
      for (const int code : {0, 64, 128, 255}) expect_range({static_cast<uint8_t>(code)}, f, c, 0);
    }
  }
}

TEST_F(CudaTable, OfZerosTheFirstCounts) {
  // Hardswish is -0 at -4, +0 at 0: the CPU keeps the sign of the lower code. So does leaky ReLU with a slope of 0.
  for (const int low : {0, 40, 80, 99}) {
    for (const Case& f : {Case{Function::kHardswish, 0}, Case{Function::kLeakyRelu, 0}}) {
      expect_range({100, static_cast<uint8_t>(low)}, f, {0.25f, 100, 1.0f, {0, 255, 0}}, 0);
      expect_range({static_cast<uint8_t>(low), 100}, f, {4.0f, 100, 1.0f, {0, 255, 0}}, 0);
    }
  }
}

TEST_F(CudaTable, ACodeIsSeenWhereverItIs) {
  const Coding c{0.5f, 100, 1.0f, {0, 255, 0}};
  constexpr int64_t kAtOnce = 1024 * 2048;  // what all blocks take before they go on
  for (const int64_t at : {int64_t{0}, int64_t{7}, int64_t{8}, int64_t{2047}, int64_t{2048}, kAtOnce - 1, kAtOnce,
                           kAtOnce + 8, kAtOnce + 12}) {
    std::vector<uint8_t> x(at < kAtOnce - 1 ? 5003 : kAtOnce + 13, 100);
    x[at] = 200;
    expect_range(x, kCases[0], c, 0);
  }
}

TEST_F(CudaTable, PartsOfAConcatenationAreLookedUp) {
  const auto table = drawn_codes<uint8_t>(256, 1);
  const Array<uint8_t> map(table);
  for (const int64_t pixels : {1, 3, 100}) {
    for (const int64_t channels : {1, 3, 8, 16, 24}) {
      for (const int64_t others : {0, 1, 3, 8, 24}) {
        for (const int64_t begin : {int64_t{0}, others / 2, others}) {
          for (const int64_t shift : {0, 1}) {
            SCOPED_TRACE(fmt::format("{} pixels, {} channels at {} of {}, shift {}", pixels, channels, begin,
                                     channels + others, shift));
            const int64_t width = channels + others;
            const auto x = drawn_codes<uint8_t>(pixels * channels, pixels + channels);
            auto y = drawn_codes<uint8_t>(pixels * width, 3);
            const Array<uint8_t> in(x, shift), out(y, shift);
            lookup_channels(in.data(), pixels, channels, map.data(), out.data(), width, begin, nullptr);
            for (int64_t i = 0; i < pixels * channels; ++i) {
              y[i / channels * width + begin + i % channels] = table[x[i]];
            }
            expect_equal(out.host(), y);
          }
        }
      }
    }
  }
}

void expect_gradient(int64_t pixels, int64_t channels, int64_t others, int64_t begin, int64_t shift) {
  const int64_t width = channels + others, n = pixels * channels;
  SCOPED_TRACE(fmt::format("{} pixels, {} channels at {} of {}, shift {}", pixels, channels, begin, width, shift));
  Slopes slopes;
  const auto drawn_slopes = drawn<float>(512, 9, std::normal_distribution<float>());
  std::copy_n(drawn_slopes.begin(), 256, slopes.to_input);
  std::copy_n(drawn_slopes.begin() + 256, 256, slopes.to_scale);
  const auto x = drawn_codes<uint8_t>(n, n);
  const auto g = drawn<float>(pixels * width, n + 1, std::normal_distribution<float>());
  std::vector<float> dx(n);
  double sum = 0, terms = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float of = g[i / channels * width + begin + i % channels];
    dx[i] = of * slopes.to_input[x[i]];
    const double term = static_cast<double>(of) * slopes.to_scale[x[i]];
    sum += term, terms += std::abs(term);
  }
  const Array<Slopes> device(std::vector<Slopes>{slopes});
  const Array<uint8_t> codes(x, shift);
  const Array<float> gradient(g, shift), both(n, shift), alone(n, shift);
  const Array<double> ds(1), joined({1000.0});
  const Array<char> scratch(static_cast<int64_t>(table_gradient_scratch(pixels, channels)));
  const auto run = [&](float* into, double* scale, bool joins) {
    table_gradient(gradient.data(), codes.data(), pixels, channels, width, begin, device.data(), into, scale, joins,
                   scratch.data(), nullptr);
  };
  run(both.data(), ds.data(), false);
  run(nullptr, joined.data(), true);
  table_gradient(gradient.data(), codes.data(), pixels, channels, width, begin, device.data(), alone.data(), nullptr,
                 false, nullptr, nullptr);
  run(nullptr, nullptr, false);
  expect_equal(both.host(), dx);
  expect_equal(alone.host(), dx);
  EXPECT_NEAR(ds.host()[0], sum, 1e-13 * terms);
  expect_equal(joined.host(), {1000.0 + ds.host()[0]});  // the same sum each time
  scratch.host();
}

TEST_F(CudaTable, GradientsOfPartsOfAConcatenation) {
  for (const int64_t channels : {1, 3, 8, 16}) {
    for (const int64_t others : {0, 1, 4, 8}) {
      for (const int64_t begin : {int64_t{0}, others / 2, others}) {
        for (const int64_t shift : {0, 1}) expect_gradient(37, channels, others, begin, shift);
      }
    }
  }
  expect_gradient(1, 1, 0, 0, 0);
  expect_gradient(1024 * 2048 + 9, 1, 0, 0, 0);  // more than all blocks take at once
}

TEST(CudaTableArguments, RefusesWhatLiesOutside) {
  EXPECT_THROW(make_table({.range = {0, 256, nullptr}}, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(table_range(nullptr, -1, {}, nullptr, false, nullptr, nullptr), Error);
  EXPECT_THROW(lookup_channels(nullptr, 1, 4, nullptr, nullptr, 7, 4, nullptr), Error);
  EXPECT_THROW(lookup_channels(nullptr, 1, 4, nullptr, nullptr, 8, -1, nullptr), Error);
  EXPECT_THROW(table_gradient(nullptr, nullptr, 1, 4, 7, 4, nullptr, nullptr, nullptr, false, nullptr, nullptr), Error);
}

TEST_F(CudaTable, NothingIsLeftAsItIs) {
  lookup_channels(nullptr, 0, 4, nullptr, nullptr, 8, 4, nullptr);
  lookup_channels(nullptr, 4, 0, nullptr, nullptr, 8, 8, nullptr);
  const DeviceCoding device(kCodings[0]);
  const Array<char> scratch(static_cast<int64_t>(table_range_scratch()));
  const Array<double> ends(2), others({-0.375, 0.25}), ds(1), joined({3.0});
  const TableParams p = device.params(kCases[0], kCodings[0].range);
  table_range(nullptr, 0, p, ends.data(), false, scratch.data(), nullptr);
  table_range(nullptr, 0, p, others.data(), true, scratch.data(), nullptr);
  expect_equal(ends.host(), {kInfinity, -kInfinity});
  expect_equal(others.host(), {-0.375, 0.25});
  table_gradient(nullptr, nullptr, 0, 5, 8, 1, nullptr, nullptr, ds.data(), false, nullptr, nullptr);
  table_gradient(nullptr, nullptr, 0, 5, 8, 1, nullptr, nullptr, joined.data(), true, nullptr, nullptr);
  expect_equal(ds.host(), {0.0});
  expect_equal(joined.host(), {3.0});
}

}  // namespace
}  // namespace qat::ops::cuda
