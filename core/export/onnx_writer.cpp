#include "core/export/onnx_writer.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/error.h"
#include "core/base/version.h"
#include "core/export/fingerprint.h"
#include "core/export/onnx.h"
#include "core/integer/model_file.h"

namespace qat::exporter {

using integer::Node;
using integer::Op;
using integer::Tensor;
using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "raw_data is little-endian");

namespace {

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

std::string OnnxWriter::run() {
  model_.check();
  require_exportable(model_, format_);
  proto_.set_ir_version(kIrVersion);
  proto_.set_producer_name("qat");
  proto_.set_producer_version(QAT_VERSION);
  onnx::GraphProto& graph = *proto_.mutable_graph();
  graph.set_name("qat");
  std::set<int> ends(model_.inputs.begin(), model_.inputs.end());
  for (const int i : model_.inputs) {
    claim(onnx_name(tensor(i)));
    describe(*graph.add_input(), tensor(i));
  }
  for (const Node& node : model_.nodes) {
    if (node.op == Op::kQuantize) {
      quantize(node.name, values_of_input(node), node);
    } else if (node.op == Op::kDequantize) {
      const Tensor& x = input(node);
      add("DequantizeLinear", node.name,
          {onnx_name(x), constant(node.name + "_x_scale", x.scale),
           code(node.name + "_x_zero_point", x.zero_point, x.type)},
          onnx_name(output(node)));
    } else if (node.op == Op::kRelu) {
      const Tensor& x = input(node);
      add("Clip", node.name, {onnx_name(x), code(node.name + "_min", x.zero_point, x.type)}, unlimited(node));
      limit(node);
    } else if (node.op == Op::kTable && !has_operator(node.function)) {
      gather(node);
    } else if (node.op == Op::kChannelSlice) {
      slice(node);
    } else if (node.op == Op::kChannelShuffle) {
      shuffle(node);
    } else {
      write(node);
    }
  }
  for (const int i : model_.outputs) {
    describe(*graph.add_output(), tensor(i));
    ends.insert(i);
  }
  // The shapes of all other codes; only the reader needs them.
  for (size_t i = 0; i < model_.tensors.size(); ++i) {
    if (!ends.contains(static_cast<int>(i))) describe(*graph.add_value_info(), model_.tensors[i]);
  }
  std::set<std::string> domains;
  for (const onnx::NodeProto& node : graph.node()) domains.insert(node.domain());
  for (const std::string& domain : domains) {
    onnx::OperatorSetIdProto& set = *proto_.add_opset_import();
    set.set_domain(domain);
    set.set_version(domain.empty() ? kOpset : 1);
  }
  add_metadata();
  return serialize(proto_);
}

const std::string& OnnxWriter::claim(const std::string& name) {
  QAT_CHECK_AS(ExportError, values_.insert(name).second,
               "the name {} is needed twice in the {} file: rename a layer or tensor", name, format_);
  return name;
}

onnx::NodeProto& OnnxWriter::add(const char* op, const std::string& name, const std::vector<std::string>& inputs,
                                 const std::string& output, const char* domain) {
  QAT_CHECK_AS(ExportError, nodes_.insert(name).second,
               "the node name {} is needed twice in the {} file: rename a layer", name, format_);
  onnx::NodeProto& node = *proto_.mutable_graph()->add_node();
  node.set_op_type(op);
  node.set_name(name);
  if (*domain != '\0') node.set_domain(domain);
  for (const std::string& value : inputs) node.add_input(value);
  node.add_output(claim(output));
  return node;
}

void OnnxWriter::attribute(onnx::NodeProto& node, const char* name, int64_t value) {
  onnx::AttributeProto& a = *node.add_attribute();
  a.set_name(name);
  a.set_type(onnx::AttributeProto::INT);
  a.set_i(value);
}

void OnnxWriter::attribute(onnx::NodeProto& node, const char* name, float value) {
  onnx::AttributeProto& a = *node.add_attribute();
  a.set_name(name);
  a.set_type(onnx::AttributeProto::FLOAT);
  a.set_f(value);
}

void OnnxWriter::attribute(onnx::NodeProto& node, const char* name, const std::vector<int64_t>& values) {
  onnx::AttributeProto& a = *node.add_attribute();
  a.set_name(name);
  a.set_type(onnx::AttributeProto::INTS);
  for (const int64_t value : values) a.add_ints(value);
}

void OnnxWriter::window(onnx::NodeProto& proto, const Node& node) {
  attribute(proto, "kernel_shape", std::vector(node.kernel.begin(), node.kernel.end()));
  attribute(proto, "strides", std::vector(node.stride.begin(), node.stride.end()));
  const std::array<int64_t, 4> pad = node.is_spread() ? Node().pad : node.pad;  // the map has been padded
  attribute(proto, "pads", std::vector(pad.begin(), pad.end()));
  if (node.op != Op::kAveragePool) {
    attribute(proto, "dilations", std::vector(node.dilation.begin(), node.dilation.end()));
  }
  if (node.op == Op::kConv) attribute(proto, "group", node.groups);
  if (node.op != Op::kConv) attribute(proto, "ceil_mode", int64_t{node.ceil_mode});
  if (node.op == Op::kAveragePool) attribute(proto, "count_include_pad", int64_t{node.count_include_pad});
}

std::string OnnxWriter::add_constant(const std::string& name, const std::vector<int64_t>& dims, int32_t type,
                                     std::string bytes) {
  onnx::TensorProto& tensor = *proto_.mutable_graph()->add_initializer();
  tensor.set_name(claim(name));
  tensor.set_data_type(type);
  for (const int64_t d : dims) tensor.add_dims(d);
  tensor.set_raw_data(std::move(bytes));
  return name;
}

std::string OnnxWriter::constant(const std::string& name, const std::vector<int64_t>& dims,
                                 const std::vector<float>& values) {
  return add_constant(name, dims, onnx::TensorProto::FLOAT, bytes_of(values));
}

std::string OnnxWriter::constant(const std::string& name, const std::vector<int64_t>& dims,
                                 const std::vector<int32_t>& values) {
  return add_constant(name, dims, onnx::TensorProto::INT32, bytes_of(values));
}

std::string OnnxWriter::constant(const std::string& name, const std::vector<int64_t>& dims,
                                 const std::vector<int64_t>& values) {
  return add_constant(name, dims, onnx::TensorProto::INT64, bytes_of(values));
}

std::string OnnxWriter::codes_bytes(const std::string& name, const std::vector<int64_t>& dims, std::string bytes,
                                    integer::CodeType type) {
  return add_constant(name, dims, element_type(type), std::move(bytes));
}

std::vector<std::string> OnnxWriter::weight_parameters(const std::string& name, const integer::Weight& weight) {
  const bool per_channel = weight.scale.size() > 1;
  const std::vector<int64_t> dims = per_channel ? std::vector{weight.shape[0]} : std::vector<int64_t>{};
  const size_t count = per_channel ? weight.scale.size() : 1;
  return {constant(name + "_scale", dims, weight.scale),
          codes(name + "_zero_point", dims, std::vector(count, weight.zero_point[0]), weight.type)};
}

bool OnnxWriter::is_limited(const Node& node) const {
  const Tensor& y = output(node);
  if (passes_codes(node.op)) return y.lo != input(node).lo || y.hi != input(node).hi;
  return y.lo != integer::IntegerModel::lowest(y.type) || y.hi != integer::IntegerModel::highest(y.type);
}

std::string OnnxWriter::unlimited(const Node& node) const {
  return is_limited(node) ? output(node).name + "_unclipped" : onnx_name(output(node));
}

void OnnxWriter::limit(const Node& node) {
  if (!is_limited(node)) return;
  const Tensor& y = output(node);
  add("Clip", y.name + "_clip",
      {unlimited(node), code(y.name + "_min", y.lo, y.type), code(y.name + "_max", y.hi, y.type)}, onnx_name(y));
}

void OnnxWriter::quantize(const std::string& name, const std::string& values, const Node& node) {
  const Tensor& y = output(node);
  add("QuantizeLinear", name,
      {values, constant(y.name + "_scale", y.scale), code(y.name + "_zero_point", y.zero_point, y.type)},
      unlimited(node));
  limit(node);
}

/// Of pixels, what the preprocessing makes of them (integer/pixels.h).
std::string OnnxWriter::values_of_input(const Node& node) {
  const Tensor& x = input(node);
  if (x.type != integer::CodeType::kPixels) return onnx_name(x);
  const auto& [mean, std, transforms, classes] = model_.preprocessing;
  const std::string name = node.name;
  const auto step = [&](const char* op, const std::string& from, const char* what, std::vector<float> operand) {
    const std::vector<int64_t> dims =
        operand.size() == 1 ? std::vector<int64_t>{} : std::vector<int64_t>{std::ssize(operand), 1, 1};
    const std::string to = name + what;
    add(op, to, {from, constant(to + "_by", dims, operand)}, to);
    return to;
  };
  attribute(add("Cast", name + "_cast", {onnx_name(x)}, name + "_cast"), "to", int64_t{onnx::TensorProto::FLOAT});
  const std::string unit = step("Div", name + "_cast", "_unit", {255.0f});
  if (mean.empty()) return unit;
  return step("Div", step("Sub", unit, "_centred", mean), "_normalized", std);
}

/// y = Q(values[x]), the values being those of the table's codes. Negative indices count from the end, so the table of
/// int8 codes starts in its middle.
void OnnxWriter::gather(const Node& node) {
  const Tensor &x = input(node), &y = output(node);
  std::vector<float> values;
  for (const int16_t c : node.table) values.push_back(y.scale * static_cast<float>(c - y.zero_point));
  if (x.type == integer::CodeType::kInt8) std::rotate(values.begin(), values.begin() + kTableSize / 2, values.end());
  onnx::NodeProto& cast = add("Cast", node.name + "_cast", {onnx_name(x)}, node.name + "_index");
  attribute(cast, "to", int64_t{onnx::TensorProto::INT32});
  const std::string table = constant(node.name + "_values", {kTableSize}, values);
  onnx::NodeProto& lookup = add("Gather", node.name, {table, node.name + "_index"}, node.name + "_value");
  attribute(lookup, "axis", int64_t{0});
  lookup.set_doc_string(node.function);
  quantize(node.name + "_quantize", node.name + "_value", node);
}

/// [N, C, H, W] -> [N, C, H, 1, W, 1], padded to [N, C, H, step, W, step], -> [N, C, H * step, W * step], padded.
std::string OnnxWriter::map_of(const Node& node) {
  const Tensor& x = input(node);
  if (!node.is_spread()) return onnx_name(x);
  const int64_t c = x.shape[0], h = x.shape[1], w = x.shape[2];
  const auto [step_h, step_w] = node.spread;
  const std::string apart = node.name + "_apart", filled = node.name + "_filled", joined = node.name + "_joined",
                    map = node.name + "_map";
  const auto reshape = [&](const std::string& from, const std::string& to, const std::vector<int64_t>& shape) {
    add("Reshape", to, {from, constant(to + "_shape", {std::ssize(shape)}, shape)}, to);
  };
  const auto pad = [&](const std::string& from, const std::string& to, const std::vector<int64_t>& pads) {
    add("Pad", to, {from, constant(to + "_pads", {std::ssize(pads)}, pads), code(to + "_zero", x.zero_point, x.type)},
        to);
  };
  reshape(onnx_name(x), apart, {0, c, h, 1, w, 1});
  pad(apart, filled, {0, 0, 0, 0, 0, 0, 0, 0, 0, step_h - 1, 0, step_w - 1});
  reshape(filled, joined, {0, c, h * step_h, w * step_w});
  pad(joined, map, {0, 0, node.pad[0], node.pad[1], 0, 0, node.pad[2] - (step_h - 1), node.pad[3] - (step_w - 1)});
  return map;
}

void OnnxWriter::slice(const Node& node) {
  const auto number = [&](const char* what, int64_t value) {
    return constant(node.name + what, {1}, std::vector{value});
  };
  const std::string begin = number("_begin", node.begin), end = number("_end", node.begin + output(node).shape[0]);
  add("Slice", node.name, {onnx_name(input(node)), begin, end, number("_axis", 1)}, unlimited(node));
  limit(node);
}

/// Zeros in a shape keep the batch.
void OnnxWriter::shuffle(const Node& node) {
  const std::vector<int64_t>& s = input(node).shape;
  const std::string split = node.name + "_split", exchanged = node.name + "_exchanged";
  const std::vector<int64_t> groups = {0, node.groups, s[0] / node.groups, s[1], s[2]}, whole = {0, s[0], s[1], s[2]};
  add("Reshape", split, {onnx_name(input(node)), constant(split + "_shape", {5}, groups)}, split);
  attribute(add("Transpose", exchanged, {split}, exchanged), "perm", std::vector<int64_t>{0, 2, 1, 3, 4});
  add("Reshape", node.name, {exchanged, constant(node.name + "_shape", {4}, whole)}, unlimited(node));
  limit(node);
}

void OnnxWriter::describe(onnx::ValueInfoProto& value, const Tensor& tensor) const {
  value.set_name(onnx_name(tensor));
  onnx::TypeProto::Tensor& type = *value.mutable_type()->mutable_tensor_type();
  type.set_elem_type(element_type(tensor.type));
  onnx::TensorShapeProto::Dimension& first = *type.mutable_shape()->add_dim();
  if (batch() > 0) {
    first.set_dim_value(batch());
  } else {
    first.set_dim_param("batch");
  }
  for (const int64_t d : tensor.shape) type.mutable_shape()->add_dim()->set_dim_value(d);
}

void OnnxWriter::add_metadata() {
  const auto put = [&](const char* key, std::string value) {
    onnx::StringStringEntryProto& entry = *proto_.add_metadata_props();
    entry.set_key(key);
    entry.set_value(std::move(value));
  };
  Json digests = Json::object();
  for (const auto& [name, digest] : fingerprint(model_)) digests[name] = digest;
  put("qat.format", format_);
  put("qat.target", model_.target);
  if (model_.overflow != integer::Overflow::kExact) put("qat.overflow", integer::to_string(model_.overflow));
  put("qat.preprocessing", integer::preprocessing_text(model_.preprocessing));
  put("qat.sha256", digests.dump());
}

}  // namespace qat::exporter
