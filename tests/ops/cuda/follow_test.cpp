#include "core/ops/cuda/follow.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/base/error.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaFollow : public GpuTest {};

constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();
using Rule = FollowedRange::Rule;

/// What a quantizer of activations holds.
struct State {
  std::vector<double> range{0.0, 0.0};
  int64_t batches = 0;
  float scale = 1;
  int32_t zero_point = 77;
};

class DeviceState {
 public:
  explicit DeviceState(FollowedRange f, const State& s = {})
      : range_(s.range), batches_({s.batches}), scale_({s.scale}), zero_point_({s.zero_point}), failed_({0}), f_(f) {
    f_.range = range_.data(), f_.batches = batches_.data(), f_.scale = scale_.data();
    f_.zero_point = zero_point_.data();
  }
  void follow(double min, double max, bool relu) {
    const Array<double> ends({min, max});
    follow_range(ends.data(), relu, f_, failed_.data(), nullptr);
    expect_equal(ends.host(), {min, max});
  }
  /// Bit for bit.
  testing::AssertionResult is(const State& s) const {
    const auto range = range_.host();
    const bool equal = std::memcmp(range.data(), s.range.data(), sizeof(double) * range.size()) == 0 &&
                       batches_.host()[0] == s.batches &&
                       std::bit_cast<int32_t>(scale()) == std::bit_cast<int32_t>(s.scale) &&
                       zero_point() == s.zero_point;
    if (equal) return testing::AssertionSuccess();
    return testing::AssertionFailure() << fmt::format(
               "found range [{}, {}], {} batches, scale {}, zero point {}; expected [{}, {}], {}, {}, {}", range[0],
               range[1], batches_.host()[0], scale(), zero_point(), s.range[0], s.range[1], s.batches, s.scale,
               s.zero_point);
  }
  int32_t failed() const { return failed_.host()[0]; }
  float scale() const { return scale_.host()[0]; }
  int32_t zero_point() const { return zero_point_.host()[0]; }

 private:
  Array<double> range_;
  Array<int64_t> batches_;
  Array<float> scale_;
  Array<int32_t> zero_point_, failed_;
  FollowedRange f_;
};

/// core/quant/uniform.cpp's choose_params(), without torch.ao's schemes.
std::pair<double, int32_t> choose_params(bool affine, double min, double max, const FollowedRange& f) {
  min = std::min(min, 0.0);
  max = std::max(max, 0.0);
  const double largest = std::max(-min, max), width = static_cast<double>(f.hi) - f.lo;
  double scale = (max - min) / width;
  int32_t zero_point = f.symmetric_zero_point;
  if (!affine) scale = largest / (f.hi - zero_point);
  if (scale == 0) return {1, zero_point};
  scale = std::max(scale, 1.1920928955078125e-07);
  if (affine) {
    const double below = std::clamp(2 * std::nearbyint(-min / scale / 2), 0.0, width - 1);
    scale = std::max({scale, -min / (below + 0.5), max / (width - below + 0.5)});
    zero_point = f.lo + static_cast<int32_t>(below);
  }
  return {scale, zero_point};
}

/// Observer::observe(), the observers' add_range(), MinMax::initialize_parameters() and QuantSpec::largest_scale().
void observe(double min, double max, bool relu, const FollowedRange& f, State& s) {
  if (relu) min = std::max(min, 0.0), max = std::max(max, 0.0);
  double* r = s.range.data();
  const bool first = s.batches == 0 || f.rule == Rule::kLast;
  if (f.rule == Rule::kMovingAverage) {
    const bool copy = s.batches == 0 && f.starts_here;
    r[0] += (copy ? 1.0 : f.averaging) * (min - r[0]);
    r[1] += (copy ? 1.0 : f.averaging) * (max - r[1]);
  } else {
    r[0] = first ? min : std::min(r[0], min);
    r[1] = first ? max : std::max(r[1], max);
  }
  ++s.batches;
  const auto [scale, zero_point] = choose_params(f.is_signed && f.affine, f.is_signed ? r[0] : 0.0, r[1], f);
  double largest = kInf;
  if (f.hi > zero_point) largest = f.highest / (f.hi - zero_point);
  if (f.lo < zero_point) largest = std::min(largest, f.lowest / (f.lo - zero_point));
  s.scale = static_cast<float>(std::min(scale, largest));
  s.zero_point = zero_point;
}

struct Codes {
  int32_t hi, zero_point;
  bool is_signed, affine;
};
constexpr Codes kCodes[] = {{255, 0, false, false}, {255, 128, true, false}, {255, 128, true, true},
                            {15, 8, true, true},    {15, 0, false, false},   {1, 0, false, false},
                            {2, 1, true, false},    {2, 1, true, true},      {63, 32, true, true}};

