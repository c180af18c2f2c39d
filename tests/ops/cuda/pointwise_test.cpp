#include "core/ops/pointwise.h"

#include "core/base/error.h"
#include "core/ops/cuda/pointwise.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaPointwise : public GpuTest {};

/// Parameters here and on the device.
struct Params {
  explicit Params(const ops::BinaryParams& p)
      : cpu(p), scales({p.scale_a, p.scale_b, p.scale_y}), zeros({p.zero_a, p.zero_b, p.range.zero_point}) {}
  BinaryParams gpu() const {
    return {.scale_a = scales.data(),
            .scale_b = scales.data() + 1,
            .scale_y = scales.data() + 2,
            .zero_a = zeros.data(),
            .zero_b = zeros.data() + 1,
            .range = {cpu.range.lo, cpu.range.hi, zeros.data() + 2}};
  }
  ops::BinaryParams cpu;
  Array<float> scales;
  Array<int32_t> zeros;
};

const ops::BinaryParams kParams[] = {
    {.scale_a = 0.0137f, .scale_b = 0.0291f, .scale_y = 0.0355f, .zero_a = 37, .zero_b = 91, .range = {0, 255, 61}},
    {.scale_a = 0.0137f, .scale_b = 0.0291f, .scale_y = 0.0355f, .zero_a = 0, .zero_b = 0, .range = {0, 255, 0}},
    {.scale_a = 0.5f, .scale_b = 0.25f, .scale_y = 1.0f, .zero_a = 4, .zero_b = 2, .range = {0, 255, 101}},
    {.scale_a = 0.02f, .scale_b = 1.7f, .scale_y = 0.3f, .zero_a = 128, .zero_b = 255, .range = {2, 15, 8}},
    {.scale_a = 1e-20f, .scale_b = 1e20f, .scale_y = 1e-3f, .zero_a = 3, .zero_b = 3, .range = {0, 255, 3}},
};

/// All 65536 pairs of codes, and some more for a remainder.
struct Pairs {
  Pairs() {
    for (int i = 0; i < 65536 + 13; ++i) {
      a.push_back(static_cast<uint8_t>(i));
      b.push_back(static_cast<uint8_t>(i >> 8));
    }
  }
  int64_t n() const { return static_cast<int64_t>(a.size()); }
  std::vector<uint8_t> a, b;
};

TEST_F(CudaPointwise, AddsAndMultipliesAllPairsOfCodes) {
  const Pairs pairs;
  for (const ops::BinaryParams& params : kParams) {
    const Params p(params);
    for (const int64_t shift : {0, 1}) {
      const Array<uint8_t> a(pairs.a, shift), b(pairs.b, shift);
      for (const bool relu : {false, true}) {
        std::vector<uint8_t> y(pairs.a.size()), inside((y.size() + 7) / 8);
        ops::add(pairs.a.data(), pairs.b.data(), pairs.n(), params, y.data(), inside.data(), relu);
        const Array<uint8_t> gpu(pairs.n(), shift), mask((pairs.n() + 7) / 8);
        add(a.data(), b.data(), pairs.n(), p.gpu(), gpu.data(), mask.data(), relu, nullptr);
        expect_equal(gpu.host(), y);
        expect_equal(mask.host(), inside);
      }
      std::vector<uint8_t> y(pairs.a.size());
      ops::mul(pairs.a.data(), pairs.b.data(), pairs.n(), params, y.data());
      const Array<uint8_t> gpu(pairs.n(), shift);
      mul(a.data(), b.data(), pairs.n(), p.gpu(), gpu.data(), nullptr);
      expect_equal(gpu.host(), y);
    }
  }
}

TEST_F(CudaPointwise, AddsInPlaceWithoutAMask) {
  const Pairs pairs;
  const Params p(kParams[0]);
  std::vector<uint8_t> y(pairs.a.size());
  ops::add(pairs.a.data(), pairs.b.data(), pairs.n(), kParams[0], y.data());
  const Array<uint8_t> a(pairs.a), b(pairs.b);
  add(a.data(), b.data(), pairs.n(), p.gpu(), a.data(), nullptr, false, nullptr);
  expect_equal(a.host(), y);
}

