#include "core/integer/model_file.h"

#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/safetensors.h"
#include "core/integer/code_packing.h"

namespace qat::integer {
namespace {

using Json = nlohmann::json;

constexpr const char* kMetadata = "qat.model";
constexpr Op kOps[] = {
    Op::kQuantize,      Op::kDequantize,        Op::kConv,   Op::kLinear, Op::kAdd,  Op::kMul,     Op::kMaxPool,
    Op::kAveragePool,   Op::kGlobalAveragePool, Op::kConcat, Op::kTable,  Op::kRelu, Op::kFlatten, Op::kChannelSlice,
    Op::kChannelShuffle};
constexpr Overflow kOverflows[] = {Overflow::kExact, Overflow::kSaturate16};
constexpr CodeType kTypes[] = {CodeType::kUint8, CodeType::kInt8, CodeType::kFloat32, CodeType::kPixels};

bool has_weight(const Node& node) { return node.op == Op::kConv || node.op == Op::kLinear; }

// ---- writing

Json tensor_json(const Tensor& t) {
  Json json{{"name", t.name}, {"type", to_string(t.type)}, {"shape", t.shape}};
  if (!holds_codes(t.type)) return json;
  json.update({{"scale", t.scale}, {"zero_point", t.zero_point}, {"lo", t.lo}, {"hi", t.hi}});
  return json;
}

template <class T>
void put_unless_default(Json& json, const char* key, const Node& node, T Node::*member) {
  if (node.*member != Node().*member) json[key] = node.*member;
}

Json node_json(const Node& node, const std::vector<Tensor>& tensors) {
  Json json{
      {"op", to_string(node.op)}, {"name", node.name}, {"output", tensors[static_cast<size_t>(node.output)].name}};
  json["inputs"] = Json::array();
  for (int i : node.inputs) json["inputs"].push_back(tensors[static_cast<size_t>(i)].name);
  put_unless_default(json, "kernel", node, &Node::kernel);
  put_unless_default(json, "stride", node, &Node::stride);
  put_unless_default(json, "pad", node, &Node::pad);
  put_unless_default(json, "spread", node, &Node::spread);
  put_unless_default(json, "dilation", node, &Node::dilation);
  put_unless_default(json, "groups", node, &Node::groups);
  put_unless_default(json, "begin", node, &Node::begin);
  put_unless_default(json, "ceil_mode", node, &Node::ceil_mode);
  put_unless_default(json, "count_include_pad", node, &Node::count_include_pad);
  put_unless_default(json, "function", node, &Node::function);
  put_unless_default(json, "alpha", node, &Node::alpha);
  if (const auto packing = packing_of(node.weight.codes)) {
    json["packed_weight"] = {{"type", to_string(node.weight.type)},
                             {"shape", node.weight.shape},
                             {"bits", packing->bits},
                             {"lowest", packing->lowest},
                             {"step", packing->step}};
  }
  return json;
}

/// Tensors of the file; keeps what the model does not hold in the file's types.
class Arrays {
 public:
  void add(const Node& node, const std::vector<float>& multipliers) {
    const Weight& w = node.weight;
    if (has_weight(node)) {
      if (const auto packing = packing_of(w.codes)) {
        put(node.name + ".weight", keep(pack_codes(w.codes, *packing)));
      } else if (w.type == CodeType::kInt8) {
        put(node.name + ".weight", w.shape, keep(std::vector<int8_t>(w.codes.begin(), w.codes.end())));
      } else {
        put(node.name + ".weight", w.shape, keep(std::vector<uint8_t>(w.codes.begin(), w.codes.end())));
      }
      put(node.name + ".weight_scale", w.scale);
      put(node.name + ".weight_zero_point", w.zero_point);
      if (!node.bias.empty()) put(node.name + ".bias", node.bias);
      put(node.name + ".multiplier", keep(multipliers));
    }
    if (node.op == Op::kTable) put(node.name + ".table", node.table);
  }

  const std::vector<TensorView>& views() const { return views_; }

 private:
  template <class T>
  const std::vector<T>& keep(std::vector<T> values) {
    auto owner = std::make_shared<std::vector<T>>(std::move(values));
    kept_.push_back(owner);
    return *owner;
  }