std::vector<FollowedRange> all_ranges() {
  std::vector<FollowedRange> all;
  for (const Rule rule : {Rule::kMovingAverage, Rule::kExtremes, Rule::kLast}) {
    for (const Codes& c : kCodes) {
      for (const auto& [lowest, highest] : {std::pair(-kInf, kInf), {0.0, 6.0}, {-1.0, 0.5}, {-kInf, 3.0}}) {
        for (const double averaging : {0.01, 0.3, 1.0}) {
          FollowedRange f;
          f.rule = rule, f.averaging = averaging, f.starts_here = averaging != 0.3;
          f.is_signed = c.is_signed, f.affine = c.affine;
          f.hi = c.hi, f.symmetric_zero_point = c.zero_point;
          f.lowest = lowest, f.highest = highest;
          all.push_back(f);
          if (rule != Rule::kMovingAverage) break;
        }
      }
    }
  }
  return all;
}

std::vector<std::pair<double, double>> batches(uint64_t seed) {
  std::vector<std::pair<double, double>> all{{-0.0, 0.0},   {0.0, 0.0},   {-1.0, 3.0},  {2.0, 5.0},    {-4.0, -0.5},
                                             {-1e-9, 1e-9}, {0.0, 1e-40}, {-7.0, -0.0}, {-1e30, 1e29}, {1.5, 1.5}};
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  for (int i = 0; i < 12; ++i) {
    const double a = normal(random) * 5, b = normal(random) * std::exp(3 * normal(random));
    all.emplace_back(std::min(a, b), std::max(a, b));
  }
  std::shuffle(all.begin(), all.end(), random);
  return all;
}

TEST_F(CudaFollow, EveryRuleAndGridAsOnTheCpu) {
  uint64_t seed = 0;
  for (const FollowedRange& f : all_ranges()) {
    SCOPED_TRACE(fmt::format("rule {}, averaging {}, codes to {}, affine {}, limits [{}, {}]", static_cast<int>(f.rule),
                             f.averaging, f.hi, f.affine, f.lowest, f.highest));
    for (const bool relu : {false, true}) {
      State cpu;
      DeviceState gpu(f);
      for (const auto& [min, max] : batches(++seed)) {
        observe(min, max, relu, f, cpu);
        gpu.follow(min, max, relu);
        EXPECT_TRUE(gpu.is(cpu));
        if (HasFailure()) FAIL() << min << ", " << max;
      }
      EXPECT_EQ(gpu.failed(), 0);
    }
  }
}

TEST_F(CudaFollow, ByHand) {
  FollowedRange f;
  DeviceState average(f);
  average.follow(-1.0, 2.55, false);  // the first batch counts whole; unsigned: from 0
  EXPECT_TRUE(average.is({{-1.0, 2.55}, 1, static_cast<float>(2.55 / 255), 0}));
  average.follow(-2.0, 1.55, false);
  EXPECT_TRUE(average.is({{-1.0 + 0.01 * -1.0, 2.55 + 0.01 * (1.55 - 2.55)}, 2, static_cast<float>(2.54 / 255), 0}));

  f.starts_here = false, f.averaging = 0.5;
  DeviceState from_zero(f);
  from_zero.follow(-1.0, 4.0, false);
  EXPECT_TRUE(from_zero.is({{-0.5, 2.0}, 1, static_cast<float>(2.0 / 255), 0}));

  f.rule = Rule::kExtremes, f.is_signed = true, f.symmetric_zero_point = 128;
  DeviceState extremes(f);
  extremes.follow(1.0, 2.0, false);  // not from the 0 that the range holds before
  EXPECT_TRUE(extremes.is({{1.0, 2.0}, 1, static_cast<float>(2.0 / 127), 128}));
  extremes.follow(-12.7, 1.0, false);
  EXPECT_TRUE(extremes.is({{-12.7, 2.0}, 2, static_cast<float>(12.7 / 127), 128}));

  f.rule = Rule::kLast, f.affine = true;
  DeviceState last(f);
  last.follow(-1.0, 3.0, false);  // s = 4 / 255; 2 * rne(31.875) = 64
  EXPECT_TRUE(last.is({{-1.0, 3.0}, 1, static_cast<float>(4.0 / 255), 64}));
  last.follow(-1.0, 3.0, true);
  EXPECT_TRUE(last.is({{0.0, 3.0}, 2, static_cast<float>(3.0 / 255), 0}));
  last.follow(-5.0, -2.0, false);  // all below zero; the last code is not for the zero point
  EXPECT_TRUE(last.is({{-5.0, -2.0}, 3, static_cast<float>(5.0 / 254.5), 254}));
  last.follow(0.0, 0.0, false);
  EXPECT_TRUE(last.is({{0.0, 0.0}, 4, 1.0f, 128}));
  last.follow(0.0, 1e-20, false);
  EXPECT_TRUE(last.is({{0.0, 1e-20}, 5, 1.1920928955078125e-07f, 0}));

  f.affine = false, f.lowest = -6.35, f.highest = 100;
  DeviceState limited(f);
  limited.follow(-1000.0, 1000.0, false);
  EXPECT_TRUE(limited.is({{-1000.0, 1000.0}, 1, static_cast<float>(6.35 / 128), 128}));
}

