// The frame of both ONNX writers: graph inputs and outputs, initializers, ranges, metadata. Internal to core/export.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/export/onnx_proto.h"

namespace qat::exporter {

class OnnxWriter {
 public:
  virtual ~OnnxWriter() = default;

  /// The whole file.
  std::string run();

 protected:
  OnnxWriter(const integer::IntegerModel& model, const char* format) : model_(model), format_(format) {}

  /// Adds the nodes of any operator but quantize, dequantize, relu, channel slice and shuffle, and functions without an
  /// ONNX operator.
  virtual void write(const integer::Node& node) = 0;
  /// The graph's batch size; 0 leaves it open.
  virtual int64_t batch() const = 0;

  const integer::Tensor& tensor(int index) const { return model_.tensors[static_cast<size_t>(index)]; }
  const integer::Tensor& input(const integer::Node& node, size_t k = 0) const { return tensor(node.inputs[k]); }
  const integer::Tensor& output(const integer::Node& node) const { return tensor(node.output); }

  onnx::NodeProto& add(const char* op, const std::string& name, const std::vector<std::string>& inputs,
                       const std::string& output, const char* domain = "");
  static void attribute(onnx::NodeProto& node, const char* name, int64_t value);
  static void attribute(onnx::NodeProto& node, const char* name, float value);
  static void attribute(onnx::NodeProto& node, const char* name, const std::vector<int64_t>& values);
  /// The codes that a convolution reads: its input's, or those of its spread map, made by moves of codes.
  std::string map_of(const integer::Node& node);
  /// kernel_shape, strides and pads; dilations, group, ceil_mode and count_include_pad where the operator has them.
  static void window(onnx::NodeProto& proto, const integer::Node& node);

  /// Initializers; each returns its name.
  std::string constant(const std::string& name, const std::vector<int64_t>& dims, const std::vector<float>& values);
  std::string constant(const std::string& name, const std::vector<int64_t>& dims, const std::vector<int32_t>& values);
  std::string constant(const std::string& name, const std::vector<int64_t>& dims, const std::vector<int64_t>& values);
  std::string constant(const std::string& name, float value) { return constant(name, {}, std::vector{value}); }
  /// Codes of a type; they must lie in it.
  template <class T>
  std::string codes(const std::string& name, const std::vector<int64_t>& dims, const std::vector<T>& values,
                    integer::CodeType type) {
    return codes_bytes(name, dims, std::string(values.begin(), values.end()), type);
  }
  std::string code(const std::string& name, int32_t value, integer::CodeType type) {
    return codes(name, {}, std::vector{value}, type);
  }
  /// One scale and zero point, or one for each output channel: names of both.
  std::vector<std::string> weight_parameters(const std::string& name, const integer::Weight& weight);

  /// The value that an operator writes: the output's own, or T_unclipped where limit() adds a Clip.
  std::string unlimited(const integer::Node& node) const;
  void limit(const integer::Node& node);

  void quantize(const std::string& name, const std::string& values, const integer::Node& node);

 private:
  std::string codes_bytes(const std::string& name, const std::vector<int64_t>& dims, std::string bytes,
                          integer::CodeType type);
  std::string add_constant(const std::string& name, const std::vector<int64_t>& dims, int32_t type, std::string bytes);
  bool is_limited(const integer::Node& node) const;
  std::string values_of_input(const integer::Node& node);
  void gather(const integer::Node& node);
  void slice(const integer::Node& node);
  void shuffle(const integer::Node& node);
  void describe(onnx::ValueInfoProto& value, const integer::Tensor& tensor) const;
  void add_metadata();
  /// Throws ExportError if a value of that name exists.
  const std::string& claim(const std::string& name);

  const integer::IntegerModel& model_;
  const char* format_;
  onnx::ModelProto proto_;
  std::set<std::string> values_, nodes_;
};

}  // namespace qat::exporter