  template <class T>
  void put(const std::string& name, const std::vector<int64_t>& shape, const std::vector<T>& values) {
    views_.push_back(TensorView::of<T>(name, shape, values));
  }
  template <class T>
  void put(const std::string& name, const std::vector<T>& values) {
    put(name, {static_cast<int64_t>(values.size())}, values);
  }

  std::vector<std::shared_ptr<void>> kept_;
  std::vector<TensorView> views_;
};

// ---- reading; all errors are qat::Error or Json::exception, load_model names the file

const Json& field(const Json& object, const char* key) {
  QAT_CHECK(object.is_object(), "expected an object with '{}', found {}", key, object.type_name());
  const auto found = object.find(key);
  QAT_CHECK(found != object.end(), "'{}' is missing", key);
  return *found;
}

const Json& array(const Json& json, const char* what) {
  QAT_CHECK(json.is_array(), "'{}' must be an array, found {}", what, json.type_name());
  return json;
}

std::string string(const Json& json, const char* what) {
  QAT_CHECK(json.is_string(), "'{}' must be a string, found {}", what, json.type_name());
  return json.get<std::string>();
}

template <class T>
T integer(const Json& json, const char* what) {
  // An unsigned value beyond int64 does not fit any field.
  const bool fits = json.is_number_integer() && (!json.is_number_unsigned() ||
                                                 json.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
  QAT_CHECK(fits, "'{}' must be an integer, found {}", what, json.type_name());
  const auto value = json.get<int64_t>();
  QAT_CHECK(std::in_range<T>(value), "'{}' is out of range: {}", what, value);
  return static_cast<T>(value);
}

double number(const Json& json, const char* what) {
  QAT_CHECK(json.is_number(), "'{}' must be a number, found {}", what, json.type_name());
  const auto value = json.get<double>();
  QAT_CHECK(std::isfinite(value) && std::abs(value) <= FLT_MAX, "'{}' is out of range: {}", what, value);
  return value;
}

std::vector<float> floats(const Json& json, const char* what) {
  std::vector<float> values;
  for (const Json& value : array(json, what)) values.push_back(static_cast<float>(number(value, what)));
  return values;
}

/// The enumerator whose name is `name`.
template <class E, size_t N>
E by_name(const E (&all)[N], const std::string& name, const char* what) {
  for (E e : all) {
    if (name == to_string(e)) return e;
  }
  throw Error(fmt::format("unknown {} '{}'", what, name));
}

Tensor tensor_from(const Json& json) {
  Tensor t;
  t.name = string(field(json, "name"), "name");
  t.type = by_name(kTypes, string(field(json, "type"), "type"), "type");
  for (const Json& d : array(field(json, "shape"), "shape")) t.shape.push_back(integer<int64_t>(d, "shape"));
  if (!holds_codes(t.type)) return t;
  t.scale = static_cast<float>(number(field(json, "scale"), "scale"));
  t.zero_point = integer<int32_t>(field(json, "zero_point"), "zero_point");
  t.lo = integer<int32_t>(field(json, "lo"), "lo");
  t.hi = integer<int32_t>(field(json, "hi"), "hi");
  return t;
}

template <class T>
void read_value(const Json& json, const char* key, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    QAT_CHECK(json.is_boolean(), "'{}' must be true or false, found {}", key, json.type_name());
    value = json.get<bool>();
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = string(json, key);
  } else if constexpr (std::is_same_v<T, double>) {
    value = number(json, key);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    value = integer<int64_t>(json, key);
  } else {
    QAT_CHECK(json.is_array() && json.size() == value.size(), "'{}' must have {} integers", key, value.size());
    for (size_t i = 0; i < value.size(); ++i) value[i] = integer<int64_t>(json[i], key);
  }
}

template <class T>
void get_if_present(const Json& json, const char* key, T& value) {
  const auto found = json.find(key);
  if (found != json.end()) read_value(*found, key, value);
}

int index_of(const std::map<std::string, int>& index, const Json& json, const char* what) {
  const std::string name = string(json, what);
  const auto found = index.find(name);
  QAT_CHECK(found != index.end(), "'{}' names an unknown tensor '{}'", what, name);
  return found->second;
}

Node node_from(const Json& json, const std::map<std::string, int>& index) {
  Node node;
  node.op = by_name(kOps, string(field(json, "op"), "op"), "operator");
  node.name = string(field(json, "name"), "name");
  for (const Json& x : array(field(json, "inputs"), "inputs")) node.inputs.push_back(index_of(index, x, "inputs"));
  node.output = index_of(index, field(json, "output"), "output");
  get_if_present(json, "kernel", node.kernel);
  get_if_present(json, "stride", node.stride);
  get_if_present(json, "pad", node.pad);
  get_if_present(json, "spread", node.spread);
  get_if_present(json, "dilation", node.dilation);
  get_if_present(json, "groups", node.groups);
  get_if_present(json, "begin", node.begin);
  get_if_present(json, "ceil_mode", node.ceil_mode);
  get_if_present(json, "count_include_pad", node.count_include_pad);
  get_if_present(json, "function", node.function);
  get_if_present(json, "alpha", node.alpha);
  return node;
}

/// Takes tensors out of the file by name and knows which were not asked for.
class Reader {
 public:
  explicit Reader(const SafetensorsFile& file) : file_(file) {}

