// The onnx-qoperator form: operators on codes, with the scales and zero points of their operands as inputs.
#include "core/base/error.h"
#include "core/export/onnx.h"
#include "core/export/onnx_writer.h"

namespace qat::exporter {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;

class QOperatorWriter : public OnnxWriter {
 public:
  explicit QOperatorWriter(const integer::IntegerModel& model)
      : OnnxWriter(model, "onnx-qoperator"), owners_(model.tensors.size()) {
    for (const Node& node : model.nodes) {
      const auto y = static_cast<size_t>(node.output);
      owners_[y] = passes_codes(node.op) ? owners_[static_cast<size_t>(node.inputs[0])] : node.output;
    }
  }

 private:
  // OpenCV's reader needs numbers in the shapes of inputs and outputs.
  int64_t batch() const override { return 1; }

  void write(const Node& node) override {
    switch (node.op) {
      case Op::kConv:
        return convolution(node);
      case Op::kLinear:
        return linear(node);
      case Op::kAdd:
      case Op::kMul: {
        std::vector<std::string> inputs = operand(node, 0);
        append(inputs, operand(node, 1));
        append(inputs, result(node));
        add(node.op == Op::kAdd ? "QLinearAdd" : "QLinearMul", node.name, inputs, unlimited(node), kMicrosoft);
        return limit(node);
      }
      case Op::kConcat: {
        std::vector<std::string> inputs = result(node);
        for (size_t k = 0; k < node.inputs.size(); ++k) append(inputs, operand(node, k));
        attribute(add("QLinearConcat", node.name, inputs, unlimited(node), kMicrosoft), "axis", int64_t{1});
        return limit(node);
      }
      case Op::kMaxPool:
        window(add("MaxPool", node.name, {onnx_name(input(node))}, unlimited(node)), node);
        return limit(node);
      case Op::kFlatten:
        attribute(add("Flatten", node.name, {onnx_name(input(node))}, unlimited(node)), "axis", int64_t{1});
        return limit(node);
      case Op::kAveragePool:
        window(unary("QLinearAveragePool", node), node);
        return limit(node);
      case Op::kGlobalAveragePool:
        attribute(unary("QLinearGlobalAveragePool", node), "channels_last", int64_t{0});
        return limit(node);
      case Op::kTable:
        attribute(unary("QLinearLeakyRelu", node), "alpha", static_cast<float>(node.alpha));
        return limit(node);
      default:
        throw Error(fmt::format("{}: {} has no operator", node.name, integer::to_string(node.op)));
    }
  }

  static void append(std::vector<std::string>& to, const std::vector<std::string>& names) {
    to.insert(to.end(), names.begin(), names.end());
  }

  /// Codes, scale and zero point of an input.
  std::vector<std::string> operand(const Node& node, size_t k) const {
    const std::string& owner = tensor(owners_[static_cast<size_t>(node.inputs[k])]).name;
    return {onnx_name(input(node, k)), owner + "_scale", owner + "_zero_point"};
  }

  std::vector<std::string> result(const Node& node) {
    const Tensor& y = output(node);
    return {constant(y.name + "_scale", y.scale), code(y.name + "_zero_point", y.zero_point, y.type)};
  }

  onnx::NodeProto& unary(const char* op, const Node& node) {
    std::vector<std::string> inputs = operand(node, 0);
    append(inputs, result(node));
    return add(op, node.name, inputs, unlimited(node), kMicrosoft);
  }

  std::vector<std::string> weight(const Node& node) {
    const std::string name = node.name + "_weight";
    std::vector<std::string> inputs = {
        codes(name + kCodesSuffix, node.weight.shape, node.weight.codes, node.weight.type)};
    append(inputs, weight_parameters(name, node.weight));
    return inputs;
  }

  std::vector<std::string> bias(const Node& node) {
    if (node.bias.empty()) return {};
    return {constant(node.name + "_bias" + kCodesSuffix, {static_cast<int64_t>(node.bias.size())}, node.bias)};
  }

  void convolution(const Node& node) {
    std::vector<std::string> inputs = operand(node, 0);
    inputs[0] = map_of(node);
    append(inputs, weight(node));
    append(inputs, result(node));
    append(inputs, bias(node));
    window(add("QLinearConv", node.name, inputs, unlimited(node)), node);
    limit(node);
  }

  void linear(const Node& node) {
    std::vector<std::string> inputs = operand(node, 0);
    append(inputs, weight(node));
    append(inputs, node.bias.empty() ? std::vector<std::string>{""} : bias(node));
    if (output(node).type != CodeType::kFloat32) append(inputs, result(node));
    if (inputs.back().empty()) inputs.pop_back();
    const bool is_float = output(node).type == CodeType::kFloat32;
    attribute(add("QGemm", node.name, inputs, is_float ? output(node).name : unlimited(node), kMicrosoft), "transB",
              int64_t{1});
    if (!is_float) limit(node);
  }

  // Whose scale and zero point are in the file: a tensor's own, or of the one whose codes a pool, flatten or relu took.
  std::vector<int> owners_;
};

}  // namespace

std::string onnx_qoperator(const integer::IntegerModel& model) { return QOperatorWriter(model).run(); }

}  // namespace qat::exporter