TEST_F(CudaFollow, TheGridHoldsTheRange) {
  for (const FollowedRange& f : all_ranges()) {
    if (f.rule != Rule::kLast || std::isfinite(f.highest)) continue;
    DeviceState gpu(f);
    for (const auto& [min, max] : batches(5)) {
      gpu.follow(min, max, false);
      const double s = gpu.scale(), half = 0.5001 * s;
      const int32_t z = gpu.zero_point();
      EXPECT_GE(s * (f.hi - z) + half, max);
      EXPECT_LE(f.is_signed ? s * (f.lo - z) - half : min, min);
      EXPECT_TRUE(z >= f.lo && z < f.hi);
    }
  }
}

TEST_F(CudaFollow, WhatIsNotFiniteFailsAndChangesNothing) {
  const State before{{-1.5, 2.5}, 7, 0.25f, 3};
  for (const FollowedRange& f : all_ranges()) {
    DeviceState gpu(f, before);
    for (const auto& [min, max] : {std::pair(kNan, 1.0),
                                   {0.0, kNan},
                                   {kNan, kNan},
                                   {-kInf, 1.0},
                                   {0.0, kInf},
                                   {-kInf, kInf},
                                   {1.0, 0.5},
                                   {kInf, -kInf}}) {
      DeviceState fresh(f, before);
      fresh.follow(min, max, false);
      EXPECT_EQ(fresh.failed(), 1) << min << ", " << max;
      EXPECT_TRUE(fresh.is(before));
      gpu.follow(min, max, false);
    }
    EXPECT_TRUE(gpu.is(before));
    State after = before;
    observe(-0.5, 1.0, false, f, after);
    gpu.follow(-0.5, 1.0, false);
    EXPECT_TRUE(gpu.is(after));
    EXPECT_EQ(gpu.failed(), 1);  // never taken back
  }
  DeviceState relu(FollowedRange{.rule = Rule::kLast}, before);
  relu.follow(-kInf, 255.0, true);  // the CPU clips before it looks
  EXPECT_TRUE(relu.is({{0.0, 255.0}, 8, 1.0f, 0}));
  EXPECT_EQ(relu.failed(), 0);
  relu.follow(kNan, 1.0, true);
  EXPECT_EQ(relu.failed(), 1);
  DeviceState wide(FollowedRange{.rule = Rule::kLast}, before);
  wide.follow(0.0, 1e300, false);
  EXPECT_TRUE(wide.is(before));
  EXPECT_EQ(wide.failed(), 1);
}

TEST_F(CudaFollow, RangesOfValues) {
  for (const int64_t n : {1, 7, 8, 9, 255, 2047, 2048, 2049, 70001, 1056 * 2048, 1056 * 2048 + 4099}) {
    for (const int64_t shift : {0, 1}) {
      if (shift > 0 && n > 1000000) continue;
      SCOPED_TRACE(fmt::format("{} values, shift {}", n, shift));
      auto values = drawn<float>(n, n, std::normal_distribution<float>(3.0f, 5.0f));
      const Array<double> ends(2);
      const Array<char> scratch(static_cast<int64_t>(values_range_scratch(n)));
      const auto expect = [&] {
        const auto [min, max] = std::minmax_element(values.begin(), values.end());
        const Array<float> x(values, shift);
        values_range(x.data(), n, ends.data(), scratch.data(), nullptr);
        expect_equal(ends.host(), {*min, *max});
        scratch.host();
      };
      if (n < 1000000) expect();
      values.front() = -1e9f, values.back() = 1e9f;
      expect();
      if (n > 1000000) continue;
      for (const int64_t place : {int64_t{0}, n / 2, n - 1}) {
        const float other = values[place];
        for (const float special : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                    -std::numeric_limits<float>::infinity()}) {
          values[place] = special;
          if (!std::isnan(special)) {
            expect();
            continue;
          }
          const Array<float> x(values, shift);
          values_range(x.data(), n, ends.data(), scratch.data(), nullptr);
          expect_equal(ends.host(), {kNan, kNan});
        }
        values[place] = other;
      }
      std::fill(values.begin(), values.end(), -3.0f);
      expect();
    }
  }
}

TEST(CudaFollowArguments, RefusesContradictions) {
  double ends[2] = {}, range[2] = {};
  int64_t batches = 0;
  float scale = 1;
  int32_t zero_point = 0, failed = 0;
  const FollowedRange good{.range = range, .batches = &batches, .scale = &scale, .zero_point = &zero_point};
  const auto refused = [&](const auto& change) {
    FollowedRange f = good;
    change(f);
    EXPECT_THROW(follow_range(ends, false, f, &failed, nullptr), Error);
  };
  refused([](FollowedRange& f) { f.symmetric_zero_point = 255; });
  refused([](FollowedRange& f) { f.symmetric_zero_point = -1; });
  refused([](FollowedRange& f) { f.hi = 0; });
  refused([](FollowedRange& f) { f.range = nullptr; });
  refused([](FollowedRange& f) { f.batches = nullptr; });
  refused([](FollowedRange& f) { f.scale = nullptr; });
  refused([](FollowedRange& f) { f.zero_point = nullptr; });
  EXPECT_THROW(values_range(nullptr, 0, ends, nullptr, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