TEST_F(CudaPointwise, BroadcastsOneOperand) {
  const Params p(kParams[0]);
  for (const int64_t channels : {1, 3, 5, 8, 24}) {
    for (const int64_t pixels : {1, 2, 7, 49}) {
      constexpr int64_t kBatch = 3;
      const int64_t n = kBatch * pixels * channels;
      const auto big = drawn_codes<uint8_t>(n, n), small = drawn_codes<uint8_t>(kBatch * channels, n + 1);
      const Array<uint8_t> gpu_big(big), gpu_small(small), gpu(n);
      std::vector<uint8_t> y(n);
      ops::add_broadcast(big.data(), false, small.data(), kBatch, pixels, channels, p.cpu, y.data());
      add_broadcast(gpu_big.data(), false, gpu_small.data(), kBatch, pixels, channels, p.gpu(), gpu.data(), nullptr);
      expect_equal(gpu.host(), y);
      ops::add_broadcast(small.data(), true, big.data(), kBatch, pixels, channels, p.cpu, y.data());
      add_broadcast(gpu_small.data(), true, gpu_big.data(), kBatch, pixels, channels, p.gpu(), gpu.data(), nullptr);
      expect_equal(gpu.host(), y);
      ops::mul_broadcast(big.data(), small.data(), kBatch, pixels, channels, p.cpu, y.data());
      mul_broadcast(gpu_big.data(), gpu_small.data(), kBatch, pixels, channels, p.gpu(), gpu.data(), nullptr);
      expect_equal(gpu.host(), y);
    }
  }
}

TEST_F(CudaPointwise, ReluAndTables) {
  for (const int64_t n : {0, 1, 8, 13, 256, 4099}) {
    const auto x = drawn_codes<uint8_t>(n, n);
    const auto table = drawn<int16_t>(256, 5, std::uniform_int_distribution<int>(0, 255));
    const Array<uint8_t> in(x), y(n), mask((n + 7) / 8), mapped(n);
    const Array<int16_t> gpu_table(table);
    for (const int32_t zero : {0, 100, 255}) {
      const Array<int32_t> gpu_zero({zero});
      std::vector<uint8_t> expected(n), inside((n + 7) / 8);
      ops::relu(x.data(), n, zero, expected.data(), inside.data());
      relu(in.data(), n, gpu_zero.data(), y.data(), mask.data(), nullptr);
      expect_equal(y.host(), expected);
      expect_equal(mask.host(), inside);
    }
    std::vector<uint8_t> expected(n);
    ops::lookup(x.data(), n, table.data(), expected.data());
    lookup(in.data(), n, gpu_table.data(), mapped.data(), nullptr);
    expect_equal(mapped.host(), expected);
  }
}

TEST_F(CudaPointwise, ScaleGradientOfAnAddInTheCpusOrder) {
  for (const int64_t n : {0, 1, 15, 16, 17, 4095, 4096, 4097, 100003, 9000011}) {
    const auto a = drawn_codes<uint8_t>(n, n + 1), b = drawn_codes<uint8_t>(n, n + 2);
    const auto g = drawn<float>(n, n + 3, std::normal_distribution<float>());
    const Params p(kParams[0]);
    std::vector<uint8_t> y(n), inside((n + 7) / 8);
    ops::add(a.data(), b.data(), n, p.cpu, y.data(), inside.data());
    const Array<uint8_t> gpu_a(a), gpu_b(b), gpu_y(y), gpu_inside(inside);
    const Array<float> gpu_g(g);
    const Array<float> gradient(1);
    const Array<char> scratch(static_cast<int64_t>(add_scale_gradient_scratch(n)));
    for (const bool masked : {true, false}) {
      const double cpu =
          ops::add_scale_gradient(g.data(), a.data(), b.data(), y.data(), masked ? inside.data() : nullptr, n, p.cpu);
      add_scale_gradient(gpu_g.data(), gpu_a.data(), gpu_b.data(), gpu_y.data(), masked ? gpu_inside.data() : nullptr,
                         n, p.gpu(), masked ? 1.0 : 0.037, gradient.data(), scratch.data(), nullptr);
      expect_equal(gradient.host(), {static_cast<float>(cpu * (masked ? 1.0 : 0.037))});
    }
    scratch.host();
  }
}

TEST(CudaPointwiseArguments, RefusesCodesOutsideTheStorageType) {
  BinaryParams p;
  p.range.hi = 256;
  EXPECT_THROW(add(nullptr, nullptr, 0, p, nullptr, nullptr, false, nullptr), Error);
  EXPECT_THROW(mul(nullptr, nullptr, 0, p, nullptr, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
