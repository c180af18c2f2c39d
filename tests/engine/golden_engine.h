// A golden case computed by Engine, from an IntegerModel made of the case.
#pragma once

#include <limits>

#include "core/engine/engine.h"
#include "core/ops/table.h"
#include "tests/engine/golden_case.h"

namespace qat::golden {

class EngineRun {
 public:
  explicit EngineRun(const Case& c) : c_(c) {}

  Result run() {
    const std::string& op = c_.op;
    if (op == "conv") return layer(integer::Op::kConv);
    if (op == "low_bit_conv") return low_bit();
    if (op == "gemm" || op == "gemm_float_output") return layer(integer::Op::kLinear);
    if (op == "add" || op == "mul") return binary();
    if (op == "concat") return concat();
    if (op == "max_pool") return unary(integer::Op::kMaxPool);
    if (op == "average_pool") return unary(integer::Op::kAveragePool);
    if (op == "global_average_pool") return unary(integer::Op::kGlobalAveragePool);
    if (op == "sigmoid" || op == "leaky_relu") return unary(integer::Op::kTable);
    if (op == "quantize_linear") return sliced(integer::Op::kQuantize, "y");
    if (op == "dequantize_linear") {
      return c_.input("x").dtype == "int32" ? dequantize_int32() : sliced(integer::Op::kDequantize, "x");
    }
    throw Error(fmt::format("unknown op '{}'", op));
  }

 private:
  using CodeType = integer::CodeType;

  static CodeType type_of(const std::string& dtype) {
    if (dtype == "uint8") return CodeType::kUint8;
    if (dtype == "int8") return CodeType::kInt8;
    QAT_CHECK(dtype == "float32", "dtype {} is not one of an activation", dtype);
    return CodeType::kFloat32;
  }

  /// The shape of one sample of an array.
  static Shape sample(const Array& a) {
    if (a.shape.size() == 4) return {a.shape[1], a.shape[2], a.shape[3]};
    if (a.shape.size() <= 2) return {a.channels()};
    return {a.channels(), a.pixels(), 1};
  }

  int tensor(const std::string& name, const std::string& dtype, Shape shape, float scale = 1, int32_t zero = 0) {
    const CodeType type = type_of(dtype);
    model_.tensors.push_back({.name = name,
                              .type = type,
                              .shape = std::move(shape),
                              .scale = scale,
                              .zero_point = zero,
                              .lo = integer::IntegerModel::lowest(type),
                              .hi = integer::IntegerModel::highest(type)});
    return static_cast<int>(model_.tensors.size()) - 1;
  }

  int tensor(const std::string& name, const Array& a) {
    const bool floating = a.dtype == "float32";
    return tensor(name, a.dtype, sample(a), floating ? 1 : c_.scale(name), floating ? 0 : c_.zero(name));
  }

  integer::Node node(integer::Op op, std::vector<int> inputs, int output) const {
    integer::Node n;
    n.op = op;
    n.name = fmt::format("node{}", model_.nodes.size());
    n.inputs = std::move(inputs);
    n.output = output;
    return n;
  }

  void set_window(integer::Node& n) const {
    const auto copy = [](const Shape& from, auto& to) {
      QAT_CHECK(from.size() == to.size(), "expected {} integers, found {}", to.size(), from.size());
      std::copy(from.begin(), from.end(), to.begin());
    };
    copy(c_.list("kernel", {1, 1}), n.kernel);
    copy(c_.list("stride", {1, 1}), n.stride);
    copy(c_.list("pad", {0, 0, 0, 0}), n.pad);
    copy(c_.list("dilation", {1, 1}), n.dilation);
    n.groups = c_.attributes.value("group", int64_t{1});
    n.ceil_mode = c_.flag("ceil_mode");
    n.count_include_pad = c_.flag("count_include_pad");
  }

  static engine::Value value(const Array& a) {
    engine::Value v{.batch = a.batch(), .codes = {}, .values = {}};
    if (a.dtype == "float32") {
      v.values = to_nhwc<float>(a.values, a.batch(), a.channels(), a.pixels());
    } else {
      v.codes = to_nhwc<uint8_t>(a.codes, a.batch(), a.channels(), a.pixels());
    }
    return v;
  }