  template <class T>
  std::vector<T> values(const std::string& name) {
    const TensorView& view = take(name);
    QAT_CHECK(view.shape.size() == 1, "{}: expected one dimension, found {}", name, view.shape.size());
    const std::span<const T> values = view.values<T>();
    return {values.begin(), values.end()};
  }

  void weight(Node& node, const Json& json) {
    Weight& w = node.weight;
    const TensorView& view = take(node.name + ".weight");
    w.shape = view.shape;
    if (const auto packed = json.find("packed_weight"); packed != json.end()) {
      unpack(*packed, view, w);
    } else if (view.dtype == "U8") {
      w.type = CodeType::kUint8;
      const auto codes = view.values<uint8_t>();
      w.codes.assign(codes.begin(), codes.end());
    } else {
      const auto codes = view.values<int8_t>();
      w.codes.assign(codes.begin(), codes.end());
    }
    w.scale = values<float>(node.name + ".weight_scale");
    w.zero_point = values<int32_t>(node.name + ".weight_zero_point");
    if (file_.contains(node.name + ".bias")) node.bias = values<int32_t>(node.name + ".bias");
  }

  void require_all_taken() const {
    for (const TensorView& view : file_.tensors()) {
      QAT_CHECK(taken_.contains(view.name), "tensor {} belongs to no node", view.name);
    }
  }

 private:
  static void unpack(const Json& json, const TensorView& view, Weight& w) {
    QAT_CHECK(view.shape.size() == 1, "{}: expected one dimension of packed codes, found {}", view.name,
              view.shape.size());
    w.type = by_name(kTypes, string(field(json, "type"), "type"), "type");
    w.shape.clear();
    int64_t count = 1;
    for (const Json& value : array(field(json, "shape"), "shape")) {
      const auto d = integer<int64_t>(value, "shape");
      QAT_CHECK(d >= 1 && d <= std::numeric_limits<int64_t>::max() / count, "{}: bad size {}", view.name, d);
      w.shape.push_back(d);
      count *= d;
    }
    const CodePacking packing{.bits = integer<int64_t>(field(json, "bits"), "bits"),
                              .lowest = integer<int64_t>(field(json, "lowest"), "lowest"),
                              .step = integer<int64_t>(field(json, "step"), "step")};
    w.codes = unpack_codes(view.values<uint8_t>(), count, packing);
  }

  const TensorView& take(const std::string& name) {
    taken_.insert(name);
    return file_.at(name);
  }

