#include "core/export/onnx_reader.h"

#include <functional>
#include <limits>

#include "core/export/onnx.h"
#include "core/integer/model_file.h"

namespace qat::exporter {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;

namespace {

constexpr std::string_view kUnclippedSuffix = "_unclipped";

}  // namespace

OnnxReader::OnnxReader(const onnx::ModelProto& proto) : graph_(proto.graph()), initializers_(proto.graph()) {
  check_frame(proto);
  read_metadata(proto);
}

integer::IntegerModel OnnxReader::run() {
  for (const auto* list : {&graph_.input(), &graph_.output(), &graph_.value_info()}) {
    for (const onnx::ValueInfoProto& value : *list) {
      QAT_CHECK(types_.emplace(value.name(), &value).second, "value {} is described twice", in_quotes(value.name()));
    }
  }
  for (const onnx::ValueInfoProto& value : graph_.output()) outputs_.insert(value.name());
  for (const onnx::ValueInfoProto& value : graph_.input()) read_input(value);
  for (const onnx::NodeProto& proto : graph_.node()) read_node(proto);
  finish();
  return std::move(model_);
}

void OnnxReader::check_frame(const onnx::ModelProto& proto) const {
  QAT_CHECK(proto.ir_version() == kIrVersion, "expected IR version {}, found {}", kIrVersion, proto.ir_version());
  QAT_CHECK(proto.functions_size() == 0 && proto.training_info_size() == 0,
            "functions and training graphs are not supported");
  for (const onnx::OperatorSetIdProto& set : proto.opset_import()) {
    const std::string& domain = set.domain();
    QAT_CHECK(domain.empty() || domain == kMicrosoft, "unknown operator domain {}", in_quotes(domain));
    const int64_t expected = domain.empty() ? kOpset : 1;
    QAT_CHECK(set.version() == expected, "expected opset {} of domain {}, found {}", expected, in_quotes(domain),
              set.version());
  }
}

void OnnxReader::read_metadata(const onnx::ModelProto& proto) {
  std::map<std::string, std::string> entries;
  for (const onnx::StringStringEntryProto& entry : proto.metadata_props()) {
    QAT_CHECK(entries.emplace(entry.key(), entry.value()).second, "metadata {} stands twice", in_quotes(entry.key()));
  }
  for (const char* key : {"qat.target", "qat.preprocessing"}) {
    QAT_CHECK(entries.contains(key), "metadata '{}' is missing: not a file that qat exported", key);
  }
  model_.target = entries["qat.target"];
  if (const auto overflow = entries.find("qat.overflow"); overflow != entries.end()) {
    model_.overflow = integer::Overflow::kSaturate16;
    QAT_CHECK(overflow->second == integer::to_string(model_.overflow), "unknown overflow {}",
              in_quotes(overflow->second));
  }
  try {
    model_.preprocessing = integer::parse_preprocessing(entries["qat.preprocessing"]);
  } catch (const Error& e) {
    throw Error(fmt::format("metadata 'qat.preprocessing': {}", e.what()));
  }
}

void OnnxReader::read_node(const onnx::NodeProto& proto) {
  using Handler = std::function<void(OnnxReader&, OnnxNode&)>;
  const auto on_values = [](Op op, int least, int most) {
    return [=](OnnxReader& reader, OnnxNode& node) { reader.float_operator(op, node, least, most); };
  };
  const auto on_codes = [](Op op, int operands) {
    return [=](OnnxReader& reader, OnnxNode& node) { reader.code_operator(op, node, operands); };
  };
  const auto passing = [](Op op) { return [=](OnnxReader& reader, OnnxNode& node) { reader.pass(op, node); }; };
  static const std::map<std::string, Handler> kHandlers{
      {"QuantizeLinear", &OnnxReader::quantize},
      {"DequantizeLinear", &OnnxReader::dequantize},
      {"Clip", &OnnxReader::clip},
      {"Cast", &OnnxReader::cast},
      {"Div", &OnnxReader::preprocess},
      {"Sub", &OnnxReader::preprocess},
      {"Gather", &OnnxReader::gather},
      {"Slice", &OnnxReader::slice},
      {"Reshape", &OnnxReader::reshape},
      {"Transpose", &OnnxReader::transpose},
      {"Pad", &OnnxReader::pad},
      {"Conv", &OnnxReader::conv},
      {"Gemm", &OnnxReader::gemm},
      {"MaxPool", passing(Op::kMaxPool)},
      {"Flatten", passing(Op::kFlatten)},
      {"Add", on_values(Op::kAdd, 2, 2)},
      {"Mul", on_values(Op::kMul, 2, 2)},
      {"AveragePool", on_values(Op::kAveragePool, 1, 1)},
      {"GlobalAveragePool", on_values(Op::kGlobalAveragePool, 1, 1)},
      {"Concat", on_values(Op::kConcat, 1, std::numeric_limits<int>::max())},
      {"LeakyRelu", on_values(Op::kTable, 1, 1)},
      {"QLinearConv", &OnnxReader::qlinear_conv},
      {"com.microsoft.QGemm", &OnnxReader::qgemm},
      {"com.microsoft.QLinearAdd", on_codes(Op::kAdd, 2)},
      {"com.microsoft.QLinearMul", on_codes(Op::kMul, 2)},
      {"com.microsoft.QLinearAveragePool", on_codes(Op::kAveragePool, 1)},
      {"com.microsoft.QLinearGlobalAveragePool", on_codes(Op::kGlobalAveragePool, 1)},
      {"com.microsoft.QLinearConcat", &OnnxReader::qlinear_concat},
      {"com.microsoft.QLinearLeakyRelu", on_codes(Op::kTable, 1)},
  };
  try {
    OnnxNode node(proto);
    const auto handler = kHandlers.find(node.type());
    QAT_CHECK(handler != kHandlers.end(), "unknown operator");
    QAT_CHECK(proto.output_size() == 1, "expected one output, found {}", proto.output_size());
    handler->second(*this, node);
    node.finish();
  } catch (const Error& e) {
    throw Error(fmt::format("node {} ({}): {}", in_quotes(proto.name()), in_quotes(proto.op_type()), e.what()));
  }
}

void OnnxReader::finish() {
  for (const auto& [name, value] : values_) {
    const Codes* codes = std::get_if<Codes>(&value);
    const bool is_tensor = std::holds_alternative<Floats>(value) || std::holds_alternative<Pixels>(value) || (codes != nullptr && !codes->unclipped);
    QAT_CHECK(is_tensor, "value {} is used by no node", in_quotes(name));
  }
  for (const auto& [name, type] : types_) {
    QAT_CHECK(tensors_.contains(name), "value {} is described but made by no node", in_quotes(name));
  }
  for (const onnx::ValueInfoProto& value : graph_.output()) model_.outputs.push_back(tensors_.at(value.name()));
  initializers_.require_all_used();
  for (Node& node : model_.nodes) {
    // Now that the ranges are known.
    if (node.op != Op::kTable || !node.table.empty()) continue;
    node.table = operator_table(node.alpha, tensor(node.inputs[0]), tensor(node.output));
  }
  model_.check();
}

void OnnxReader::define(const std::string& name, Value value) {
  QAT_CHECK(!name.empty() && !initializers_.contains(name) && values_.emplace(name, std::move(value)).second,
            "value {} has no name or is made twice", in_quotes(name));
}

int OnnxReader::codes(const std::string& name) {
  const Codes& value = get<Codes>(name);
  QAT_CHECK(!value.unclipped, "input {} must be clipped first", in_quotes(name));
  return value.tensor;
}

std::vector<int64_t> OnnxReader::shape_of(const std::string& name, CodeType type) const {
  const auto found = types_.find(name);
  QAT_CHECK(found != types_.end(), "the shape of value {} is not in the file", in_quotes(name));
  const onnx::TypeProto::Tensor& t = found->second->type().tensor_type();
  QAT_CHECK(t.elem_type() == element_type(type), "value {}: expected element type {} ({}), found {}", in_quotes(name),
            element_type(type), integer::to_string(type), t.elem_type());
  QAT_CHECK(t.shape().dim_size() == 2 || t.shape().dim_size() == 4, "value {}: expected 2 or 4 dimensions, found {}",
            in_quotes(name), t.shape().dim_size());
  std::vector<int64_t> shape;
  for (int i = 1; i < t.shape().dim_size(); ++i) {
    QAT_CHECK(t.shape().dim(i).has_dim_value(), "value {}: dimension {} is not a number", in_quotes(name), i);
    shape.push_back(t.shape().dim(i).dim_value());
  }
  return shape;
}

int OnnxReader::add_tensor(const std::string& value, Tensor t) {
  const auto index = static_cast<int>(model_.tensors.size());
  QAT_CHECK(tensors_.emplace(value, index).second, "value {} is made twice", in_quotes(value));
  model_.tensors.push_back(std::move(t));
  return index;
}

void OnnxReader::read_input(const onnx::ValueInfoProto& value) {
  const std::string& name = value.name();
  if (value.type().tensor_type().elem_type() == onnx::TensorProto::UINT8) {
    const Tensor pixels{.name = name, .type = CodeType::kPixels, .shape = shape_of(name, CodeType::kPixels)};
    model_.inputs.push_back(add_tensor(name, pixels));
    return define(name, Pixels{model_.inputs.back()});
  }
  model_.inputs.push_back(make_floats(name));
  define(name, Floats{model_.inputs.back()});
}

int OnnxReader::make_floats(const std::string& name) {
  return add_tensor(name, {.name = name, .type = CodeType::kFloat32, .shape = shape_of(name, CodeType::kFloat32)});
}

void OnnxReader::emit(Node node, const std::string& value, Tensor t) {
  const bool unclipped = value.ends_with(kUnclippedSuffix);
  const std::string_view suffix = unclipped ? kUnclippedSuffix : kCodesSuffix;
  QAT_CHECK(value.ends_with(suffix) && value.size() > suffix.size(),
            "expected an output named <tensor>{} or <tensor>{}, found {}", kCodesSuffix, kUnclippedSuffix,
            in_quotes(value));
  t.name = value.substr(0, value.size() - suffix.size());
  const std::string clipped = t.name + kCodesSuffix;
  t.shape = shape_of(clipped, t.type);
  node.output = add_tensor(clipped, std::move(t));
  define(value, Codes{node.output, unclipped});
  model_.nodes.push_back(std::move(node));
}

void OnnxReader::emit_floats(Node node, const std::string& value) {
  node.output = make_floats(value);
  define(value, Floats{node.output});
  model_.nodes.push_back(std::move(node));
}

Tensor OnnxReader::parameters(const OnnxNode& node, int at) {
  CodeType type;
  initializers_.codes(node.input(at + 1), type);
  return {.type = type,
          .scale = initializers_.scale(node.input(at)),
          .zero_point = initializers_.code(node.input(at + 1), type),
          .lo = integer::IntegerModel::lowest(type),
          .hi = integer::IntegerModel::highest(type)};
}

void OnnxReader::expect_parameters(const OnnxNode& node, int at, int index) {
  const Tensor& t = tensor(index);
  const float scale = initializers_.scale(node.input(at));
  const int32_t zero_point = initializers_.code(node.input(at + 1), t.type);
  QAT_CHECK(scale == t.scale && zero_point == t.zero_point,
            "{} has scale {} and zero point {}, read here with {} and {}", t.name, t.scale, t.zero_point, scale,
            zero_point);
}

integer::IntegerModel parse_onnx(const std::string& bytes, const std::string& source) {
  const onnx::ModelProto proto = parse_model(bytes, source);
  try {
    return OnnxReader(proto).run();
  } catch (const Error& e) {
    throw FileError(fmt::format("{}: {}", source, e.what()));
  }
}

}  // namespace qat::exporter
