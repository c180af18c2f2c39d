// The float network beside which an integer one is measured.
#include <utility>

#include "core/base/error.h"
#include "core/export/onnx.h"
#include "core/export/onnx_proto.h"

namespace qat::exporter {
namespace {

using integer::Node;
using integer::Op;
using integer::Tensor;

constexpr int64_t kFloatOpset = 14;  // the first with HardSwish

class FloatTwin {
 public:
  explicit FloatTwin(const integer::IntegerModel& model) : model_(model), values_(model.tensors.size()) {}

  std::string run() {
    proto_.set_ir_version(kIrVersion);
    proto_.add_opset_import()->set_version(kFloatOpset);
    onnx::GraphProto& graph = *proto_.mutable_graph();
    graph.set_name("float");
    for (const int i : model_.inputs) describe(*graph.add_input(), i, name(i));
    for (const Node& node : model_.nodes) write(node);
    for (const int i : model_.outputs) describe(*graph.add_output(), i, values_[static_cast<size_t>(i)]);
    return serialize(proto_);
  }

 private:
  const Tensor& tensor(int index) const { return model_.tensors[static_cast<size_t>(index)]; }
  const std::string& name(int index) {
    std::string& value = values_[static_cast<size_t>(index)];
    if (value.empty()) value = tensor(index).name;
    return value;
  }

  void describe(onnx::ValueInfoProto& info, int index, const std::string& value) const {
    info.set_name(value);
    onnx::TypeProto::Tensor& type = *info.mutable_type()->mutable_tensor_type();
    type.set_elem_type(tensor(index).type == integer::CodeType::kPixels ? onnx::TensorProto::UINT8
                                                                        : onnx::TensorProto::FLOAT);
    type.mutable_shape()->add_dim()->set_dim_value(1);
    for (const int64_t d : tensor(index).shape) type.mutable_shape()->add_dim()->set_dim_value(d);
  }

  onnx::NodeProto& add(const char* op, const std::vector<std::string>& inputs, const std::string& output) {
    onnx::NodeProto& node = *proto_.mutable_graph()->add_node();
    node.set_op_type(op);
    node.set_name(output);
    for (const std::string& input : inputs) node.add_input(input);
    node.add_output(output);
    return node;
  }

  static void attribute(onnx::NodeProto& node, const char* name, const std::vector<int64_t>& values) {
    onnx::AttributeProto& a = *node.add_attribute();
    a.set_name(name);
    a.set_type(onnx::AttributeProto::INTS);
    for (const int64_t value : values) a.add_ints(value);
  }
  static void attribute(onnx::NodeProto& node, const char* name, int64_t value) {
    onnx::AttributeProto& a = *node.add_attribute();
    a.set_name(name);
    a.set_type(onnx::AttributeProto::INT);
    a.set_i(value);
  }
  static void attribute(onnx::NodeProto& node, const char* name, float value) {
    onnx::AttributeProto& a = *node.add_attribute();
    a.set_name(name);
    a.set_type(onnx::AttributeProto::FLOAT);
    a.set_f(value);
  }

  template <class T>
  std::string constant(const std::string& name, const std::vector<int64_t>& dims, const std::vector<T>& values) {
    onnx::TensorProto& t = *proto_.mutable_graph()->add_initializer();
    t.set_name(name);
    t.set_data_type(std::is_same_v<T, float> ? onnx::TensorProto::FLOAT : onnx::TensorProto::INT64);
    for (const int64_t d : dims) t.add_dims(d);
    t.set_raw_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
    return name;
  }

  void add_weight(const Node& node, std::vector<std::string>& inputs) {
    const integer::Weight& w = node.weight;
    const size_t channels = static_cast<size_t>(w.shape[0]), depth = w.codes.size() / channels;
    const auto of = [](const auto& list, size_t c) { return list[list.size() == 1 ? 0 : c]; };
    std::vector<float> weight, bias;
    for (size_t i = 0; i < w.codes.size(); ++i) {
      weight.push_back(of(w.scale, i / depth) * static_cast<float>(w.codes[i] - of(w.zero_point, i / depth)));
    }
    for (size_t c = 0; c < node.bias.size(); ++c) {
      bias.push_back(static_cast<float>(node.bias[c]) * tensor(node.inputs[0]).scale * of(w.scale, c));
    }
    inputs.push_back(constant(node.name + ".w", w.shape, weight));
    if (!bias.empty()) inputs.push_back(constant(node.name + ".b", {static_cast<int64_t>(channels)}, bias));
  }

  static void window(onnx::NodeProto& proto, const Node& node) {
    attribute(proto, "kernel_shape", std::vector(node.kernel.begin(), node.kernel.end()));
    attribute(proto, "strides", std::vector(node.stride.begin(), node.stride.end()));
    const std::array<int64_t, 4> pad = node.is_spread() ? Node().pad : node.pad;
    attribute(proto, "pads", std::vector(pad.begin(), pad.end()));
    if (node.op == Op::kConv) attribute(proto, "group", node.groups);
    if (node.op != Op::kAveragePool) {
      attribute(proto, "dilations", std::vector(node.dilation.begin(), node.dilation.end()));
    } else {
      attribute(proto, "count_include_pad", int64_t{node.count_include_pad});
    }
    if (node.op != Op::kConv) attribute(proto, "ceil_mode", int64_t{node.ceil_mode});
  }

