#include "core/export/onnx_node.h"

#include <cmath>
#include <cstring>

namespace qat::exporter {

using integer::CodeType;

namespace {

template <class T>
std::vector<T> values_of(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

OnnxInitializers::OnnxInitializers(const onnx::GraphProto& graph) {
  QAT_CHECK(graph.sparse_initializer_size() == 0, "sparse initializers are not supported");
  for (const onnx::TensorProto& t : graph.initializer()) {
    QAT_CHECK(!t.name().empty() && tensors_.emplace(t.name(), &t).second, "initializer {} has no name or stands twice",
              in_quotes(t.name()));
  }
}

const onnx::TensorProto& OnnxInitializers::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  QAT_CHECK(found != tensors_.end(), "{} is no initializer of the file", in_quotes(name));
  return *found->second;
}

std::vector<int64_t> OnnxInitializers::shape(const std::string& name) const {
  const onnx::TensorProto& t = at(name);
  return {t.dims().begin(), t.dims().end()};
}

const std::string& OnnxInitializers::bytes(const std::string& name, int32_t type, size_t size) {
  const onnx::TensorProto& t = at(name);
  QAT_CHECK(t.data_type() == type, "initializer {}: expected element type {}, found {}", in_quotes(name), type,
            t.data_type());
  QAT_CHECK(t.has_raw_data() && t.data_location() != onnx::TensorProto::EXTERNAL,
            "initializer {}: expected its elements as raw data in the file", in_quotes(name));
  const std::string& raw = t.raw_data();
  size_t left = raw.size() / size;
  bool fits = raw.size() % size == 0;
  for (const int64_t d : t.dims()) {
    fits = fits && d >= 1 && static_cast<uint64_t>(d) <= left && left % static_cast<uint64_t>(d) == 0;
    if (fits) left /= static_cast<uint64_t>(d);
  }
  QAT_CHECK(fits && left == 1, "initializer {}: {} bytes do not fit its shape [{}]", in_quotes(name), raw.size(),
            fmt::join(t.dims(), ", "));
  used_.insert(name);
  return raw;
}

std::vector<float> OnnxInitializers::floats(const std::string& name) {
  return values_of<float>(bytes(name, onnx::TensorProto::FLOAT, sizeof(float)));
}

std::vector<int32_t> OnnxInitializers::int32s(const std::string& name) {
  return values_of<int32_t>(bytes(name, onnx::TensorProto::INT32, sizeof(int32_t)));
}

std::vector<int64_t> OnnxInitializers::int64s(const std::string& name) {
  return values_of<int64_t>(bytes(name, onnx::TensorProto::INT64, sizeof(int64_t)));
}

std::vector<int16_t> OnnxInitializers::codes(const std::string& name, CodeType& type) {
  type = at(name).data_type() == onnx::TensorProto::UINT8 ? CodeType::kUint8 : CodeType::kInt8;
  const std::string& raw = bytes(name, element_type(type), 1);
  if (type == CodeType::kInt8) {
    const auto values = values_of<int8_t>(raw);
    return {values.begin(), values.end()};
  }
  const auto values = values_of<uint8_t>(raw);
  return {values.begin(), values.end()};
}

float OnnxInitializers::scale(const std::string& name) {
  QAT_CHECK(shape(name).empty(), "scale {} is not of rank 0", in_quotes(name));
  const float value = floats(name)[0];
  QAT_CHECK(std::isfinite(value) && value > 0, "scale {} is {}: expected a finite positive number", in_quotes(name),
            value);
  return value;
}

int32_t OnnxInitializers::code(const std::string& name, CodeType type) {
  QAT_CHECK(shape(name).empty(), "{} is not of rank 0", in_quotes(name));
  CodeType found;
  const int32_t value = codes(name, found)[0];
  QAT_CHECK(found == type, "{}: expected {}, found {}", in_quotes(name), integer::to_string(type),
            integer::to_string(found));
  return value;
}

integer::Weight OnnxInitializers::weight(const std::string& codes_name, const std::string& scale,
                                         const std::string& zero_point) {
  integer::Weight w;
  w.codes = codes(codes_name, w.type);
  w.shape = shape(codes_name);
  w.scale = floats(scale);
  CodeType type;
  for (const int16_t z : codes(zero_point, type)) w.zero_point.push_back(z);
  QAT_CHECK(type == w.type && shape(scale) == shape(zero_point) && shape(scale).size() <= 1,
            "{}: the scale and zero point of a weight must have one shape, of rank 0 or 1, and the weight's type",
            in_quotes(codes_name));
  if (std::ranges::all_of(w.zero_point, [&](int32_t z) { return z == w.zero_point[0]; })) w.zero_point.resize(1);
  return w;
}

void OnnxInitializers::require_all_used() const {
  for (const auto& [name, tensor] : tensors_) {
    QAT_CHECK(used_.contains(name), "initializer {} belongs to no node", in_quotes(name));
  }
}

}  // namespace qat::exporter
