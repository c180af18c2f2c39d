#include "core/ops/cuda/encode.h"

#include "core/base/error.h"
#include "core/ops/encode.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaEncode : public GpuTest {};

constexpr ops::CodeRange kRanges[] = {{0, 255, 0}, {0, 255, 128}, {0, 255, 101}, {3, 14, 8}, {0, 15, 255}};

void expect_encoded(const std::vector<float>& x, float scale, ops::CodeRange range, bool masked, int64_t shift = 0) {
  SCOPED_TRACE(fmt::format("{} values, scale {}, codes {} {} {}, shift {}", x.size(), scale, range.lo, range.hi,
                           range.zero_point, shift));
  const auto n = static_cast<int64_t>(x.size());
  std::vector<uint8_t> codes(x.size()), inside((x.size() + 7) / 8);
  ops::encode(x.data(), n, scale, range, codes.data(), inside.data());
  const Array<float> values(x, shift), scales({scale});
  const Array<int32_t> zero({range.zero_point});
  const Array<uint8_t> gpu_codes(n, shift), gpu_inside((n + 7) / 8);
  encode(values.data(), n, scales.data(), {range.lo, range.hi, zero.data()}, gpu_codes.data(),
         masked ? gpu_inside.data() : nullptr, nullptr);
  expect_equal(gpu_codes.host(), codes);
  if (masked) expect_equal(gpu_inside.host(), inside);
}

/// Every sign, exponent and leading bits of a float: infinities, NaN, subnormals and zeros among them.
std::vector<float> all_kinds() {
  std::vector<float> x(1 << 16);
  for (uint32_t i = 0; i < x.size(); ++i) {
    const uint32_t bits = i << 16 | (i & 0xff);
    std::memcpy(&x[i], &bits, sizeof(float));
  }
  return x;
}

TEST_F(CudaEncode, EveryKindOfFloat) {
  for (const float scale : {1.0f, 0.017f, 7.0f, 1e-30f, 3e30f, 1e-42f}) {
    for (const ops::CodeRange& range : kRanges) expect_encoded(all_kinds(), scale, range, true);
  }
}

TEST_F(CudaEncode, QuotientsAtTies) {
  const auto scales = drawn<float>(20, 1, std::uniform_real_distribution<float>(1e-3f, 9.0f));
  for (const float scale : scales) {
    std::vector<float> x;
    for (int k = -520; k <= 520; ++k) {
      const float tie = static_cast<float>(k) * 0.5f * scale;
      x.insert(x.end(), {std::nextafter(tie, -1e9f), tie, std::nextafter(tie, 1e9f)});
    }
    for (const ops::CodeRange& range : kRanges) expect_encoded(x, scale, range, true);
  }
}

TEST_F(CudaEncode, EverySizeAndAlignment) {
  for (int64_t n : {0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 2047, 2048, 2049, 70001}) {
    const auto x = drawn<float>(n, n, std::normal_distribution<float>(0.0f, 3.0f));
    for (const int64_t shift : {0, 1, 3}) expect_encoded(x, 0.017f, {0, 255, 101}, n % 2 == 0, shift);
  }
}

TEST_F(CudaEncode, DequantizesEveryCode) {
  std::vector<uint8_t> codes(256 * 3 + 5);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i);
  const auto n = static_cast<int64_t>(codes.size());
  for (const float scale : {0.1f, 1e-40f, 3e38f}) {
    for (const int32_t zero : {0, 128, 255}) {
      for (const int64_t shift : {0, 1}) {
        std::vector<float> x(codes.size());
        ops::dequantize(codes.data(), n, scale, zero, x.data());
        const Array<uint8_t> in(codes, shift);
        const Array<float> scales({scale}), gpu(n, shift);
        const Array<int32_t> zeros({zero});
        dequantize(in.data(), n, scales.data(), zeros.data(), gpu.data(), nullptr);
        expect_equal(gpu.host(), x);
      }
    }
  }
}

TEST(CudaEncodeArguments, RefusesCodesOutsideTheStorageType) {
  EXPECT_THROW(encode(nullptr, 0, nullptr, {0, 256, nullptr}, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(encode(nullptr, 0, nullptr, {9, 8, nullptr}, nullptr, nullptr, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
