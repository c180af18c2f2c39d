// The functions of core/ops/cuda/pointwise.h that only training needs.
#include <algorithm>
#include <cstdint>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/mask.h"
#include "core/ops/pointwise.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaPointwiseTraining : public GpuTest {};

// The last ones: more elements than all blocks of a range take at once, and a remainder.
constexpr int64_t kSizes[] = {1, 7, 8, 9, 255, 2048, 2049, 70003, 2 * 1024 * 2048 + 5};

int64_t mask_bytes(int64_t n) { return (n + 7) / 8; }

/// Scales and zero points on the device.
struct DeviceBinary {
  explicit DeviceBinary(const ops::BinaryParams& p) : scales({p.scale_a, p.scale_b}), zeros({p.zero_a, p.zero_b}) {}
  BinaryParams params() const {
    return {scales.data(), scales.data() + 1, nullptr, zeros.data(), zeros.data() + 1, {}};
  }
  Array<float> scales;
  Array<int32_t> zeros;
};

void expect_range(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, const ops::BinaryParams& p,
                  int64_t shift) {
  const auto n = static_cast<int64_t>(a.size());
  SCOPED_TRACE(fmt::format("{} elements, scales {} and {}, shift {}", n, p.scale_a, p.scale_b, shift));
  const auto [lo, hi] = ops::add_range(a.data(), b.data(), n, p);
  const Array<uint8_t> gpu_a(a, shift), gpu_b(b, shift);
  const DeviceBinary binary(p);
  const Array<char> scratch(static_cast<int64_t>(add_range_scratch(n)));
  const Array<double> ends(2);
  add_range(gpu_a.data(), gpu_b.data(), n, binary.params(), ends.data(), scratch.data(), nullptr);
  expect_equal(ends.host(), {static_cast<double>(lo), static_cast<double>(hi)});
  scratch.host();  // nothing behind it was written
}

TEST_F(CudaPointwiseTraining, RangesOfSums) {
  const ops::BinaryParams params[] = {{.scale_a = 0.0123f, .scale_b = 0.37f, .zero_a = 128, .zero_b = 3},
                                      {.scale_a = 1e-30f, .scale_b = 3e-39f, .zero_a = 0, .zero_b = 255},
                                      {.scale_a = 1e36f, .scale_b = 0.1f, .zero_a = 255, .zero_b = 0}};
  for (const int64_t n : kSizes) {
    for (const ops::BinaryParams& p : params) {
      if (n > 100000 && &p != params) continue;
      for (const int64_t shift : {0, 1}) {
        expect_range(drawn_codes<uint8_t>(n, n), drawn_codes<uint8_t>(n, n + 1), p, shift);
      }
    }
  }
}

TEST_F(CudaPointwiseTraining, AnEndIsFoundWhereverItIs) {
  constexpr int64_t kN = 5003;
  const ops::BinaryParams p{.scale_a = 0.5f, .scale_b = 0.25f, .zero_a = 100, .zero_b = 100};
  for (const int64_t at : {0, 7, 8, 2047, 2048, 4999, 5000, 5002}) {
    std::vector<uint8_t> a(kN, 100), b(kN, 100);
    a[at] = 200, a[kN - 1 - at] = 10;
    expect_range(a, b, p, 0);
  }
  constexpr int64_t kAtOnce = 1024 * 2048;  // what all blocks take before they go on
  for (const int64_t at : {kAtOnce - 1, kAtOnce, kAtOnce + 8, kAtOnce + 12}) {
    std::vector<uint8_t> a(kAtOnce + 13, 100);
    a[at] = 200;
    expect_range(a, std::vector<uint8_t>(a.size(), 100), p, 0);
  }
  // Sums that are all above zero, or below it.
  expect_range(std::vector<uint8_t>(9, 120), std::vector<uint8_t>(9, 140), p, 1);
  expect_range(std::vector<uint8_t>(9, 80), std::vector<uint8_t>(9, 60), p, 1);
}

TEST_F(CudaPointwiseTraining, AddsValues) {
  for (const int64_t n : {1, 7, 8, 9, 4099}) {
    for (const int64_t shift : {0, 1}) {
      const auto x = drawn<float>(n, n, std::normal_distribution<float>());
      auto sums = drawn<float>(n, n + 1, std::normal_distribution<float>());
      const Array<float> values(x, shift), into(sums, shift);
      for (int64_t i = 0; i < n; ++i) sums[i] += x[i];
      add_values(values.data(), n, into.data(), nullptr);
      expect_equal(into.host(), sums);
    }
  }
}