  std::vector<int32_t> codes(const engine::Value& v, CodeType type, int64_t channels) const {
    std::vector<int32_t> found;
    for (uint8_t byte : v.codes) found.push_back(type == CodeType::kInt8 ? static_cast<int8_t>(byte) : byte);
    const int64_t rest = static_cast<int64_t>(found.size()) / (v.batch * channels);
    return to_nchw<int32_t>(found, v.batch, channels, rest);
  }

  /// Runs the model on `inputs` and gives its first output.
  Result run_model(const std::vector<engine::Value>& inputs) {
    const engine::Engine engine(model_);
    const engine::Value y = engine.run(inputs)[0];
    const integer::Tensor& t = model_.tensors[static_cast<size_t>(model_.outputs[0])];
    if (t.type == CodeType::kFloat32) return {.codes = {}, .values = y.values, .x_codes = {}};
    return {.codes = codes(y, t.type, t.shape[0]), .values = {}, .x_codes = {}};
  }

  void add_layer(integer::Op op, int x, int y) {
    integer::Node n = node(op, {x}, y);
    const Array& w = c_.input("w");
    if (op == integer::Op::kConv) set_window(n);
    if (op == integer::Op::kConv) n.kernel = {w.shape.at(2), w.shape.at(3)};
    n.weight = {.type = type_of(w.dtype),
                .shape = w.shape,
                .codes = {w.codes.begin(), w.codes.end()},
                .scale = c_.scale_list("w"),
                .zero_point = c_.zero_list("w")};
    if (c_.has_bias()) n.bias = c_.input("b").codes;
    model_.nodes.push_back(n);
  }

  Result layer(integer::Op op) {
    const int x = tensor("x", c_.input("x"));
    const int y = tensor("y", c_.expected);
    add_layer(op, x, y);
    model_.inputs = {x};
    model_.outputs = {y};
    return run_model({value(c_.input("x"))});
  }

  Result low_bit() {
    const Array& x = c_.input("x");
    const int input = tensor("input", x.dtype, sample(x));
    const int quantized = tensor("x", c_.expected.dtype, sample(x), c_.scale("x"), c_.zero("x"));
    const int y = tensor("y", c_.expected);
    const auto clip = [&](int index, const char* key) {
      integer::Tensor& t = model_.tensors[static_cast<size_t>(index)];
      const Shape range = c_.list(key, {t.lo, t.hi});
      t.lo = static_cast<int32_t>(range[0]);
      t.hi = static_cast<int32_t>(range[1]);
    };
    clip(quantized, "clip_x");
    clip(y, "clip_y");
    model_.nodes.push_back(node(integer::Op::kQuantize, {input}, quantized));
    add_layer(integer::Op::kConv, quantized, y);
    model_.inputs = {input};
    model_.outputs = {y, quantized};
    const std::vector<engine::Value> out = engine::Engine(model_).run({value(x)});
    const CodeType type = type_of(c_.expected.dtype);
    return {.codes = codes(out[0], type, c_.expected.channels()),
            .values = {},
            .x_codes = codes(out[1], type, x.channels())};
  }

  Result unary(integer::Op op) {
    const Array& x = c_.input("x");
    const int in = tensor("x", x);
    const int y = tensor("y", c_.expected);
    integer::Node n = node(op, {in}, y);
    if (op == integer::Op::kTable) {
      n.function = c_.op;
      const float alpha = c_.attributes.contains("alpha") ? parse_float(c_.attributes.at("alpha")) : 0;
      n.alpha = alpha;
      const integer::Tensor& t = model_.tensors[static_cast<size_t>(y)];
      const ops::CodeRange range{.lo = t.lo, .hi = t.hi, .zero_point = t.zero_point};
      const auto f = [&](float v) { return c_.op == "sigmoid" ? ops::sigmoid(v) : ops::leaky_relu(v, alpha); };
      n.table = t.type == CodeType::kInt8
                    ? ops::function_table<int8_t>(c_.scale("x"), c_.zero("x"), t.scale, range, f)
                    : ops::function_table<uint8_t>(c_.scale("x"), c_.zero("x"), t.scale, range, f);
    } else if (op != integer::Op::kGlobalAveragePool) {
      set_window(n);
    }
    model_.nodes.push_back(n);
    model_.inputs = {in};
    model_.outputs = {y};
    return run_model({value(x)});
  }

