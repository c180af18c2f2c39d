// The range of products and the gradient of a mul, against the formulas of core/autograd/pointwise.cpp.
#include <algorithm>
#include <limits>

#include "core/base/error.h"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/pointwise.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaMultiply : public GpuTest {};

struct Sizes {
  int64_t batch, pixels, channels;
  int64_t all() const { return batch * pixels * channels; }
  int64_t small() const { return batch * channels; }
  std::string name() const { return fmt::format("{} x {} x {}", batch, pixels, channels); }
};

/// Scales and zero points on the device.
struct DeviceBinary {
  explicit DeviceBinary(const ops::BinaryParams& p)
      : range(p.range), scales({p.scale_a, p.scale_b, p.scale_y}), zeros({p.zero_a, p.zero_b, p.range.zero_point}) {}
  BinaryParams params() const {
    return {scales.data(), scales.data() + 1, scales.data() + 2,
            zeros.data(),  zeros.data() + 1,  {range.lo, range.hi, zeros.data() + 2}};
  }
  ops::CodeRange range;
  Array<float> scales;
  Array<int32_t> zeros;
};

/// The element of b that belongs to element i of a.
int64_t partner(const Sizes& s, bool broadcast, int64_t i) {
  return broadcast ? i / (s.pixels * s.channels) * s.channels + i % s.channels : i;
}

constexpr Sizes kMaps[] = {{1, 1, 1},    {2, 3, 5},   {3, 1, 8},   {2, 49, 16},  {1, 1000, 3},
                           {2, 131, 72}, {3, 5, 300}, {2, 3, 257}, {1, 9, 2056}, {1, 300, 2}};

constexpr ops::BinaryParams kParams[] = {
    {.scale_a = 0.0123f, .scale_b = 0.0039f, .scale_y = 0.01f, .zero_a = 128, .zero_b = 3, .range = {0, 255, 100}},
    {.scale_a = 0.5f, .scale_b = 0.25f, .scale_y = 0.125f, .zero_a = 7, .zero_b = 0, .range = {0, 255, 0}},
    {.scale_a = 1e-20f, .scale_b = 3e-21f, .scale_y = 1e-39f, .zero_a = 0, .zero_b = 255, .range = {4, 60, 32}},
    {.scale_a = 1e18f, .scale_b = 1e16f, .scale_y = 1e35f, .zero_a = 255, .zero_b = 128, .range = {0, 15, 8}}};

void expect_range(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, const Sizes& s, bool broadcast,
                  const ops::BinaryParams& p, int64_t shift) {
  SCOPED_TRACE(fmt::format("{}, broadcast {}, scale {}, shift {}", s.name(), broadcast, p.scale_a, shift));
  double lo = std::numeric_limits<double>::infinity(), hi = -lo;
  for (int64_t i = 0; i < s.all(); ++i) {
    const float real_a = p.scale_a * static_cast<float>(a[i] - p.zero_a);
    const float real_b = p.scale_b * static_cast<float>(b[partner(s, broadcast, i)] - p.zero_b);
    const float product = real_a * real_b;
    lo = std::min<double>(lo, product), hi = std::max<double>(hi, product);
  }
  const Array<uint8_t> left(a, shift), right(b, shift);
  const DeviceBinary device(p);
  BinaryParams params = device.params();
  params.scale_y = nullptr, params.range = {};
  const Array<double> ends(2);
  const Array<char> scratch(static_cast<int64_t>(mul_range_scratch(s.batch, s.pixels, s.channels)));
  mul_range(left.data(), right.data(), s.batch, s.pixels, s.channels, broadcast, params, ends.data(), scratch.data(),
            nullptr);
  EXPECT_EQ(ends.host(), (std::vector<double>{lo, hi}));  // a zero of any sign
  scratch.host();
}

TEST_F(CudaMultiply, RangesOfProducts) {
  for (const Sizes& s : kMaps) {
    for (const bool broadcast : {false, true}) {
      for (const ops::BinaryParams& p : kParams) {
        for (const int64_t shift : {0, 1}) {
          expect_range(drawn_codes<uint8_t>(s.all(), 1), drawn_codes<uint8_t>(broadcast ? s.small() : s.all(), 2), s,
                       broadcast, p, shift);
        }
      }
    }
  }
}