  void write(const Node& node) {
    const std::string& x = name(node.inputs[0]);
    const Tensor& y = tensor(node.output);
    // Codes that start at zero are those of a ReLU, where the operator could go below.
    const bool relu = y.type != integer::CodeType::kFloat32 && y.zero_point == y.lo &&
                      (node.op == Op::kConv || node.op == Op::kLinear || node.op == Op::kAdd);
    const std::string& out = name(node.output);
    const std::string value = relu ? out + ".linear" : out;
    std::vector<std::string> inputs;
    for (const int i : node.inputs) inputs.push_back(name(i));
    switch (node.op) {
      case Op::kQuantize:
      case Op::kDequantize:
        values_[static_cast<size_t>(node.output)] = values_of(node);
        return;
      case Op::kConv:
        if (node.is_spread()) inputs[0] = spread(node, x);
        add_weight(node, inputs);
        window(add("Conv", inputs, value), node);
        break;
      case Op::kLinear:
        add_weight(node, inputs);
        attribute(add("Gemm", inputs, value), "transB", int64_t{1});
        break;
      case Op::kAdd:
        add("Add", inputs, value);
        break;
      case Op::kMul:
        add("Mul", inputs, value);
        break;
      case Op::kMaxPool:
        window(add("MaxPool", inputs, value), node);
        break;
      case Op::kAveragePool:
        window(add("AveragePool", inputs, value), node);
        break;
      case Op::kGlobalAveragePool:
        add("GlobalAveragePool", inputs, value);
        break;
      case Op::kConcat:
        attribute(add("Concat", inputs, value), "axis", int64_t{1});
        break;
      case Op::kTable:
        function(node, x, value);
        break;
      case Op::kRelu:
        add("Relu", inputs, value);
        break;
      case Op::kFlatten:
        attribute(add("Flatten", inputs, value), "axis", int64_t{1});
        break;
      case Op::kChannelSlice: {
        const auto one = [&](const char* what, int64_t number) {
          return constant(out + what, {1}, std::vector<int64_t>{number});
        };
        add("Slice", {x, one(".begin", node.begin), one(".end", node.begin + y.shape[0]), one(".axis", 1)}, value);
        break;
      }
      case Op::kChannelShuffle: {
        const std::vector<int64_t>& s = y.shape;
        const std::vector<int64_t> split{1, node.groups, s[0] / node.groups, s[1], s[2]}, whole{1, s[0], s[1], s[2]};
        add("Reshape", {x, constant(out + ".split", {5}, split)}, out + ".groups");
        attribute(add("Transpose", {out + ".groups"}, out + ".exchanged"), "perm", std::vector<int64_t>{0, 2, 1, 3, 4});
        add("Reshape", {out + ".exchanged", constant(out + ".whole", {4}, whole)}, value);
        break;
      }
    }
    if (relu) add("Relu", {value}, out);
  }

  /// Of pixels, what the preprocessing makes of them.
  std::string values_of(const Node& node) {
    const std::string input = name(node.inputs[0]), x = node.name;
    if (tensor(node.inputs[0]).type != integer::CodeType::kPixels) return input;
    const auto& [mean, std, transforms, classes] = model_.preprocessing;
    const std::vector<int64_t> dims = {std::ssize(mean), 1, 1};
    attribute(add("Cast", {input}, x + ".cast"), "to", int64_t{onnx::TensorProto::FLOAT});
    add("Div", {x + ".cast", constant(x + ".255", {}, std::vector{255.0f})}, x + ".unit");
    if (mean.empty()) return x + ".unit";
    add("Sub", {x + ".unit", constant(x + ".mean", dims, mean)}, x + ".centred");
    add("Div", {x + ".centred", constant(x + ".std", dims, std)}, x + ".normalized");
    return x + ".normalized";
  }

  /// What a runtime does for a transposed convolution.
  std::string spread(const Node& node, const std::string& x) {
    const std::vector<int64_t>& s = tensor(node.inputs[0]).shape;
    const auto [h, w] = node.spread;
    const std::string to = node.name;
    const std::vector<int64_t> fill{0, 0, 0, 0, 0, 0, 0, 0, 0, h - 1, 0, w - 1},
        pads{0, 0, node.pad[0], node.pad[1], 0, 0, node.pad[2] - h + 1, node.pad[3] - w + 1};
    add("Reshape", {x, constant(to + ".one", {6}, std::vector<int64_t>{1, s[0], s[1], 1, s[2], 1})}, to + ".apart");
    add("Pad", {to + ".apart", constant(to + ".fill", {12}, fill)}, to + ".filled");
    add("Reshape", {to + ".filled", constant(to + ".whole", {4}, std::vector<int64_t>{1, s[0], s[1] * h, s[2] * w})},
        to + ".joined");
    add("Pad", {to + ".joined", constant(to + ".pads", {8}, pads)}, to + ".map");
    return to + ".map";
  }

  void function(const Node& node, const std::string& x, const std::string& y) {
    if (node.function == "sigmoid") {
      add("Sigmoid", {x}, y);
    } else if (node.function == "leaky_relu") {
      attribute(add("LeakyRelu", {x}, y), "alpha", static_cast<float>(node.alpha));
    } else if (node.function == "hardswish") {
      add("HardSwish", {x}, y);
    } else if (node.function == "hardsigmoid") {
      attribute(add("HardSigmoid", {x}, y), "alpha", 1.0f / 6.0f);
    } else if (node.function == "silu") {
      add("Sigmoid", {x}, y + ".gate");
      add("Mul", {x, y + ".gate"}, y);
    } else {
      throw ExportError(fmt::format("{}: {} has no float operator", node.name, node.function));
    }
  }

  const integer::IntegerModel& model_;
  onnx::ModelProto proto_;
  std::vector<std::string> values_;  // by tensor
};

}  // namespace

std::string onnx_float(const integer::IntegerModel& model) {
  model.check();
  return FloatTwin(model).run();
}

}  // namespace qat::exporter