  Result binary() {
    const Operands o(c_);
    const int a = tensor("a", o.a), b = tensor("b", o.b), y = tensor("y", c_.expected);
    model_.nodes.push_back(node(c_.op == "add" ? integer::Op::kAdd : integer::Op::kMul, {a, b}, y));
    model_.inputs = {a, b};
    model_.outputs = {y};
    return run_model({value(o.a), value(o.b)});
  }

  /// Along any axis: what is before it is the batch, what is behind it the pixels.
  Result concat() {
    const int64_t axis = c_.axis(static_cast<int64_t>(c_.expected.shape.size()));
    const auto view = [&](const Array& a) {
      const Slices s(a.shape, axis);
      Array v = a;
      v.shape = {s.outer, s.channels, s.inner, 1};
      return v;
    };
    std::vector<engine::Value> values;
    for (const std::string& name : concat_inputs(c_)) {
      const Array x = view(c_.input(name));
      model_.inputs.push_back(tensor(name, x));
      values.push_back(value(x));
    }
    const int y = tensor("y", view(c_.expected));
    model_.nodes.push_back(node(integer::Op::kConcat, model_.inputs, y));
    model_.outputs = {y};
    return run_model(values);
  }

  /// (De)quantization, per channel as one node a slice: the engine's tensors have one scale each.
  Result sliced(integer::Op op, const std::string& quantized) {
    const Array& x = c_.input("x");
    const std::vector<float>& scales = c_.scale_list(quantized);
    const Slices slices = Slices::of(c_, x, scales.size());
    std::vector<engine::Value> inputs;
    for (int64_t i = 0; i < slices.channels; ++i) {
      const float scale = pick(scales, i);
      const int32_t zero = pick(c_.zero_list(quantized), i);
      const int in = tensor(fmt::format("x{}", i), x.dtype, {slices.inner}, scale, zero);
      const int out = tensor(fmt::format("y{}", i), c_.expected.dtype, {slices.inner}, scale, zero);
      model_.nodes.push_back(node(op, {in}, out));
      model_.inputs.push_back(in);
      model_.outputs.push_back(out);
      const Array slice{.shape = {slices.outer, slices.inner},
                        .dtype = x.dtype,
                        .codes = x.codes.empty() ? std::vector<int32_t>() : slices.take(x.codes, i),
                        .values = x.values.empty() ? std::vector<float>() : slices.take(x.values, i)};
      inputs.push_back(value(slice));
    }
    const std::vector<engine::Value> outputs = engine::Engine(model_).run(inputs);
    Result r;
    const auto size = static_cast<size_t>(product(x.shape));
    op == integer::Op::kQuantize ? r.codes.resize(size) : r.values.resize(size);
    for (int64_t i = 0; i < slices.channels; ++i) {
      const engine::Value& y = outputs[static_cast<size_t>(i)];
      if (op == integer::Op::kQuantize) {
        slices.put(codes(y, type_of(c_.expected.dtype), slices.inner), i, r.codes);
      } else {
        slices.put(y.values, i, r.values);
      }
    }
    return r;
  }

  /// int32 codes are the biases of a linear layer with float32 output, scale fl32(s_x * s_w) with s_x = 1.
  Result dequantize_int32() {
    const Array& x = c_.input("x");
    const std::vector<float>& scales = c_.scale_list("x");
    const Slices slices = Slices::of(c_, x, scales.size());
    const int64_t n = product(x.shape);
    const int in = tensor("x", "uint8", {1}), y = tensor("y", "float32", {n});
    integer::Node layer = node(integer::Op::kLinear, {in}, y);
    layer.weight = {.type = CodeType::kInt8,
                    .shape = {n, 1},
                    .codes = std::vector<int16_t>(static_cast<size_t>(n)),
                    .scale = {},
                    .zero_point = {0}};
    for (int64_t i = 0; i < n; ++i) {
      const int64_t channel = i / slices.inner % slices.channels;
      layer.weight.scale.push_back(pick(scales, channel));
      layer.bias.push_back(x.codes[static_cast<size_t>(i)] - pick(c_.zero_list("x"), channel));
    }
    model_.nodes = {layer};
    model_.inputs = {in};
    model_.outputs = {y};
    return run_model({{.batch = 1, .codes = {0}, .values = {}}});
  }

  const Case& c_;
  integer::IntegerModel model_;
};

}  // namespace qat::golden