TEST_F(CudaMultiply, AnEndIsFoundWhereverItIs) {
  constexpr Sizes kSizes{2, 601, 5};
  for (const int64_t at : {0, 7, 8, 2047, 2048, 3005, 6009}) {
    std::vector<uint8_t> a(kSizes.all(), 130), b(kSizes.all(), 5);
    a[at] = 255;
    expect_range(a, b, kSizes, false, kParams[0], 0);
    a[at] = 0;
    expect_range(a, std::vector<uint8_t>(kSizes.small(), 5), kSizes, true, kParams[0], 0);
  }
  for (int64_t at = 0; at < kSizes.small(); ++at) {
    std::vector<uint8_t> b(kSizes.small(), 5);
    b[at] = 200;
    expect_range(std::vector<uint8_t>(kSizes.all(), 130), b, kSizes, true, kParams[0], 0);
  }
}

/// What MulBackward makes, sums in double.
struct Expected {
  std::vector<float> da;
  std::vector<float> products;  // g * inside * qa * scale_a, elementwise
  std::vector<double> db, db_terms;
  double ds = 0, ds_terms = 0;
};

Expected expected(const std::vector<float>& g, const std::vector<uint8_t>& a, const std::vector<uint8_t>& b,
                  const std::vector<uint8_t>& y, const Sizes& s, bool broadcast, const ops::BinaryParams& p) {
  Expected e;
  e.da.resize(a.size()), e.products.resize(a.size()), e.db.resize(b.size()), e.db_terms.resize(b.size());
  const float product = p.scale_a * p.scale_b, m = product / p.scale_y;
  for (int64_t i = 0; i < s.all(); ++i) {
    const int64_t j = partner(s, broadcast, i);
    const auto qa = static_cast<float>(a[i] - p.zero_a), qb = static_cast<float>(b[j] - p.zero_b);
    const float t = (qa * qb) * m, from = t + static_cast<float>(p.range.zero_point);
    const bool inside = from >= static_cast<float>(p.range.lo) && from <= static_cast<float>(p.range.hi);
    const float masked = g[i] * static_cast<float>(inside);
    e.da[i] = (masked * qb) * p.scale_b;
    e.products[i] = (masked * qa) * p.scale_a;
    e.db[j] += e.products[i], e.db_terms[j] += std::abs(e.products[i]);
    const auto c = static_cast<float>(y[i] - p.range.zero_point);
    const float term = g[i] * (inside ? c - t : c);
    e.ds += term, e.ds_terms += std::abs(term);
  }
  return e;
}

void expect_gradient(const Sizes& s, bool broadcast, const ops::BinaryParams& p, int64_t shift) {
  SCOPED_TRACE(fmt::format("{}, broadcast {}, scale {}, shift {}", s.name(), broadcast, p.scale_a, shift));
  const int64_t n = s.all(), n_b = broadcast ? s.small() : n;
  const auto a = drawn_codes<uint8_t>(n, 3), b = drawn_codes<uint8_t>(n_b, 4), y = drawn_codes<uint8_t>(n, 5);
  const auto g = drawn<float>(n, 6, std::normal_distribution<float>());
  const Expected e = expected(g, a, b, y, s, broadcast, p);
  const DeviceBinary device(p);
  const Array<uint8_t> left(a, shift), right(b, shift), codes(y, shift);
  const Array<float> gradient(g, shift), da(n, shift), db(n_b, shift), da_alone(n, shift), db_alone(n_b, shift);
  const Array<double> ds(1), ds_alone(1);
  const Array<char> scratch(static_cast<int64_t>(mul_gradient_scratch(s.batch, s.pixels, s.channels, broadcast)));
  const auto run = [&](float* to_a, float* to_b, const uint8_t* of_y, double* to_scale) {
    mul_gradient(gradient.data(), left.data(), right.data(), s.batch, s.pixels, s.channels, broadcast, device.params(),
                 to_a, to_b, of_y, to_scale, scratch.data(), nullptr);
  };
  run(da.data(), db.data(), codes.data(), ds.data());
  run(da_alone.data(), nullptr, nullptr, nullptr);
  run(nullptr, db_alone.data(), codes.data(), nullptr);
  run(nullptr, nullptr, codes.data(), ds_alone.data());
  run(nullptr, nullptr, nullptr, nullptr);
  expect_equal(da.host(), e.da);
  expect_equal(da_alone.host(), e.da);
  const std::vector<float> found = db.host();
  if (broadcast) {
    for (int64_t j = 0; j < n_b; ++j) ASSERT_NEAR(found[j], e.db[j], 1e-7 * e.db_terms[j]) << j;
  } else {
    expect_equal(found, e.products);
  }
  expect_equal(db_alone.host(), found);
  EXPECT_NEAR(ds.host()[0], e.ds, 1e-13 * e.ds_terms);
  expect_equal(ds_alone.host(), ds.host());
  scratch.host();
}

