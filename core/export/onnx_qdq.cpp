// The onnx-qdq form: DequantizeLinear -> float operator -> QuantizeLinear.
#include "core/base/error.h"
#include "core/export/onnx.h"
#include "core/export/onnx_writer.h"

namespace qat::exporter {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;
using integer::Weight;

class QdqWriter : public OnnxWriter {
 public:
  explicit QdqWriter(const integer::IntegerModel& model) : OnnxWriter(model, "onnx-qdq") {}

 private:
  int64_t batch() const override { return 0; }

  void write(const Node& node) override {
    std::vector<std::string> inputs;
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const std::string from = node.op == Op::kConv ? map_of(node) : onnx_name(input(node, k));
      inputs.push_back(dequantized(fmt::format("{}_x{}", node.name, k), from, input(node, k)));
    }
    const bool has_weight = node.op == Op::kConv || node.op == Op::kLinear;
    if (has_weight) add_weight(node, inputs);
    // A linear layer that ends in floats is the only operator without a quantizer behind it.
    const bool is_float = output(node).type == CodeType::kFloat32;
    const std::string values = is_float ? output(node).name : node.name + "_value";
    onnx::NodeProto& proto = add(operator_of(node), node.name, inputs, values);
    switch (node.op) {
      case Op::kConv:
      case Op::kMaxPool:
      case Op::kAveragePool:
        window(proto, node);
        break;
      case Op::kLinear:
        attribute(proto, "transB", int64_t{1});
        break;
      case Op::kConcat:
      case Op::kFlatten:
        attribute(proto, "axis", int64_t{1});
        break;
      default:
        if (node.op == Op::kTable) attribute(proto, "alpha", static_cast<float>(node.alpha));
        break;
    }
    if (!is_float) quantize(node.name + "_quantize", values, node);
  }

  static const char* operator_of(const Node& node) {
    switch (node.op) {
      case Op::kConv:
        return "Conv";
      case Op::kLinear:
        return "Gemm";
      case Op::kAdd:
        return "Add";
      case Op::kMul:
        return "Mul";
      case Op::kMaxPool:
        return "MaxPool";
      case Op::kAveragePool:
        return "AveragePool";
      case Op::kGlobalAveragePool:
        return "GlobalAveragePool";
      case Op::kConcat:
        return "Concat";
      case Op::kTable:
        return "LeakyRelu";
      case Op::kFlatten:
        return "Flatten";
      default:
        throw Error(fmt::format("{}: {} has no operator", node.name, integer::to_string(node.op)));
    }
  }

  /// A DequantizeLinear for one operand alone, of codes with the parameters of x; returns its output.
  std::string dequantized(const std::string& name, const std::string& from, const Tensor& x) {
    add("DequantizeLinear", name + "_dequantize",
        {from, constant(name + "_scale", x.scale), code(name + "_zero_point", x.zero_point, x.type)}, name);
    return name;
  }

  void add_weight(const Node& node, std::vector<std::string>& inputs) {
    const Weight& w = node.weight;
    const std::string name = node.name + "_weight";
    std::vector<std::string> operands = {codes(name + kCodesSuffix, w.shape, w.codes, w.type)};
    for (const std::string& parameter : weight_parameters(name, w)) operands.push_back(parameter);
    onnx::NodeProto& weight = add("DequantizeLinear", name + "_dequantize", operands, name);
    if (w.scale.size() > 1) attribute(weight, "axis", int64_t{0});
    inputs.push_back(name);
    if (node.bias.empty()) return;

    const std::string bias_name = node.name + "_bias";
    const bool per_channel = w.scale.size() > 1;
    const auto channels = static_cast<int64_t>(node.bias.size());
    const std::vector<int64_t> dims = per_channel ? std::vector{channels} : std::vector<int64_t>{};
    std::vector<float> scale;
    for (const float s : w.scale) scale.push_back(input(node).scale * s);
    onnx::NodeProto& bias =
        add("DequantizeLinear", bias_name + "_dequantize",
            {constant(bias_name + kCodesSuffix, {channels}, node.bias), constant(bias_name + "_scale", dims, scale),
             constant(bias_name + "_zero_point", dims, std::vector<int32_t>(scale.size(), 0))},
            bias_name);
    if (per_channel) attribute(bias, "axis", int64_t{0});
    inputs.push_back(bias_name);
  }
};

}  // namespace

std::string onnx_qdq(const integer::IntegerModel& model) { return QdqWriter(model).run(); }

}  // namespace qat::exporter
