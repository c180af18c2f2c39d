#include "core/judges/compare.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

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

/// Products in the order in which they are summed: kernel row, kernel column, channel (ops/convolve_saturating.h).
class Products {
 public:
  Products(bool saturates, int64_t zero_point) : saturates_(saturates), zero_point_(zero_point) {}

  void add(int64_t code, int64_t weight) {
    if (!saturates_) {
      sum_ += (code - zero_point_) * weight;
      return;
    }
    sum_ -= zero_point_ * weight;
    pair_ += code * weight;
    if (is_second_) end_pair();
    is_second_ = !is_second_;
  }
  int64_t sum() {
    end_pair();
    return sum_;
  }

 private:
  void end_pair() { sum_ += std::clamp<int64_t>(std::exchange(pair_, 0), -32768, 32767); }

  bool saturates_, is_second_ = false;
  int64_t zero_point_, sum_ = 0, pair_ = 0;
};

int64_t accumulator(const integer::IntegerModel& model, const Node& node, const engine::Value& value,
                    const std::vector<int64_t>& index) {
  const Tensor& x = model.tensors[static_cast<size_t>(node.inputs[0])];
  const integer::Weight& w = node.weight;
  const int64_t out = index[1], depth = w.shape[1];
  const int32_t zero = w.zero_point[w.zero_point.size() == 1 ? 0 : static_cast<size_t>(out)];
  const bool is_depthwise = depth == 1 && w.shape[0] == node.groups;
  Products products(model.overflow == integer::Overflow::kSaturate16 && !is_depthwise, x.zero_point);
  const int64_t bias = node.bias.empty() ? 0 : node.bias[static_cast<size_t>(out)];
  const auto code = [&](int64_t i) { return static_cast<int64_t>(number(value, x, static_cast<size_t>(i))); };
  const auto weight = [&](int64_t i) { return int64_t{w.codes[static_cast<size_t>(i)]} - zero; };
  if (node.op == Op::kLinear) {
    for (int64_t k = 0; k < depth; ++k) products.add(code(index[0] * depth + k), weight(out * depth + k));
    return bias + products.sum();
  }
  const int64_t first = out / (w.shape[0] / node.groups) * depth, taps = node.kernel[0] * node.kernel[1];
  for (int64_t k = 0; k < taps; ++k) {
    int64_t row = index[2] * node.stride[0] - node.pad[0] + k / node.kernel[1] * node.dilation[0];
    int64_t column = index[3] * node.stride[1] - node.pad[1] + k % node.kernel[1] * node.dilation[1];
    bool is_empty = false;
    if (node.is_spread()) {
      is_empty = row % node.spread[0] != 0 || column % node.spread[1] != 0;
      row /= node.spread[0], column /= node.spread[1];
    }
    is_empty = is_empty || row < 0 || row >= x.shape[1] || column < 0 || column >= x.shape[2];
    const int64_t pixel = (index[0] * x.shape[1] + row) * x.shape[2] + column;
    for (int64_t c = 0; c < depth; ++c) {
      products.add(is_empty ? x.zero_point : code(pixel * x.shape[0] + first + c),
                   weight((out * depth + c) * taps + k));
    }
  }
  return bias + products.sum();
}

bool accumulates(const Node& node) { return node.op == Op::kConv || node.op == Op::kLinear; }

/// The element of an NHWC value at {sample, channel, row, column}.
size_t element(const Tensor& t, const std::vector<int64_t>& at) {
  if (t.shape.size() == 1) return static_cast<size_t>(at[0] * t.shape[0] + at[1]);
  return static_cast<size_t>(((at[0] * t.shape[1] + at[2]) * t.shape[2] + at[3]) * t.shape[0] + at[1]);
}

/// The real value of a code, in codes, from the codes of the node's inputs; none for operators that have no such rule.
std::optional<double> real_code(const integer::IntegerModel& model, const Node& node, const Values& values,
                                const std::vector<int64_t>& at) {
  const auto tensor = [&](size_t k) -> const Tensor& { return model.tensors[static_cast<size_t>(node.inputs[k])]; };
  const Tensor& y = model.tensors[static_cast<size_t>(node.output)];
  for (const int x : node.inputs) {
    if (!values.contains(model.tensors[static_cast<size_t>(x)].name)) return std::nullopt;
  }
  const auto real = [&](size_t k, const std::vector<int64_t>& where) {
    const Tensor& x = tensor(k);
    return static_cast<double>(x.scale) * (number(values.at(x.name), x, element(x, where)) - x.zero_point);
  };
  switch (node.op) {
    case Op::kConv:
    case Op::kLinear: {
      const auto c = node.weight.scale.size() == 1 ? size_t{0} : static_cast<size_t>(at[1]);
      const auto sum = static_cast<double>(accumulator(model, node, values.at(tensor(0).name), at));
      return sum * tensor(0).scale * node.weight.scale[c] / y.scale + y.zero_point;
    }
    case Op::kAdd:
    case Op::kMul:
      if (tensor(0).shape != tensor(1).shape) return std::nullopt;
      return (node.op == Op::kAdd ? real(0, at) + real(1, at) : real(0, at) * real(1, at)) / y.scale + y.zero_point;
    case Op::kConcat: {
      std::vector<int64_t> where = at;
      size_t k = 0;
      for (; where[1] >= tensor(k).shape[0]; ++k) where[1] -= tensor(k).shape[0];
      return real(k, where) / y.scale + y.zero_point;
    }
    case Op::kTable: {
      if (node.function != "leaky_relu") return std::nullopt;
      const double x = real(0, at);
      return (x < 0 ? x * node.alpha : x) / y.scale + y.zero_point;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

void compare(const integer::IntegerModel& model, int index, const engine::Value& expected, const engine::Value& found,
             const Values& inputs, TensorResult& result, bool nearest) {
  // Of the real value of a code: products and sums of float32 numbers up to 255 are off by less.
  constexpr double kRounding = 0x1p-12;
  const Tensor& t = model.tensors[static_cast<size_t>(index)];
  const auto node = std::ranges::find_if(model.nodes, [&](const Node& n) { return n.output == index; });
  const bool is_float = t.type == CodeType::kFloat32;
  const size_t a = is_float ? expected.values.size() : expected.codes.size();
  const size_t b = is_float ? found.values.size() : found.codes.size();
  result.name = t.name;
  result.compared += static_cast<int64_t>(std::max(a, b));
  result.mismatches += static_cast<int64_t>(std::max(a, b) - std::min(a, b));
  for (size_t i = 0; i < std::min(a, b); ++i) {
    const double d = distance(expected, found, t, i);
    if (d == 0) continue;
    const std::vector<int64_t> at = position(t, i);
    if (nearest && node != model.nodes.end()) {
      const std::optional<double> real = real_code(model, *node, inputs, at);
      const auto near = [&](const engine::Value& v) { return std::abs(number(v, t, i) - *real) <= 0.5 + kRounding; };
      if (real && near(expected) && near(found)) {
        ++result.ties;
        continue;
      }
    }
    ++result.mismatches;
    result.max_difference = std::max(result.max_difference, d);
    if (result.first) continue;
    Difference& first = result.first.emplace();
    first.index = at;
    first.expected = number(expected, t, i);
    first.found = number(found, t, i);
    if (node == model.nodes.end() || !accumulates(*node)) continue;
    const Tensor& x = model.tensors[static_cast<size_t>(node->inputs[0])];
    if (const auto value = inputs.find(x.name); value != inputs.end()) {
      first.accumulator = accumulator(model, *node, value->second, at);
    }
  }
}

}  // namespace qat::judges