TEST_F(CudaPointwiseTraining, DropoutDecidesByTheKey) {
  constexpr int32_t kZero = 77;
  constexpr float kScale = 0.0137f;
  for (const int64_t n : {1, 7, 8, 9, 4099}) {
    for (const int64_t repeats : {1, 3, 8, 11, 5000}) {
      for (const double p : {0.0, 0.2, 0.5, 0.999}) {
        for (const int64_t shift : {0, 1}) {
          SCOPED_TRACE(fmt::format("{} elements in blocks of {}, p {}, shift {}", n, repeats, p, shift));
          const uint64_t key = 0xfedcba9876543210u + static_cast<uint64_t>(n);
          const auto x = drawn_codes<uint8_t>(n, n);
          std::vector<uint8_t> y(n), kept(mask_bytes(n));
          for (int64_t i = 0; i < n; ++i) {
            const uint64_t random = split_mix64(key, static_cast<uint64_t>(i / repeats));
            const bool keep = static_cast<double>(random >> 11) * 0x1p-53 >= p;
            y[i] = keep ? x[i] : kZero;
            kept[i / 8] |= static_cast<uint8_t>(keep << (i % 8));
          }
          const Array<uint8_t> in(x, shift), out(n, shift), mask(mask_bytes(n), shift);
          const Array<uint64_t> keys({key});
          const Array<float> scale_x({kScale}), scale_y(1);
          const Array<int32_t> zero({kZero});
          dropout(in.data(), n, repeats, p, keys.data(), scale_x.data(), zero.data(), out.data(), mask.data(),
                  scale_y.data(), nullptr);
          expect_equal(out.host(), y);
          expect_equal(mask.host(), kept);
          expect_equal(scale_y.host(), {static_cast<float>(static_cast<double>(kScale) / (1.0 - p))});

          const auto g = drawn<float>(n, n + 2, std::normal_distribution<float>());
          std::vector<float> dx(n);
          for (int64_t i = 0; i < n; ++i) {
            dx[i] = mask_bit(kept.data(), i) ? static_cast<float>(g[i] * (1.0 / (1.0 - p))) : 0.0f;
          }
          const Array<float> gradient(g, shift), gpu_dx(n, shift);
          dropout_gradient(gradient.data(), mask.data(), n, p, gpu_dx.data(), nullptr);
          expect_equal(gpu_dx.host(), dx);
        }
      }
    }
  }
}

TEST_F(CudaPointwiseTraining, DropoutDropsItsShare) {
  constexpr int64_t kN = 100000;
  const Array<uint8_t> x(std::vector<uint8_t>(kN, 9)), y(kN), mask(mask_bytes(kN));
  const Array<uint64_t> key({3});
  const Array<float> scales({1.0f, 0.0f});
  const Array<int32_t> zero({0});
  dropout(x.data(), kN, 1, 0.3, key.data(), scales.data(), zero.data(), y.data(), mask.data(), scales.data() + 1,
          nullptr);
  const std::vector<uint8_t> codes = y.host();
  const auto dropped = static_cast<double>(std::ranges::count(codes, 0));
  EXPECT_NEAR(dropped / kN, 0.3, 5 * std::sqrt(0.3 * 0.7 / kN));
}

TEST_F(CudaPointwiseTraining, NothingIsLeftAsItIs) {
  const Array<float> x({1, 2}), y({3, 4});
  add_values(x.data(), 0, y.data(), nullptr);
  to_channels_first(x.data(), 0, 4, 3, y.data(), nullptr);
  EXPECT_EQ(y.host(), (std::vector<float>{3, 4}));
  const Array<uint8_t> codes({1, 2}), moved({5, 6});
  to_channels_first(codes.data(), 2, 0, 3, moved.data(), nullptr);
  to_channels_last(codes.data(), 2, 4, 0, moved.data(), nullptr);
  EXPECT_EQ(moved.host(), (std::vector<uint8_t>{5, 6}));
  // Not even an address is needed.
  EXPECT_NO_THROW(add_values(nullptr, 0, nullptr, nullptr));
}

TEST_F(CudaPointwiseTraining, DropoutOfNothingHasAScale) {
  const Array<float> scales({0.5f, 0.0f});
  dropout(nullptr, 0, 1, 0.5, nullptr, scales.data(), nullptr, nullptr, nullptr, scales.data() + 1, nullptr);
  expect_equal(scales.host(), {0.5f, 1.0f});
  dropout_gradient(nullptr, nullptr, 0, 0.5, nullptr, nullptr);
}

template <class T>
void expect_movement(int64_t batch, int64_t pixels, int64_t channels, const std::vector<T>& x, int64_t shift) {
  SCOPED_TRACE(fmt::format("{} x {} x {}, shift {}", batch, pixels, channels, shift));
  std::vector<T> y(x.size());
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < channels; ++c) y[(n * channels + c) * pixels + p] = x[(n * pixels + p) * channels + c];
    }
  }
  const Array<T> last(x, shift), first(static_cast<int64_t>(x.size()), shift),
      again(static_cast<int64_t>(x.size()), shift);
  to_channels_first(last.data(), batch, pixels, channels, first.data(), nullptr);
  expect_equal(first.host(), y);
  to_channels_last(first.data(), batch, pixels, channels, again.data(), nullptr);
  expect_equal(again.host(), x);
}

TEST_F(CudaPointwiseTraining, MovesChannels) {
  for (const int64_t batch : {1, 3}) {
    for (const int64_t pixels : {1, 7, 32, 49}) {
      for (const int64_t channels : {1, 31, 32, 65}) {
        for (const int64_t shift : {0, 1}) {
          const int64_t n = batch * pixels * channels;
          expect_movement<uint8_t>(batch, pixels, channels, drawn_codes<uint8_t>(n, n), shift);
          expect_movement<float>(batch, pixels, channels, drawn<float>(n, n, std::normal_distribution<float>()), shift);
        }
      }
    }
  }
}

TEST(CudaPointwiseTrainingArguments, RefusesWhatHasNoMeaning) {
  EXPECT_THROW(add_range(nullptr, nullptr, 0, {}, nullptr, nullptr, nullptr), Error);
  for (const double p : {-0.1, 1.0, static_cast<double>(NAN)}) {
    EXPECT_THROW(dropout(nullptr, 1, 1, p, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), Error);
    EXPECT_THROW(dropout_gradient(nullptr, nullptr, 1, p, nullptr, nullptr), Error);
  }
  EXPECT_THROW(dropout(nullptr, 1, 0, 0.5, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