  const SafetensorsFile& file_;
  std::set<std::string> taken_;
};

Json preprocessing_json(const Preprocessing& p) {
  return {{"mean", p.mean}, {"std", p.std}, {"transforms", p.transforms}, {"classes", p.classes}};
}

Preprocessing preprocessing_from(const Json& json) {
  Preprocessing p{.mean = floats(field(json, "mean"), "mean"), .std = floats(field(json, "std"), "std")};
  p.transforms = string(field(json, "transforms"), "transforms");
  for (const Json& name : array(field(json, "classes"), "classes")) p.classes.push_back(string(name, "classes"));
  return p;
}

IntegerModel model_from(const SafetensorsFile& file) {
  const auto metadata = file.metadata().find(kMetadata);
  QAT_CHECK(metadata != file.metadata().end(), "no metadata '{}': not an integer model", kMetadata);
  const Json json = Json::parse(metadata->second);
  const int format = integer<int>(field(json, "format"), "format");
  QAT_CHECK(format >= 1 && format <= kModelFormat, "model format {} is not supported, this version reads 1 to {}",
            format, kModelFormat);
  IntegerModel model;
  model.target = string(field(json, "target"), "target");
  if (const auto overflow = json.find("overflow"); overflow != json.end()) {
    model.overflow = by_name(kOverflows, string(*overflow, "overflow"), "overflow");
  }
  std::map<std::string, int> index;
  for (const Json& t : array(field(json, "tensors"), "tensors")) {
    model.tensors.push_back(tensor_from(t));
    index.emplace(model.tensors.back().name, static_cast<int>(model.tensors.size()) - 1);
  }
  Reader reader(file);
  std::map<std::string, std::vector<float>> multipliers;
  for (const Json& n : array(field(json, "nodes"), "nodes")) {
    Node node = node_from(n, index);
    if (has_weight(node)) {
      reader.weight(node, n);
      multipliers[node.name] = reader.values<float>(node.name + ".multiplier");
    }
    if (node.op == Op::kTable) node.table = reader.values<int16_t>(node.name + ".table");
    model.nodes.push_back(std::move(node));
  }
  reader.require_all_taken();
  for (const Json& x : array(field(json, "inputs"), "inputs")) model.inputs.push_back(index_of(index, x, "inputs"));
  for (const Json& y : array(field(json, "outputs"), "outputs")) model.outputs.push_back(index_of(index, y, "outputs"));
  model.preprocessing = preprocessing_from(field(json, "preprocessing"));
  model.check();
  for (const Node& node : model.nodes) {
    if (!has_weight(node)) continue;
    QAT_CHECK(multipliers[node.name] == model.multipliers(node),
              "{}.multiplier differs from what the scales give: the file is damaged", node.name);
  }
  return model;
}

}  // namespace

std::string save_model(const IntegerModel& model) {
  model.check();
  Json json{{"format", kModelFormat}, {"target", model.target}};
  if (model.overflow != Overflow::kExact) json["overflow"] = to_string(model.overflow);
  json["tensors"] = Json::array();
  for (const Tensor& t : model.tensors) json["tensors"].push_back(tensor_json(t));
  json["nodes"] = Json::array();
  Arrays arrays;
  for (const Node& node : model.nodes) {
    json["nodes"].push_back(node_json(node, model.tensors));
    arrays.add(node, has_weight(node) ? model.multipliers(node) : std::vector<float>());
  }
  for (const auto& [key, indices] : {std::pair{"inputs", &model.inputs}, {"outputs", &model.outputs}}) {
    json[key] = Json::array();
    for (int i : *indices) json[key].push_back(model.tensors[static_cast<size_t>(i)].name);
  }
  json["preprocessing"] = preprocessing_json(model.preprocessing);
  try {
    return write_safetensors(arrays.views(), {{kMetadata, json.dump()}});
  } catch (const Json::exception& e) {
    throw Error(fmt::format("cannot write the model: {}", e.what()));
  }
}

IntegerModel load_model(std::string bytes, const std::string& source) {
  const SafetensorsFile file = SafetensorsFile::parse(std::move(bytes), source);
  try {
    return model_from(file);
  } catch (const FileError&) {
    throw;
  } catch (const Error& e) {
    throw FileError(fmt::format("{}: {}", source, e.what()));
  } catch (const Json::exception& e) {
    throw FileError(fmt::format("{}: metadata '{}': {}", source, kMetadata, e.what()));
  }
}

std::string preprocessing_text(const Preprocessing& preprocessing) {
  try {
    return preprocessing_json(preprocessing).dump();
  } catch (const Json::exception& e) {
    throw Error(fmt::format("cannot write the preprocessing: {}", e.what()));
  }
}

Preprocessing parse_preprocessing(const std::string& text) {
  try {
    return preprocessing_from(Json::parse(text));
  } catch (const Json::exception& e) {
    throw Error(e.what());
  }
}

IntegerModel open_model(const std::string& path) { return load_model(read_file(path), path); }

}  // namespace qat::integer
