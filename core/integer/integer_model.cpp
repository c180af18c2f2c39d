#include "core/integer/integer_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/base/error.h"

namespace qat::integer {
namespace {

/// A list of values, shortened to its range where it is long.
template <class T>
std::string brief(const std::vector<T>& values) {
  if (values.size() <= 4) return fmt::format("{}", values);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return fmt::format("[{} values, {} to {}]", values.size(), *low, *high);
}

std::string describe(const Tensor& t) {
  if (!holds_codes(t.type)) return fmt::format("{} {} {}", t.name, t.shape, to_string(t.type));
  return fmt::format("{} {} {} scale {} zero {} range [{}, {}]", t.name, t.shape, to_string(t.type), t.scale,
                     t.zero_point, t.lo, t.hi);
}

bool is_window(Op op) { return op == Op::kConv || op == Op::kMaxPool || op == Op::kAveragePool; }

}  // namespace

const char* to_string(Op op) {
  switch (op) {
    case Op::kQuantize:
      return "quantize";
    case Op::kDequantize:
      return "dequantize";
    case Op::kConv:
      return "conv";
    case Op::kLinear:
      return "linear";
    case Op::kAdd:
      return "add";
    case Op::kMul:
      return "mul";
    case Op::kMaxPool:
      return "max_pool";
    case Op::kAveragePool:
      return "average_pool";
    case Op::kGlobalAveragePool:
      return "global_average_pool";
    case Op::kConcat:
      return "concat";
    case Op::kTable:
      return "table";
    case Op::kRelu:
      return "relu";
    case Op::kFlatten:
      return "flatten";
    case Op::kChannelSlice:
      return "channel_slice";
    case Op::kChannelShuffle:
      return "channel_shuffle";
  }
  return "unknown";
}

const char* to_string(CodeType type) {
  switch (type) {
    case CodeType::kUint8:
      return "uint8";
    case CodeType::kInt8:
      return "int8";
    case CodeType::kFloat32:
      return "float32";
    case CodeType::kPixels:
      return "pixels";
  }
  return "unknown";
}

const char* to_string(Overflow overflow) { return overflow == Overflow::kExact ? "exact" : "saturate16"; }

int64_t Tensor::size() const { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); }

std::vector<float> IntegerModel::multipliers(const Node& node) const {
  QAT_CHECK(node.op == Op::kConv || node.op == Op::kLinear, "{} ({}): only conv and linear have multipliers", node.name,
            to_string(node.op));
  QAT_CHECK(node.inputs.size() == 1 && node.output >= 0, "{} ({}): expected one input and an output", node.name,
            to_string(node.op));
  const Tensor& x = tensors.at(static_cast<size_t>(node.inputs[0]));
  const Tensor& y = tensors.at(static_cast<size_t>(node.output));
  const auto channels = static_cast<size_t>(node.weight.shape.empty() ? 0 : node.weight.shape[0]);
  const std::vector<float>& scale = node.weight.scale;
  QAT_CHECK(scale.size() == 1 || scale.size() == channels, "{} ({}): expected 1 or {} weight scales, found {}",
            node.name, to_string(node.op), channels, scale.size());
  std::vector<float> m(channels);
  for (size_t c = 0; c < channels; ++c) {
    const float product = x.scale * scale[scale.size() == 1 ? 0 : c];
    m[c] = y.type == CodeType::kFloat32 ? product : product / y.scale;
  }
  return m;
}

std::string IntegerModel::dump() const {
  std::string text = fmt::format("target {}\n", target);
  if (overflow != Overflow::kExact) text += fmt::format("overflow {}\n", to_string(overflow));
  if (!preprocessing.mean.empty()) {
    text += fmt::format("preprocessing mean {} std {}\n", preprocessing.mean, preprocessing.std);
  }
  if (!preprocessing.transforms.empty()) text += fmt::format("transforms {}\n", preprocessing.transforms);
  if (!preprocessing.classes.empty()) text += fmt::format("classes {}\n", fmt::join(preprocessing.classes, ", "));
  for (int i : inputs) text += fmt::format("input  {}\n", describe(tensors.at(static_cast<size_t>(i))));
  for (const Node& node : nodes) {
    std::vector<std::string> names;
    for (int i : node.inputs) names.push_back(tensors.at(static_cast<size_t>(i)).name);
    text += fmt::format("{} = {}({})", node.name, to_string(node.op), fmt::join(names, ", "));
    if (!node.function.empty()) text += fmt::format(" {}", node.function);
    if (node.alpha != 0.0) text += fmt::format(" alpha {}", node.alpha);
    if (is_window(node.op)) {
      text += fmt::format(" kernel {} stride {} pad {}", node.kernel, node.stride, node.pad);
      if (node.dilation != Node().dilation) text += fmt::format(" dilation {}", node.dilation);
      if (node.is_spread()) text += fmt::format(" spread {}", node.spread);
      if (node.groups != 1) text += fmt::format(" groups {}", node.groups);
      if (node.ceil_mode) text += " ceil";
      if (node.op == Op::kAveragePool) text += node.count_include_pad ? " divide by kernel" : " divide by valid pixels";
    }
    if (node.op == Op::kChannelShuffle) text += fmt::format(" groups {}", node.groups);
    if (node.op == Op::kChannelSlice) text += fmt::format(" begin {}", node.begin);
    if (!node.weight.codes.empty()) {
      text += fmt::format(" weight {} {} scale {} zero {} bytes {}", node.weight.shape, to_string(node.weight.type),
                          brief(node.weight.scale), brief(node.weight.zero_point),
                          node.weight.codes.size() + 4 * node.bias.size());
    }
    text += fmt::format(" -> {}\n", describe(tensors.at(static_cast<size_t>(node.output))));
  }
  for (int i : outputs) text += fmt::format("output {}\n", tensors.at(static_cast<size_t>(i)).name);
  return text;
}

}  // namespace qat::integer
