// What OnnxReader makes of each operator.
#include <algorithm>
#include <optional>
#include <utility>

#include "core/export/onnx_reader.h"
#include "core/ops/encode.h"

namespace qat::exporter {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;
using integer::Weight;

namespace {

const std::vector<float> kPixelRange = {255.0f};

Node start(Op op, const OnnxNode& node, std::vector<int> inputs) {
  Node n;
  n.op = op;
  n.name = node.name();
  n.inputs = std::move(inputs);
  return n;
}

template <class Code>
std::vector<int16_t> encoded(const std::vector<float>& values, const Tensor& y) {
  std::vector<Code> codes(values.size());
  ops::encode(values.data(), static_cast<int64_t>(values.size()), y.scale,
              {.lo = y.lo, .hi = y.hi, .zero_point = y.zero_point}, codes.data());
  return {codes.begin(), codes.end()};
}

}  // namespace

void OnnxReader::quantize(OnnxNode& node) {
  node.require_inputs(3, 3);
  Tensor y = parameters(node, 1);
  const auto floats = values_.find(node.input(0));
  if (floats != values_.end() && std::holds_alternative<Floats>(floats->second)) {
    return emit(start(Op::kQuantize, node, {std::get<Floats>(floats->second).tensor}), node.output(), std::move(y));
  }
  if (holds<PixelValues>(node.input(0))) {
    const auto [pixels, steps] = take<PixelValues>(node.input(0));
    const int expected = model_.preprocessing.mean.empty() ? 1 : 3;
    QAT_CHECK(steps == expected, "expected pixels after {} steps of preprocessing, found {}", expected, steps);
    return emit(start(Op::kQuantize, node, {pixels}), node.output(), std::move(y));
  }
  auto [n, values] = take<Unquantized>(node.input(0));
  if (passes_codes(n.op)) {
    y.lo = tensor(n.inputs[0]).lo;
    y.hi = tensor(n.inputs[0]).hi;
  }
  if (!values.empty()) {
    n.table = y.type == CodeType::kInt8 ? encoded<int8_t>(values, y) : encoded<uint8_t>(values, y);
  }
  emit(std::move(n), node.output(), std::move(y));
}

void OnnxReader::dequantize(OnnxNode& node) {
  node.require_inputs(3, 3);
  const std::string x = node.input(0);
  if (is_codes(x)) {
    const int index = codes(x);
    expect_parameters(node, 1, index);
    if (outputs_.contains(node.output())) return emit_floats(start(Op::kDequantize, node, {index}), node.output());
    return define(node.output(), Dequantized{index});
  }
  if (holds<Spread>(x)) {
    const Spread map = take_map(x);
    expect_parameters(node, 1, map.tensor);
    return define(node.output(), SpreadValues{map});
  }
  QAT_CHECK(initializers_.contains(x), "input {} is neither codes nor an initializer", in_quotes(x));
  const std::string scale = node.input(1), zero_point = node.input(2);
  if (!initializers_.shape(scale).empty()) node.expect("axis", 0);
  if (initializers_.is_int32(x)) {
    Bias bias{.codes = initializers_.int32s(x), .scale = initializers_.floats(scale)};
    QAT_CHECK(std::ranges::all_of(initializers_.int32s(zero_point), [](int32_t z) { return z == 0; }),
              "the zero point of a bias must be 0");
    return define(node.output(), std::move(bias));
  }
  define(node.output(), initializers_.weight(x, scale, zero_point));
}

/// With min alone it is ReLU, with max too the range of the operator before it.
void OnnxReader::clip(OnnxNode& node) {
  node.require_inputs(2, 3);
  const std::string x = node.input(0);
  if (node.inputs() == 2) {
    const int index = codes(x);
    Tensor y = tensor(index);
    QAT_CHECK(initializers_.code(node.input(1), y.type) == y.zero_point,
              "a clip from below must be at the zero point, {}", y.zero_point);
    return emit(start(Op::kRelu, node, {index}), node.output(), std::move(y));
  }
  const auto [index, unclipped] = take<Codes>(x);
  Tensor& y = tensor(index);
  QAT_CHECK(unclipped && node.output() == y.name + kCodesSuffix,
            "expected {}_unclipped clipped to {}{}, found {} to {}", y.name, y.name, kCodesSuffix, in_quotes(x),
            in_quotes(node.output()));
  y.lo = initializers_.code(node.input(1), y.type);
  y.hi = initializers_.code(node.input(2), y.type);
  QAT_CHECK(y.lo <= y.hi, "the range [{}, {}] is empty", y.lo, y.hi);
  define(node.output(), Codes{index, false});
}

void OnnxReader::preprocess(OnnxNode& node) {
  node.require_inputs(2, 2);
  const auto [pixels, steps] = take<PixelValues>(node.input(0));
  const bool is_divided = node.type() == "Div";
  const std::vector<float>& expected = steps == 0   ? kPixelRange
                                       : steps == 1 ? model_.preprocessing.mean
                                                    : model_.preprocessing.std;
  QAT_CHECK(steps < 3 && is_divided == (steps != 1) && initializers_.floats(node.input(1)) == expected &&
                (expected.size() == 1 || initializers_.shape(node.input(1)) ==
                                             std::vector<int64_t>{static_cast<int64_t>(expected.size()), 1, 1}),
            "expected pixels / 255, less the mean, divided by the standard deviation of the metadata");
  define(node.output(), PixelValues{pixels, steps + 1});
}

void OnnxReader::cast(OnnxNode& node) {
  node.require_inputs(1, 1);
  if (holds<Pixels>(node.input(0))) {
    node.expect("to", onnx::TensorProto::FLOAT);
    return define(node.output(), PixelValues{get<Pixels>(node.input(0)).tensor, 0});
  }
  node.expect("to", onnx::TensorProto::INT32);
  define(node.output(), Index{codes(node.input(0))});
}

void OnnxReader::gather(OnnxNode& node) {
  node.require_inputs(2, 2);
  node.expect("axis", 0);
  const int index = take<Index>(node.input(1)).tensor;
  std::vector<float> values = initializers_.floats(node.input(0));
  QAT_CHECK(initializers_.shape(node.input(0)) == std::vector<int64_t>{kTableSize}, "expected a table of {} values",
            kTableSize);
  if (tensor(index).type == CodeType::kInt8) {
    std::rotate(values.begin(), values.begin() + kTableSize / 2, values.end());
  }
  Node n = start(Op::kTable, node, {index});
  n.function = node.documentation();
  QAT_CHECK(!has_operator(n.function), "{} has an operator of its own", n.function);
  define(node.output(), Unquantized{std::move(n), std::move(values)});
}

void OnnxReader::slice(OnnxNode& node) {
  node.require_inputs(4, 4);
  const int index = codes(node.input(0));
  const auto one = [&](int at) {
    const std::vector<int64_t> values = initializers_.int64s(node.input(at));
    QAT_CHECK(values.size() == 1, "{} must hold one number", in_quotes(node.input(at)));
    return values[0];
  };
  const int64_t begin = one(1), end = one(2), axis = one(3);
  QAT_CHECK(axis == 1 && begin >= 0 && end > begin, "expected a slice of channels (axis 1), found [{}, {}) of axis {}",
            begin, end, axis);
  Node n = start(Op::kChannelSlice, node, {index});
  n.begin = begin;
  emit(std::move(n), node.output(), tensor(index));
  QAT_CHECK(tensor(model_.nodes.back().output).shape[0] == end - begin, "channels [{}, {}) are not what {} holds",
            begin, end, in_quotes(node.output()));
}

/// A channel shuffle is [N, C, H, W] -> [N, groups, C / groups, H, W], the two exchanged, -> [N, C, H, W].
void OnnxReader::reshape(OnnxNode& node) {
  node.require_inputs(2, 2);
  const std::vector<int64_t> to = initializers_.int64s(node.input(1));
  if (to.size() == 6 || holds<Spread>(node.input(0))) return spread(node, to);
  const bool splits = is_codes(node.input(0));
  const Shuffle shuffle = splits ? Shuffle{codes(node.input(0)), 0, false} : take<Shuffle>(node.input(0));
  const std::vector<int64_t> shape = tensor(shuffle.tensor).shape;
  QAT_CHECK(shape.size() == 3, "expected feature maps, found {} dimensions", shape.size());
  if (splits) {
    const bool fits = to.size() == 5 && to[0] == 0 && to[1] >= 1 && shape[0] % to[1] == 0 &&
                      to[2] == shape[0] / to[1] && to[3] == shape[1] && to[4] == shape[2];
    QAT_CHECK(fits, "expected channels split into groups, found [{}]", fmt::join(to, ", "));
    return define(node.output(), Shuffle{shuffle.tensor, to[1], false});
  }
  QAT_CHECK(shuffle.exchanged && to == (std::vector<int64_t>{0, shape[0], shape[1], shape[2]}),
            "expected the end of a channel shuffle, found [{}]", fmt::join(to, ", "));
  Node n = start(Op::kChannelShuffle, node, {shuffle.tensor});
  n.groups = shuffle.groups;
  emit(std::move(n), node.output(), tensor(shuffle.tensor));
}

void OnnxReader::transpose(OnnxNode& node) {
  node.require_inputs(1, 1);
  Shuffle shuffle = take<Shuffle>(node.input(0));
  QAT_CHECK(!shuffle.exchanged && node.integers<5>("perm") == (std::array<int64_t, 5>{0, 2, 1, 3, 4}),
            "expected groups and their channels exchanged");
  shuffle.exchanged = true;
  define(node.output(), shuffle);
}

/// [N, C, H, W] -> [N, C, H, 1, W, 1], and after a Pad [N, C, H, step, W, step] -> [N, C, H * step, W * step].
void OnnxReader::spread(OnnxNode& node, const std::vector<int64_t>& to) {
  const bool begins = is_codes(node.input(0));
  Spread map = begins ? Spread{codes(node.input(0)), 0, {1, 1}, {}} : take<Spread>(node.input(0));
  const std::vector<int64_t> s = tensor(map.tensor).shape;
  QAT_CHECK(s.size() == 3, "expected feature maps, found {} dimensions", s.size());
  const std::vector<int64_t> expected = begins
                                            ? std::vector<int64_t>{0, s[0], s[1], 1, s[2], 1}
                                            : std::vector<int64_t>{0, s[0], s[1] * map.apart[0], s[2] * map.apart[1]};
  QAT_CHECK(to == expected && (begins || map.moves == 2), "expected pixels apart, [{}], found [{}]",
            fmt::join(expected, ", "), fmt::join(to, ", "));
  ++map.moves;
  define(node.output(), map);
}

void OnnxReader::pad(OnnxNode& node) {
  node.require_inputs(3, 3);
  Spread map = take<Spread>(node.input(0));
  const Tensor& t = tensor(map.tensor);
  std::vector<int64_t> pads = initializers_.int64s(node.input(1));
  QAT_CHECK(initializers_.code(node.input(2), t.type) == t.zero_point, "expected the zero point, {}, as padding",
            t.zero_point);
  QAT_CHECK(map.moves == 1 || map.moves == 3, "expected codes that a Reshape moved");
  QAT_CHECK(pads.size() == (map.moves == 1 ? 12 : 8), "found {} pads", pads.size());
  const auto taken = [&](size_t i) { return std::exchange(pads[i], 0); };
  constexpr int64_t kMost = 1 << 20;
  QAT_CHECK(std::ranges::all_of(pads, [](int64_t v) { return v >= -kMost && v <= kMost; }), "pads are out of range");
  if (map.moves == 1) {
    map.apart = {1 + taken(9), 1 + taken(11)};
    QAT_CHECK(map.apart[0] >= 1 && map.apart[1] >= 1, "pixels come {} and {} apart", map.apart[0], map.apart[1]);
  } else {
    map.pad = {taken(2), taken(3), taken(6) + map.apart[0] - 1, taken(7) + map.apart[1] - 1};
  }
  QAT_CHECK(std::ranges::all_of(pads, [](int64_t v) { return v == 0; }), "other dimensions are padded too");
  ++map.moves;
  define(node.output(), map);
}

OnnxReader::Spread OnnxReader::take_map(const std::string& name) {
  const Spread map = take<Spread>(name);
  QAT_CHECK(map.moves == 4, "input {} is not a whole map yet", in_quotes(name));
  return map;
}

void OnnxReader::set_map(Node& n, const Spread& map) {
  QAT_CHECK(n.pad == Node().pad, "a spread map is padded before");
  n.spread = map.apart;
  n.pad = map.pad;
}

void OnnxReader::read_window(Node& n, OnnxNode& node) {
  n.kernel = node.integers<2>("kernel_shape");
  n.stride = node.integers<2>("strides");
  n.pad = node.integers<4>("pads");
  if (n.op != Op::kAveragePool) n.dilation = node.integers<2>("dilations");
  if (n.op == Op::kConv) n.groups = node.integer("group");
  if (n.op != Op::kConv) n.ceil_mode = node.flag("ceil_mode");
  if (n.op == Op::kAveragePool) n.count_include_pad = node.flag("count_include_pad");
}

void OnnxReader::read_attributes(Node& n, OnnxNode& node) {
  const std::string& type = node.type();
  if (n.op == Op::kMaxPool || n.op == Op::kAveragePool) read_window(n, node);
  if (n.op == Op::kConcat || n.op == Op::kFlatten) node.expect("axis", 1);
  if (type.ends_with("QLinearGlobalAveragePool")) node.expect("channels_last", 0);
  if (n.op != Op::kTable) return;
  n.function = "leaky_relu";
  n.alpha = static_cast<double>(node.number("alpha"));
}

// ---- float operators between DequantizeLinear and QuantizeLinear

void OnnxReader::float_operator(Op op, OnnxNode& node, int least, int most) {
  node.require_inputs(least, most);
  std::vector<int> inputs;
  for (int i = 0; i < node.inputs(); ++i) inputs.push_back(take<Dequantized>(node.input(i)).tensor);
  Node n = start(op, node, std::move(inputs));
  read_attributes(n, node);
  define(node.output(), Unquantized{std::move(n), {}});
}

void OnnxReader::read_weight(Node& n, OnnxNode& node) {
  node.require_inputs(2, 3);
  n.weight = take<Weight>(node.input(1));
  if (node.inputs() == 2) return;
  Bias bias = take<Bias>(node.input(2));
  const float scale = tensor(n.inputs[0]).scale;
  bool right = bias.scale.size() == n.weight.scale.size();
  for (size_t c = 0; right && c < bias.scale.size(); ++c) right = bias.scale[c] == scale * n.weight.scale[c];
  QAT_CHECK(right, "the bias's scale is not the product of the input's and the weight's");
  n.bias = std::move(bias.codes);
}

void OnnxReader::conv(OnnxNode& node) {
  std::optional<Spread> map;
  if (holds<SpreadValues>(node.input(0))) map = take<SpreadValues>(node.input(0)).map;
  Node n = start(Op::kConv, node, {map ? map->tensor : take<Dequantized>(node.input(0)).tensor});
  read_weight(n, node);
  read_window(n, node);
  if (map) set_map(n, *map);
  define(node.output(), Unquantized{std::move(n), {}});
}

void OnnxReader::gemm(OnnxNode& node) {
  Node n = start(Op::kLinear, node, {take<Dequantized>(node.input(0)).tensor});
  read_weight(n, node);
  node.expect("transB", 1);
  if (outputs_.contains(node.output())) return emit_floats(std::move(n), node.output());
  define(node.output(), Unquantized{std::move(n), {}});
}

void OnnxReader::pass(Op op, OnnxNode& node) {
  if (!is_codes(node.input(0))) return float_operator(op, node, 1, 1);
  node.require_inputs(1, 1);
  const int index = codes(node.input(0));
  Node n = start(op, node, {index});
  read_attributes(n, node);
  emit(std::move(n), node.output(), tensor(index));
}

// ---- operators on codes

int OnnxReader::operand(const OnnxNode& node, int at) {
  const int index = codes(node.input(at));
  expect_parameters(node, at + 1, index);
  return index;
}

void OnnxReader::code_operator(Op op, OnnxNode& node, int operands) {
  node.require_inputs(3 * operands + 2, 3 * operands + 2);
  std::vector<int> inputs;
  for (int k = 0; k < operands; ++k) inputs.push_back(operand(node, 3 * k));
  Node n = start(op, node, std::move(inputs));
  read_attributes(n, node);
  emit(std::move(n), node.output(), parameters(node, 3 * operands));
}

void OnnxReader::qlinear_concat(OnnxNode& node) {
  QAT_CHECK(node.inputs() >= 5 && node.inputs() % 3 == 2, "expected 2 + 3 n inputs, found {}", node.inputs());
  std::vector<int> inputs;
  for (int at = 2; at < node.inputs(); at += 3) inputs.push_back(operand(node, at));
  Node n = start(Op::kConcat, node, std::move(inputs));
  read_attributes(n, node);
  emit(std::move(n), node.output(), parameters(node, 0));
}

void OnnxReader::qlinear_conv(OnnxNode& node) {
  node.require_inputs(8, 9);
  std::optional<Spread> map;
  if (holds<Spread>(node.input(0))) {
    map = take_map(node.input(0));
    expect_parameters(node, 1, map->tensor);
  }
  Node n = start(Op::kConv, node, {map ? map->tensor : operand(node, 0)});
  n.weight = initializers_.weight(node.input(3), node.input(4), node.input(5));
  if (node.inputs() == 9) n.bias = initializers_.int32s(node.input(8));
  read_window(n, node);
  if (map) set_map(n, *map);
  emit(std::move(n), node.output(), parameters(node, 6));
}

void OnnxReader::qgemm(OnnxNode& node) {
  node.require_inputs(6, 9);
  Node n = start(Op::kLinear, node, {operand(node, 0)});
  n.weight = initializers_.weight(node.input(3), node.input(4), node.input(5));
  if (!node.input(6).empty()) n.bias = initializers_.int32s(node.input(6));
  node.expect("transB", 1);
  if (node.inputs() < 8) return emit_floats(std::move(n), node.output());
  emit(std::move(n), node.output(), parameters(node, 7));
}

}  // namespace qat::exporter
