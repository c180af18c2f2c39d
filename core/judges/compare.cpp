#include "core/judges/compare.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace qat::judges {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;

double number(const engine::Value& value, const Tensor& t, size_t i) {
  if (t.type == CodeType::kFloat32) return static_cast<double>(value.values[i]);
  return t.type == CodeType::kInt8 ? static_cast<int8_t>(value.codes[i]) : value.codes[i];
}

/// 0 where the two are the same bits.
double distance(const engine::Value& a, const engine::Value& b, const Tensor& t, size_t i) {
  if (t.type == CodeType::kFloat32 && std::bit_cast<uint32_t>(a.values[i]) == std::bit_cast<uint32_t>(b.values[i])) {
    return 0;
  }
  const double d = std::abs(number(a, t, i) - number(b, t, i));
  if (t.type != CodeType::kFloat32) return d;
  return d > 0 ? d : std::numeric_limits<double>::denorm_min();  // -0.0 against 0.0, or NaN
}

/// {sample, channel, row, column} of element i of an NHWC value.
std::vector<int64_t> position(const Tensor& t, size_t i) {
  const auto at = static_cast<int64_t>(i);
  if (t.shape.size() == 1) return {at / t.shape[0], at % t.shape[0]};
  const int64_t c = t.shape[0], w = t.shape[2];
  return {at / t.size(), at % c, at % t.size() / (c * w), at / c % w};
}

int64_t accumulator(const Node& node, const Tensor& x, const engine::Value& value, const std::vector<int64_t>& index) {
  const integer::Weight& w = node.weight;
  const int64_t out = index[1];
  const int32_t zero = w.zero_point[w.zero_point.size() == 1 ? 0 : static_cast<size_t>(out)];
  const auto term = [&](int64_t element, int64_t weight) {
    const auto code = static_cast<int64_t>(number(value, x, static_cast<size_t>(element)));
    return (code - x.zero_point) * (w.codes[static_cast<size_t>(weight)] - zero);
  };
  int64_t sum = node.bias.empty() ? 0 : node.bias[static_cast<size_t>(out)];
  if (node.op == Op::kLinear) {
    const int64_t depth = w.shape[1];
    for (int64_t k = 0; k < depth; ++k) sum += term(index[0] * depth + k, out * depth + k);
    return sum;
  }
  const int64_t depth = w.shape[1], first = out / (w.shape[0] / node.groups) * depth;
  for (int64_t k = 0; k < depth * node.kernel[0] * node.kernel[1]; ++k) {
    const int64_t c = k / (node.kernel[0] * node.kernel[1]);
    const int64_t row =
        index[2] * node.stride[0] - node.pad[0] + k / node.kernel[1] % node.kernel[0] * node.dilation[0];
    const int64_t column = index[3] * node.stride[1] - node.pad[1] + k % node.kernel[1] * node.dilation[1];
    if (row < 0 || row >= x.shape[1] || column < 0 || column >= x.shape[2]) continue;
    const int64_t pixel = (index[0] * x.shape[1] + row) * x.shape[2] + column;
    sum += term(pixel * x.shape[0] + first + c, out * depth * node.kernel[0] * node.kernel[1] + k);
  }
  return sum;
}

std::optional<int64_t> accumulator(const integer::IntegerModel& model, int index, const Values& values,
                                   const std::vector<int64_t>& at) {
  for (const Node& node : model.nodes) {
    if (node.output != index || (node.op != Op::kConv && node.op != Op::kLinear)) continue;
    const Tensor& x = model.tensors[static_cast<size_t>(node.inputs[0])];
    const auto found = values.find(x.name);
    if (found != values.end()) return accumulator(node, x, found->second, at);
  }
  return std::nullopt;
}

}  // namespace

void compare(const integer::IntegerModel& model, int index, const engine::Value& expected, const engine::Value& found,
             const Values& inputs, TensorResult& result) {
  const Tensor& t = model.tensors[static_cast<size_t>(index)];
  const bool is_float = t.type == CodeType::kFloat32;
  const size_t a = is_float ? expected.values.size() : expected.codes.size();
  const size_t b = is_float ? found.values.size() : found.codes.size();
  result.name = t.name;
  result.compared += static_cast<int64_t>(std::max(a, b));
  result.mismatches += static_cast<int64_t>(std::max(a, b) - std::min(a, b));
  for (size_t i = 0; i < std::min(a, b); ++i) {
    const double d = distance(expected, found, t, i);
    if (d == 0) continue;
    ++result.mismatches;
    result.max_difference = std::max(result.max_difference, d);
    if (result.first) continue;
    Difference& first = result.first.emplace();
    first.index = position(t, i);
    first.expected = number(expected, t, i);
    first.found = number(found, t, i);
    first.accumulator = accumulator(model, index, inputs, first.index);
  }
}

}  // namespace qat::judges
