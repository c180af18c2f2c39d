#include "core/export/onnx_opencv.h"

#include <map>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/export/onnx.h"
#include "core/export/onnx_proto.h"

namespace qat::exporter {
namespace {

using integer::CodeType;
using integer::IntegerModel;
using integer::Node;
using integer::Op;
using integer::Tensor;

class Copy {
 public:
  Copy(const std::string& bytes, const IntegerModel& model, int64_t batch)
      : model_(model), batch_(batch), file_(parse_model(bytes, "the model")), graph_(*copy_.mutable_graph()) {
    for (const onnx::NodeProto& node : file_.graph().node()) nodes_[node.name()] = &node;
    for (const onnx::TensorProto& t : file_.graph().initializer()) initializers_[t.name()] = &t;
    copy_.set_ir_version(file_.ir_version());
    *copy_.mutable_opset_import() = file_.opset_import();
    graph_.set_name(file_.graph().name());
  }

  void add(const Node& node) {
    const auto found = nodes_.find(node.name);
    QAT_CHECK(found != nodes_.end(), "node {} is not in the file", node.name);
    onnx::NodeProto copy = *found->second;
    std::set<int> given;
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const std::string name = operand(node, k);
      for (int i = 0; i < copy.input_size(); ++i) {
        if (copy.input(i) != onnx_name(tensor(node.inputs[k])) || given.contains(i)) continue;
        copy.set_input(i, name);
        given.insert(i);
        break;
      }
    }
    for (int i = 0; i < copy.input_size(); ++i) {
      if (!given.contains(i)) keep(copy.input(i));
    }
    const Tensor& y = tensor(node.output);
    copy.set_output(0, onnx_name(y));
    if (y.type != CodeType::kFloat32) parameters(y.name, y);
    if (node.op == Op::kLinear) as_convolution(copy);
    *graph_.add_node() = std::move(copy);
    describe(*graph_.add_output(), onnx_name(y), element_type(y.type), shape(y));
  }

  OpenCvCopy finish() { return {serialize(copy_), std::move(inputs_)}; }

 private:
  const Tensor& tensor(int index) const { return model_.tensors[static_cast<size_t>(index)]; }

  /// A graph input for an operand; returns the value that the node reads.
  std::string operand(const Node& node, size_t k) {
    const Tensor& x = tensor(node.inputs[k]);
    const std::string name = fmt::format("{}_given_{}", node.name, k);
    std::vector<int64_t> dims = shape(x);
    if (node.op == Op::kLinear) dims.insert(dims.end(), 2, 1);
    describe(*graph_.add_input(), name, onnx::TensorProto::FLOAT, dims);
    inputs_.push_back({name, node.inputs[k], std::move(dims)});
    if (x.type == CodeType::kFloat32) return name;
    parameters(name, x);
    onnx::NodeProto& quantize = *graph_.add_node();
    quantize.set_op_type("QuantizeLinear");
    quantize.set_name(name);
    for (const char* end : {"", "_scale", "_zero_point"}) quantize.add_input(name + end);
    quantize.add_output(name + kCodesSuffix);
    return quantize.output(0);
  }

  /// OpenCV looks for the parameters of a value T_quantized under these names.
  void parameters(const std::string& name, const Tensor& t) {
    const auto add = [&](const char* end, int32_t type, std::string bytes) {
      if (!constants_.insert(name + end).second) return;
      onnx::TensorProto& constant = *graph_.add_initializer();
      constant.set_name(name + end);
      constant.set_data_type(type);
      constant.set_raw_data(std::move(bytes));
    };
    add("_scale", onnx::TensorProto::FLOAT, {reinterpret_cast<const char*>(&t.scale), sizeof(t.scale)});
    add("_zero_point", element_type(t.type), std::string(1, static_cast<char>(t.zero_point)));
  }

  void keep(const std::string& name) {
    const auto found = initializers_.find(name);
    if (found != initializers_.end() && constants_.insert(name).second) *graph_.add_initializer() = *found->second;
  }

  /// QLinearConv takes QGemm's operands with the bias behind all others.
  void as_convolution(onnx::NodeProto& node) {
    std::vector<std::string> operands(node.input().begin(), node.input().end());
    QAT_CHECK(operands.size() == 9, "{}: expected the 9 operands of a QGemm of codes, found {}", node.name(),
              operands.size());
    const std::string bias = operands[6];
    operands.erase(operands.begin() + 6);
    if (!bias.empty()) operands.push_back(bias);
    for (onnx::TensorProto& t : *graph_.mutable_initializer()) {
      if (t.name() != operands[3]) continue;
      t.add_dims(1);
      t.add_dims(1);
    }
    onnx::NodeProto convolution;
    convolution.set_name(node.name());
    convolution.set_op_type("QLinearConv");
    for (const std::string& x : operands) convolution.add_input(x);
    convolution.add_output(node.output(0));
    onnx::AttributeProto& kernel = *convolution.add_attribute();
    kernel.set_name("kernel_shape");
    kernel.set_type(onnx::AttributeProto::INTS);
    kernel.add_ints(1);
    kernel.add_ints(1);
    node = std::move(convolution);
  }

  std::vector<int64_t> shape(const Tensor& t) const {
    std::vector<int64_t> dims = {batch_};
    dims.insert(dims.end(), t.shape.begin(), t.shape.end());
    return dims;
  }

  static void describe(onnx::ValueInfoProto& value, const std::string& name, int32_t type,
                       const std::vector<int64_t>& dims) {
    value.set_name(name);
    onnx::TypeProto::Tensor& tensor = *value.mutable_type()->mutable_tensor_type();
    tensor.set_elem_type(type);
    for (const int64_t d : dims) tensor.mutable_shape()->add_dim()->set_dim_value(d);
  }

  const IntegerModel& model_;
  int64_t batch_;
  onnx::ModelProto file_, copy_;
  onnx::GraphProto& graph_;
  std::map<std::string, const onnx::NodeProto*> nodes_;
  std::map<std::string, const onnx::TensorProto*> initializers_;
  std::set<std::string> constants_;
  std::vector<OpenCvCopy::Input> inputs_;
};

}  // namespace

OpenCvCopy onnx_for_opencv(const std::string& bytes, const IntegerModel& model, int64_t batch,
                           const std::function<bool(const Node&)>& chosen) {
  Copy copy(bytes, model, batch);
  for (const Node& node : model.nodes) {
    if (chosen(node)) copy.add(node);
  }
  return copy.finish();
}

}  // namespace qat::exporter
