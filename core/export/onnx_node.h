// A node of an ONNX file and the file's initializers, read with suspicion. Internal to core/export. All errors are
// qat::Error without the file's name.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/export/onnx_proto.h"

namespace qat::exporter {

/// One node: its operands by position, its attributes by name. What was not asked for is refused by finish().
class OnnxNode {
 public:
  explicit OnnxNode(const onnx::NodeProto& proto) : proto_(proto) {
    for (const onnx::AttributeProto& a : proto.attribute()) {
      QAT_CHECK(attributes_.emplace(a.name(), &a).second, "attribute {} stands twice", in_quotes(a.name()));
    }
  }

  const std::string& name() const { return proto_.name(); }
  const std::string& documentation() const { return proto_.doc_string(); }
  /// "com.microsoft.QLinearAdd", "Conv".
  std::string type() const {
    return proto_.domain().empty() ? proto_.op_type() : proto_.domain() + "." + proto_.op_type();
  }
  const std::string& output() const { return proto_.output(0); }
  int inputs() const { return proto_.input_size(); }
  /// Empty where an optional one is left out.
  std::string input(int i) const { return i < proto_.input_size() ? proto_.input(i) : std::string(); }

  void require_inputs(int least, int most) const {
    QAT_CHECK(inputs() >= least && inputs() <= most, "expected {} to {} inputs, found {}", least, most, inputs());
  }

  int64_t integer(const char* name) { return take(name, onnx::AttributeProto::INT).i(); }
  float number(const char* name) { return take(name, onnx::AttributeProto::FLOAT).f(); }
  template <size_t N>
  std::array<int64_t, N> integers(const char* name) {
    const onnx::AttributeProto& a = take(name, onnx::AttributeProto::INTS);
    QAT_CHECK(a.ints_size() == static_cast<int>(N), "{} must have {} numbers, found {}", name, N, a.ints_size());
    std::array<int64_t, N> values;
    std::copy(a.ints().begin(), a.ints().end(), values.begin());
    return values;
  }
  bool flag(const char* name) {
    const int64_t value = integer(name);
    QAT_CHECK(value == 0 || value == 1, "{} must be 0 or 1, found {}", name, value);
    return value == 1;
  }
  void expect(const char* name, int64_t value) {
    const int64_t found = integer(name);
    QAT_CHECK(found == value, "expected {} {}, found {}", name, value, found);
  }
  void finish() const { QAT_CHECK(attributes_.empty(), "unknown attribute {}", in_quotes(attributes_.begin()->first)); }

 private:
  const onnx::AttributeProto& take(const char* name, onnx::AttributeProto::AttributeType type) {
    const auto found = attributes_.find(name);
    QAT_CHECK(found != attributes_.end(), "attribute {} is missing", name);
    const onnx::AttributeProto& a = *found->second;
    QAT_CHECK(a.type() == type, "attribute {} has the wrong type", name);
    attributes_.erase(found);
    return a;
  }

  const onnx::NodeProto& proto_;
  std::map<std::string, const onnx::AttributeProto*> attributes_;
};

/// The constants of a graph; which of them were asked for is remembered.
class OnnxInitializers {
 public:
  explicit OnnxInitializers(const onnx::GraphProto& graph);

  bool contains(const std::string& name) const { return tensors_.contains(name); }
  bool is_int32(const std::string& name) const { return at(name).data_type() == onnx::TensorProto::INT32; }
  std::vector<int64_t> shape(const std::string& name) const;

  /// The elements of an initializer of that type.
  std::vector<float> floats(const std::string& name);
  std::vector<int32_t> int32s(const std::string& name);
  std::vector<int64_t> int64s(const std::string& name);
  /// Codes and their type.
  std::vector<int16_t> codes(const std::string& name, integer::CodeType& type);

  /// Rank 0.
  float scale(const std::string& name);
  int32_t code(const std::string& name, integer::CodeType type);

  /// Codes with their scales and zero points, rank 0 or along the first dimension. Zero points that are all alike
  /// become one.
  integer::Weight weight(const std::string& codes, const std::string& scale, const std::string& zero_point);

  void require_all_used() const;

 private:
  const onnx::TensorProto& at(const std::string& name) const;
  /// The bytes, whose number was checked.
  const std::string& bytes(const std::string& name, int32_t type, size_t size);

  std::map<std::string, const onnx::TensorProto*> tensors_;
  std::set<std::string> used_;
};

}  // namespace qat::exporter
