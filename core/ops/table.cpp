#include "core/ops/table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/ops/encode.h"

namespace qat::ops {
namespace {

constexpr int kCodes = 256;

template <class Code>
std::array<Code, kCodes> all_codes() {
  std::array<Code, kCodes> codes;
  for (int i = 0; i < kCodes; ++i)
    codes[static_cast<size_t>(i)] = static_cast<Code>(std::numeric_limits<Code>::lowest() + i);
  return codes;
}

}  // namespace

template <class Code>
std::vector<int16_t> function_table(float scale_x, int32_t zero_x, float scale_y, CodeRange range,
                                    const std::function<float(float)>& f) {
  std::array<Code, kCodes> codes = all_codes<Code>();
  std::array<float, kCodes> values;
  dequantize(codes.data(), kCodes, scale_x, zero_x, values.data());
  std::transform(values.begin(), values.end(), values.begin(), f);
  encode(values.data(), kCodes, scale_y, range, codes.data());
  return {codes.begin(), codes.end()};
}

template <class Code>
std::vector<int16_t> concat_table(float scale_x, int32_t zero_x, float scale_y, CodeRange range) {
  if (scale_x != scale_y || zero_x != range.zero_point) {
    return function_table<Code>(scale_x, zero_x, scale_y, range, [](float v) { return v; });
  }
  std::vector<int16_t> table;
  for (int32_t code : all_codes<Code>()) table.push_back(static_cast<int16_t>(std::clamp(code, range.lo, range.hi)));
  return table;
}

float sigmoid(float v) { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(v)))); }

float silu(float v) {
  const double x = v;
  return static_cast<float>(x / (1.0 + std::exp(-x)));
}

float hardsigmoid(float v) { return static_cast<float>(std::clamp(v + 3.0, 0.0, 6.0) / 6.0); }

float hardswish(float v) { return static_cast<float>(v * std::clamp(v + 3.0, 0.0, 6.0) / 6.0); }

float leaky_relu(float v, float alpha) { return v < 0 ? v * alpha : v; }

#define QAT_INSTANTIATE(Code)                                                             \
  template std::vector<int16_t> function_table<Code>(float, int32_t, float, CodeRange,    \
                                                     const std::function<float(float)>&); \
  template std::vector<int16_t> concat_table<Code>(float, int32_t, float, CodeRange);
QAT_INSTANTIATE(uint8_t)
QAT_INSTANTIATE(int8_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
