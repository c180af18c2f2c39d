#include "core/ops/cuda/requantize.h"

#include <bit>
#include <cstring>

#include "core/base/error.h"
#include "core/ops/convolve.h"
#include "core/ops/cuda/convolve_gradient.h"
#include "core/ops/requantize.h"
#include "tests/ops/cuda/gpu.h"
#include "tests/ops/cuda/sums.h"

namespace qat::ops::cuda {
namespace {

class CudaRequantize : public GpuTest {};

constexpr int64_t kChannels[] = {1, 3, 4, 8, 15, 16, 17, 24, 33, 64, 100};

/// A matrix with everything the passes read, here and on the device.
struct Matrix {
  Matrix(int64_t rows_, int64_t channels_, uint64_t seed, int64_t shift_ = 0)
      : rows(rows_), channels(channels_), n(rows * channels), shift(shift_) {
    acc = drawn<int32_t>(n, seed, std::uniform_int_distribution<int32_t>(-40000, 40000));
    const int32_t special[] = {0, 1, -1, INT32_MAX, INT32_MIN, (1 << 24) + 1, (1 << 24) + 3, 500, 1500, -500};
    for (size_t i = 0; i < acc.size(); i += 7) acc[i] = special[i / 7 % std::size(special)];
    bias = drawn<int32_t>(channels, seed + 1, std::uniform_int_distribution<int32_t>(-3000, 3000));
    multiplier = drawn<float>(channels, seed + 2, std::uniform_real_distribution<float>(0.0f, 0.01f));
    offset = drawn<float>(channels, seed + 3, std::uniform_real_distribution<float>(-30.0f, 30.0f));
    multiplier[0] = 0.001f;
    if (channels > 2) multiplier[1] = 0.0f, multiplier[2] = 1e-30f;
    if (channels > 8) multiplier[5] = 1e30f, multiplier[7] = INFINITY;
    g = drawn<float>(n, seed + 4, std::normal_distribution<float>());
    step = drawn<float>(channels, seed + 5, std::uniform_real_distribution<float>(0.5f, 2.0f));
    kept = drawn<int16_t>(n, seed + 6, std::uniform_int_distribution<int>(-32768, 32767));
    inside = drawn_codes<uint8_t>((n + 7) / 8, seed + 7);
    codes = drawn_codes<uint8_t>(n, seed + 8);
    if (n % 8 != 0) inside.back() &= static_cast<uint8_t>((1 << (n % 8)) - 1);
  }
  int64_t rows, channels, n, shift;
  std::vector<int32_t> acc, bias;
  std::vector<float> multiplier, offset, g, step;
  std::vector<int16_t> kept;
  std::vector<uint8_t> inside, codes;
};

struct DeviceMatrix {
  explicit DeviceMatrix(const Matrix& m)
      : acc(m.acc, m.shift),
        bias(m.bias, m.shift),
        multiplier(m.multiplier, m.shift),
        offset(m.offset, m.shift),
        g(m.g, m.shift),
        step(m.step, m.shift),
        kept(m.kept, m.shift),
        inside(m.inside, m.shift),
        codes(m.codes, m.shift) {}
  Array<int32_t> acc, bias;
  Array<float> multiplier, offset, g, step;
  Array<int16_t> kept;
  Array<uint8_t> inside, codes;
};

std::string describe(const Matrix& m) { return fmt::format("{} x {}, shift {}", m.rows, m.channels, m.shift); }

/// Calls body(matrix, device matrix) for shapes with and without remainders, aligned and not.
template <class Body>
void for_matrices(int64_t rows, const Body& body) {
  for (const int64_t channels : kChannels) {
    for (const int64_t shift : {0, 1}) {
      const Matrix m(rows, channels, channels, shift);
      SCOPED_TRACE(describe(m));
      body(m, DeviceMatrix(m));
    }
  }
}

/// The accumulators as both sides know them: int16, int32, or not at all.
struct KeptCase {
  KeptAccumulators cpu, gpu;
};
std::vector<KeptCase> kept_cases(const Matrix& m, const DeviceMatrix& d, bool with_none) {
  std::vector<KeptCase> cases{
      {{.exact = m.acc.data()}, {.exact = d.acc.data()}},
      {{.compact = m.kept.data(), .middle = m.bias.data(), .step = m.step.data()},
       {.compact = d.kept.data(), .middle = d.bias.data(), .step = d.step.data()}},
  };
  if (with_none) cases.emplace_back();
  return cases;
}

struct RangeCase {
  ops::CodeRange range;
  bool relu;
};
constexpr RangeCase kRanges[] = {
    {{0, 255, 0}, true}, {{0, 255, 128}, false}, {{3, 14, 8}, false}, {{3, 14, 3}, true}, {{0, 255, 255}, false}};

TEST_F(CudaRequantize, FrozenFormula) {
  for_matrices(37, [](const Matrix& m, const DeviceMatrix& d) {
    for (const RangeCase& r : kRanges) {
      for (const bool with_bias : {false, true}) {
        std::vector<uint8_t> codes(m.n), inside((m.n + 7) / 8);
        ops::requantize(m.acc.data(), m.rows, m.channels, with_bias ? m.bias.data() : nullptr, m.multiplier.data(),
                        r.range, codes.data(), inside.data(), r.relu);
        const Array<int32_t> zero({r.range.zero_point});
        const Array<uint8_t> gpu_codes(m.n, m.shift), gpu_inside((m.n + 7) / 8);
        requantize(d.acc.data(), m.rows, m.channels, with_bias ? d.bias.data() : nullptr, d.multiplier.data(),
                   {r.range.lo, r.range.hi, zero.data()}, gpu_codes.data(), with_bias ? gpu_inside.data() : nullptr,
                   r.relu, nullptr);
        expect_equal(gpu_codes.host(), codes);
        if (with_bias) expect_equal(gpu_inside.host(), inside);
      }
    }
  });
}

TEST_F(CudaRequantize, LivePassAndWhatItKeeps) {
  for_matrices(41, [](const Matrix& m, const DeviceMatrix& d) {
    for (const RangeCase& r : kRanges) {
      for (const bool keeps : {false, true}) {
        std::vector<uint8_t> codes(m.n), inside((m.n + 7) / 8);
        std::vector<int16_t> kept(m.n);
        ops::requantize_affine(m.acc.data(), m.rows, m.channels, m.multiplier.data(), m.offset.data(), r.range,
                               codes.data(), inside.data(), r.relu);
        ops::compact(m.acc.data(), m.rows, m.channels, m.bias.data(), m.step.data(), kept.data());
        const Array<int32_t> zero({r.range.zero_point});
        const Array<uint8_t> gpu_codes(m.n, m.shift), gpu_inside((m.n + 7) / 8);
        const Array<int16_t> gpu_kept(m.n, m.shift), alone(m.n, m.shift);
        const Compact keep{d.bias.data(), d.step.data(), gpu_kept.data()};
        requantize_affine(d.acc.data(), m.rows, m.channels, d.multiplier.data(), d.offset.data(),
                          {r.range.lo, r.range.hi, zero.data()}, gpu_codes.data(), gpu_inside.data(), r.relu,
                          keeps ? keep : Compact{}, nullptr);
        expect_equal(gpu_codes.host(), codes);
        expect_equal(gpu_inside.host(), inside);
        if (!keeps) continue;
        expect_equal(gpu_kept.host(), kept);
        compact(d.acc.data(), m.rows, m.channels, {d.bias.data(), d.step.data(), alone.data()}, nullptr);
        expect_equal(alone.host(), kept);
      }
    }
  });
}

TEST_F(CudaRequantize, DequantizesAccumulators) {
  for_matrices(29, [](const Matrix& m, const DeviceMatrix& d) {
    for (const bool with_bias : {false, true}) {
      std::vector<float> y(m.n);
      ops::dequantize_accumulators(m.acc.data(), m.rows, m.channels, with_bias ? m.bias.data() : nullptr,
                                   m.multiplier.data(), y.data());
      const Array<float> gpu(m.n, m.shift);
      dequantize_accumulators(d.acc.data(), m.rows, m.channels, with_bias ? d.bias.data() : nullptr,
                              d.multiplier.data(), gpu.data(), nullptr);
      expect_equal(gpu.host(), y);
    }
  });
}

/// Bits of the nearest bfloat16, ties to even.
uint16_t nearest_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float value_of(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

/// The operand of gradients dx [rows][channels] times the scales: floats, or two planes of bfloat16 with padded rows.
std::vector<float> expected_operand(const Matrix& m, const std::vector<float>& dx, bool dense) {
  const int64_t padded = (m.channels + 7) / 8 * 8;
  if (dense) {
    std::vector<float> planes(static_cast<size_t>(2 * m.rows * padded));
    for (int64_t i = 0; i < m.n; ++i) {
      const float value = dx[i] * m.step[i % m.channels], high = value_of(nearest_bfloat16(value));
      const int64_t place = i / m.channels * padded + i % m.channels;
      planes[place] = high, planes[m.rows * padded + place] = value_of(nearest_bfloat16(value - high));
    }
    return planes;
  }
  std::vector<float> values(dx);
  for (int64_t i = 0; i < m.n; ++i) values[i] *= m.step[i % m.channels];
  return values;
}

std::vector<float> gpu_operand(const Matrix& m, const DeviceMatrix& d, const ProductGradient& dy, bool dense) {
  ConvGeometry g{.batch = m.rows, .in_c = m.channels, .out_c = m.channels};
  if (!dense) g.groups = m.channels;
  const size_t bytes = gradient_operand_bytes(g, GradientPrecision::kFloat);
  const Array<uint16_t> operand(static_cast<int64_t>(bytes / sizeof(uint16_t)));
  gradient_operand(g, GradientPrecision::kFloat, dy, d.step.data(), operand.data(), nullptr);
  const std::vector<uint16_t> halves = operand.host();
  std::vector<float> values;
  if (dense) {
    for (const uint16_t half : halves) values.push_back(value_of(half));
  } else {
    values.resize(halves.size() / 2);
    std::memcpy(values.data(), halves.data(), bytes);
  }
  return values;
}

TEST_F(CudaRequantize, GradientsAsOperands) {
  for_matrices(43, [](const Matrix& m, const DeviceMatrix& d) {
    for (const bool dense : {false, true}) {
      if (!dense && m.channels == 1) continue;  // one group
      for (const bool masked : {false, true}) {
        const uint8_t* inside = masked ? m.inside.data() : nullptr;
        const uint8_t* gpu_inside = masked ? d.inside.data() : nullptr;
        std::vector<float> dx(m.n);
        for (const KeptCase& kept : kept_cases(m, d, true)) {
          ops::batch_norm_gradient(m.g.data(), inside, kept.cpu, m.rows, m.channels, m.step.data(), m.offset.data(),
                                   m.offset.data(), dx.data());
          const ProductGradient dy{.g = d.g.data(),
                                   .inside = gpu_inside,
                                   .slope = d.step.data(),
                                   .inner = d.offset.data(),
                                   .constant = d.offset.data(),
                                   .kept = kept.gpu};
          expect_equal(gpu_operand(m, d, dy, dense), expected_operand(m, dx, dense));
        }
        dx = m.g;
        if (masked) ops::mask_gradient(m.g.data(), inside, m.n, dx.data());
        expect_equal(gpu_operand(m, d, {.g = d.g.data(), .inside = gpu_inside}, dense), expected_operand(m, dx, dense));
      }
    }
  });
}

TEST_F(CudaRequantize, MaskGradients) {
  for_matrices(43, [](const Matrix& m, const DeviceMatrix& d) {
    std::vector<float> dx(m.n);
    ops::mask_gradient(m.g.data(), m.inside.data(), m.n, dx.data());
    const Array<float> gpu(m.n, m.shift);
    mask_gradient(d.g.data(), d.inside.data(), m.n, gpu.data(), nullptr);
    expect_equal(gpu.host(), dx);
  });
}

/// Shapes with one chunk, several, a remainder of rows, and a period longer than a chunk.
struct SumShape {
  int64_t rows, channels;
};
constexpr SumShape kSumShapes[] = {{1, 1},     {5, 3},     {101, 17},  {37, 100},  {70001, 1}, {9000, 12},
                                   {3000, 64}, {4097, 16}, {700, 100}, {33, 2047}, {3, 1025},  {517, 512}};

TEST_F(CudaRequantize, ScaleGradientOfAnEncodingInTheCpusOrder) {
  for (const auto& [rows, channels] : kSumShapes) {
    const Matrix m(rows, channels, rows + 9);
    const DeviceMatrix d(m);
    SCOPED_TRACE(describe(m));
    const Array<char> scratch(static_cast<int64_t>(encode_scale_gradient_scratch(m.n)));
    const auto x = drawn<float>(m.n, 3, std::normal_distribution<float>(0.0f, 50.0f));
    const Array<float> values(x), scale({0.7f}), gradient(1);
    const Array<int32_t> zero({120});
    const double cpu =
        ops::encode_scale_gradient(m.g.data(), m.codes.data(), m.inside.data(), x.data(), 0.7f, {0, 255, 120}, m.n);
    for (const double factor : {1.0, 0.037}) {
      encode_scale_gradient(d.g.data(), d.codes.data(), d.inside.data(), values.data(), scale.data(), zero.data(), m.n,
                            factor, gradient.data(), scratch.data(), nullptr);
      expect_equal(gradient.host(), {static_cast<float>(cpu * factor)});
    }
    scratch.host();
  }
}

TEST_F(CudaRequantize, StatisticsAreExact) {
  for (const auto& [rows, channels] : kSumShapes) {
    for (const bool wide : {false, true}) {
      SCOPED_TRACE(fmt::format("{} x {}", rows, channels));
      const int32_t limit = wide ? INT32_MAX : 30000000;  // squares beyond 2^53 in both
      auto acc = drawn<int32_t>(rows * channels, rows, std::uniform_int_distribution<int32_t>(-limit, limit));
      if (wide) acc[0] = INT32_MIN;
      const Array<int32_t> values(acc);
      const DeviceSums sums(channels, channels % 2);
      channel_statistics(values.data(), rows, sums.sums(), nullptr);
      EXPECT_EQ(sums.difference(ops::channel_statistics(acc.data(), rows, channels)), "");
      channel_statistics(values.data(), rows, sums.sums(), nullptr);
      acc.insert(acc.end(), acc.begin(), acc.begin() + rows * channels);
      EXPECT_EQ(sums.difference(ops::channel_statistics(acc.data(), 2 * rows, channels)), "");
    }
  }
}

TEST_F(CudaRequantize, EmptyMatrices) {
  const Array<float> gradient(1);
  const Array<int32_t> zero({0});
  const DeviceSums sums(3);
  channel_statistics(nullptr, 0, sums.sums(), nullptr);
  sums.expect_untouched();
  encode_scale_gradient(nullptr, nullptr, nullptr, nullptr, nullptr, zero.data(), 0, 1.0, gradient.data(), nullptr,
                        nullptr);
  requantize(nullptr, 0, 3, nullptr, nullptr, {0, 255, zero.data()}, nullptr, nullptr, false, nullptr);
  expect_equal(gradient.host(), {0.0f});
}

TEST(CudaRequantizeArguments, RefusesContradictions) {
  const int16_t kept = 1;
  const float number = 1;
  const ConvGeometry g{.batch = 1, .in_c = 1, .out_c = 1};
  const auto operand = [&](const ProductGradient& dy) {
    gradient_operand(g, GradientPrecision::kFloat, dy, nullptr, nullptr, nullptr);
  };
  EXPECT_THROW(operand({.slope = &number, .inner = &number, .constant = &number, .kept = {.compact = &kept}}), Error);
  EXPECT_THROW(operand({.slope = &number, .inner = &number}), Error);
  EXPECT_THROW(requantize(nullptr, 1, 1, nullptr, nullptr, {-1, 255, nullptr}, nullptr, nullptr, false, nullptr),
               Error);
}

}  // namespace
}  // namespace qat::ops::cuda