TEST_F(CudaMultiply, Gradients) {
  for (const Sizes& s : kMaps) {
    for (const bool broadcast : {false, true}) {
      for (const ops::BinaryParams& p : kParams) {
        for (const int64_t shift : {0, 1}) expect_gradient(s, broadcast, p, shift);
      }
    }
  }
  expect_gradient({1, 1024 * 2048 + 9, 1}, false, kParams[0], 0);  // more than all blocks take at once
  expect_gradient({1, 70003, 8}, true, kParams[0], 0);             // many chunks
}

TEST_F(CudaMultiply, GradientByHand) {
  // One sample, two pixels, two channels. t = qa qb, of 2 * 3, -1 * 10, 40 * 3 and 4 * 10; the third is above 100.
  const ops::BinaryParams p{
      .scale_a = 0.5f, .scale_b = 0.25f, .scale_y = 0.125f, .zero_a = 10, .zero_b = 20, .range = {0, 100, 12}};
  const DeviceBinary device(p);
  const Array<uint8_t> a({12, 9, 50, 14}), b({23, 30}), y({18, 2, 100, 52});
  const Array<float> g({1.0f, 2.0f, 4.0f, 8.0f}), da(4), db(2);
  const Array<double> ds(1);
  const Array<char> scratch(static_cast<int64_t>(mul_gradient_scratch(1, 2, 2, true)));
  mul_gradient(g.data(), a.data(), b.data(), 1, 2, 2, true, device.params(), da.data(), db.data(), y.data(), ds.data(),
               scratch.data(), nullptr);
  expect_equal(da.host(), {0.75f, 5.0f, 0.0f, 20.0f});
  expect_equal(db.host(), {1.0f, -1.0f + 16.0f});
  expect_equal(ds.host(), {4.0 * 88});  // the others' codes are exact
}

TEST_F(CudaMultiply, SumsDoNotDependOnAlignment) {
  for (const Sizes& s : {Sizes{2, 131, 72}, Sizes{2, 131, 7}}) {
    const auto a = drawn_codes<uint8_t>(s.all(), 3), b = drawn_codes<uint8_t>(s.small(), 4);
    const auto g = drawn<float>(s.all(), 6, std::normal_distribution<float>());
    const DeviceBinary device(kParams[0]);
    std::vector<std::vector<double>> scales;
    std::vector<std::vector<float>> sums;
    for (const int64_t shift : {0, 1}) {
      const Array<uint8_t> left(a, shift), right(b, shift);
      const Array<float> gradient(g, shift), db(s.small(), shift);
      const Array<double> ds(1);
      const Array<char> scratch(static_cast<int64_t>(mul_gradient_scratch(s.batch, s.pixels, s.channels, true)));
      mul_gradient(gradient.data(), left.data(), right.data(), s.batch, s.pixels, s.channels, true, device.params(),
                   nullptr, db.data(), left.data(), ds.data(), scratch.data(), nullptr);
      scales.push_back(ds.host());
      sums.push_back(db.host());
    }
    expect_equal(scales[1], scales[0]);
    expect_equal(sums[1], sums[0]);
  }
}

TEST_F(CudaMultiply, GradientsOfNothing) {
  const DeviceBinary device(kParams[0]);
  const Array<float> db(6);
  for (const Sizes& s : {Sizes{0, 4, 3}, Sizes{2, 0, 3}, Sizes{2, 4, 0}}) {
    for (const bool broadcast : {false, true}) {
      const Array<double> ds(1);
      const Array<char> scratch(static_cast<int64_t>(mul_gradient_scratch(s.batch, s.pixels, s.channels, broadcast)));
      mul_gradient(nullptr, nullptr, nullptr, s.batch, s.pixels, s.channels, broadcast, device.params(), nullptr,
                   db.data(), nullptr, ds.data(), scratch.data(), nullptr);
      expect_equal(ds.host(), {0.0});
    }
  }
  expect_equal(db.host(), std::vector<float>(6));  // two samples of three channels, without a pixel
}

TEST(CudaMultiplyArguments, RefusesWhatHasNoMeaning) {
  EXPECT_THROW(mul_range(nullptr, nullptr, 1, 0, 3, false, {}, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(mul_range(nullptr, nullptr, 1, 0, 3, true, {}, nullptr, nullptr, nullptr), Error);
  BinaryParams p;
  p.range.hi = 256;
  EXPECT_THROW(
      mul_gradient(nullptr, nullptr, nullptr, 1, 1, 1, false, p, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr),
      Error);
  EXPECT_THROW(
      mul_gradient(nullptr, nullptr, nullptr, 1, -1, 1, true, {}, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr),
      Error);
}

}  // namespace
}  // namespace qat::ops::cuda
