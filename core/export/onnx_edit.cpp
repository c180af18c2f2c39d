// Whole ONNX files: bytes to protobuf and back, copies for judges, what a runtime left in float.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <limits>
#include <set>

#include "core/base/error.h"
#include "core/export/onnx.h"
#include "core/export/onnx_proto.h"

namespace qat::exporter {

onnx::ModelProto parse_model(const std::string& bytes, const std::string& source) {
  onnx::ModelProto model;
  const bool parsed = bytes.size() <= static_cast<size_t>(std::numeric_limits<int>::max()) &&
                      model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  QAT_CHECK_AS(FileError, parsed && model.has_graph(), "{}: not an ONNX model", source);
  return model;
}

std::string serialize(const onnx::ModelProto& model) {
  QAT_CHECK_AS(ExportError, model.ByteSizeLong() <= static_cast<size_t>(std::numeric_limits<int>::max()),
               "the model is larger than the 2 GiB that an ONNX file can hold");
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream output(&stream);
  output.SetSerializationDeterministic(true);
  model.SerializeWithCachedSizes(&output);
  output.Trim();
  return bytes;
}

std::string onnx_for_judge(const std::string& bytes, const integer::IntegerModel& model, bool all_values) {
  onnx::ModelProto proto = parse_model(bytes, "the model");
  onnx::GraphProto& graph = *proto.mutable_graph();
  for (auto* list : {graph.mutable_input(), graph.mutable_output(), graph.mutable_value_info()}) {
    for (onnx::ValueInfoProto& value : *list) {
      onnx::TensorShapeProto& shape = *value.mutable_type()->mutable_tensor_type()->mutable_shape();
      if (shape.dim_size() > 0) shape.mutable_dim(0)->set_dim_param("batch");
    }
  }
  if (!all_values) return serialize(proto);
  std::set<std::string> present;
  for (const onnx::ValueInfoProto& value : graph.output()) present.insert(value.name());
  for (const integer::Node& node : model.nodes) {
    const std::string name = onnx_name(model.tensors[static_cast<size_t>(node.output)]);
    const auto described = std::ranges::find_if(graph.value_info(), [&](const auto& v) { return v.name() == name; });
    if (present.contains(name)) continue;
    QAT_CHECK(described != graph.value_info().end(), "value {} is not in the file", name);
    *graph.add_output() = *described;
  }
  return serialize(proto);
}

std::vector<std::string> onnx_float_nodes(const std::string& bytes, const std::string& source) {
  static const std::set<std::string> kNoArithmetic = {"QuantizeLinear", "Transpose", "Reshape", "Flatten",
                                                      "Squeeze",        "Unsqueeze", "Identity"};
  const onnx::ModelProto model = parse_model(bytes, source);
  std::set<std::string> floats, pixels, preprocessed;
  for (const onnx::ValueInfoProto& value : model.graph().input()) {
    const int32_t type = value.type().tensor_type().elem_type();
    if (type == onnx::TensorProto::FLOAT) floats.insert(value.name());
    if (type == onnx::TensorProto::UINT8) pixels.insert(value.name());
  }
  std::vector<std::string> found;
  for (const onnx::NodeProto& node : model.graph().node()) {
    const std::string& op = node.op_type();
    const auto reads_of = [&](const std::set<std::string>& values) {
      return std::ranges::any_of(node.input(), [&](const std::string& x) { return values.contains(x); });
    };
    if ((op == "Cast" && reads_of(pixels)) || ((op == "Div" || op == "Sub") && reads_of(preprocessed))) {
      preprocessed.insert(node.output().begin(), node.output().end());
      continue;
    }
    const bool reads = reads_of(floats) || reads_of(preprocessed);
    if (reads && !kNoArithmetic.contains(op)) found.push_back(fmt::format("{} ({})", node.name(), op));
    if ((reads && op != "QuantizeLinear") || op == "DequantizeLinear")
      floats.insert(node.output().begin(), node.output().end());
  }
  return found;
}

std::string onnx_format(const std::string& bytes, const std::string& source) {
  const onnx::ModelProto model = parse_model(bytes, source);
  for (const onnx::StringStringEntryProto& entry : model.metadata_props()) {
    if (entry.key() == "qat.format") return entry.value();
  }
  return {};
}

std::string onnx_name(const integer::Tensor& tensor) {
  return integer::holds_codes(tensor.type) ? tensor.name + kCodesSuffix : tensor.name;
}

}  // namespace qat::exporter
