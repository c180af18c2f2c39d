// The reader of both ONNX forms: it accepts what the writers write and refuses all else. Internal to core/export.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/export/onnx_node.h"

namespace qat::exporter {

/// A value of the graph is a tensor of the model (Floats, Codes) or a step between two tensors, which has exactly one
/// reader. All errors are qat::Error without the file's name.
class OnnxReader {
 public:
  explicit OnnxReader(const onnx::ModelProto& proto);

  integer::IntegerModel run();

 private:
  struct Floats {
    int tensor;
  };
  struct Pixels {
    int tensor;
  };
  struct PixelValues {  // their floats on the way through the preprocessing
    int tensor;
    int steps;  // made so far, of 3: / 255, - mean, / std
  };
  struct Codes {
    int tensor;
    bool unclipped;  // a Clip to the tensor's range must follow
  };
  struct Dequantized {
    int tensor;
  };
  struct Bias {
    std::vector<int32_t> codes;
    std::vector<float> scale;
  };
  struct Index {  // codes as int32
    int tensor;
  };
  struct Shuffle {  // codes inside a channel shuffle
    int tensor;
    int64_t groups;
    bool exchanged;
  };
  struct Spread {  // codes on their way to the map of a transposed convolution
    int tensor;
    int moves;  // made so far, of 4
    std::array<int64_t, 2> apart;
    std::array<int64_t, 4> pad;
  };
  struct SpreadValues {  // their end, dequantized
    Spread map;
  };
  struct Unquantized {  // an operator's float result, for a QuantizeLinear
    integer::Node node;
    std::vector<float> table;  // of a Gather
  };
  using Value = std::variant<Floats, Pixels, PixelValues, Codes, Dequantized, integer::Weight, Bias, Index, Shuffle,
                             Spread, SpreadValues, Unquantized>;

  template <class T>
  static constexpr const char* kind() {
    if constexpr (std::is_same_v<T, Floats>) return "a float32 input of the graph";
    if constexpr (std::is_same_v<T, Pixels>) return "pixels";
    if constexpr (std::is_same_v<T, PixelValues>) return "values of pixels";
    if constexpr (std::is_same_v<T, Codes>) return "codes";
    if constexpr (std::is_same_v<T, Dequantized>) return "dequantized codes";
    if constexpr (std::is_same_v<T, integer::Weight>) return "a dequantized weight";
    if constexpr (std::is_same_v<T, Bias>) return "a dequantized bias";
    if constexpr (std::is_same_v<T, Index>) return "codes cast to int32";
    if constexpr (std::is_same_v<T, Shuffle>) return "codes inside a channel shuffle";
    if constexpr (std::is_same_v<T, Spread>) return "codes that are spread";
    if constexpr (std::is_same_v<T, SpreadValues>) return "dequantized codes of a spread map";
    return "the float32 result of an operator";
  }

  // The file's frame.
  void check_frame(const onnx::ModelProto& proto) const;
  void read_metadata(const onnx::ModelProto& proto);
  void read_node(const onnx::NodeProto& proto);
  void finish();

  // Values.
  integer::Tensor& tensor(int index) { return model_.tensors[static_cast<size_t>(index)]; }
  void define(const std::string& name, Value value);
  template <class T>
  T& get(const std::string& name) {
    const auto found = values_.find(name);
    QAT_CHECK(found != values_.end(), "input {} is made by no node before this one", in_quotes(name));
    T* value = std::get_if<T>(&found->second);
    QAT_CHECK(value != nullptr, "input {} is not {}", in_quotes(name), kind<T>());
    return *value;
  }
  /// A value with one reader.
  template <class T>
  T take(const std::string& name) {
    T value = std::move(get<T>(name));
    values_.erase(name);
    return value;
  }
  int codes(const std::string& name);
  template <class T>
  bool holds(const std::string& name) const {
    const auto found = values_.find(name);
    return found != values_.end() && std::holds_alternative<T>(found->second);
  }
  bool is_codes(const std::string& name) const { return holds<Codes>(name); }
  /// Without the batch; the element type must be the one given.
  std::vector<int64_t> shape_of(const std::string& name, integer::CodeType type) const;
  int add_tensor(const std::string& value, integer::Tensor t);
  int make_floats(const std::string& name);
  void read_input(const onnx::ValueInfoProto& value);
  /// The tensor that `node` writes as codes; its name and shape follow from the value's name.
  void emit(integer::Node node, const std::string& value, integer::Tensor t);
  void emit_floats(integer::Node node, const std::string& value);
  /// Scale and zero point at two inputs of a node, of the type that the zero point has.
  integer::Tensor parameters(const OnnxNode& node, int at);
  /// The scale and zero point that a reader of codes names must be those of the tensor.
  void expect_parameters(const OnnxNode& node, int at, int index);

  // Operators.
  void quantize(OnnxNode& node);
  void dequantize(OnnxNode& node);
  void clip(OnnxNode& node);
  void cast(OnnxNode& node);
  /// A step of the preprocessing of pixels, by the constant that the metadata names.
  void preprocess(OnnxNode& node);
  void gather(OnnxNode& node);
  void slice(OnnxNode& node);
  void reshape(OnnxNode& node);
  void transpose(OnnxNode& node);
  void pad(OnnxNode& node);
  /// A Reshape of codes that are spread.
  void spread(OnnxNode& node, const std::vector<int64_t>& to);
  /// A value that has been spread whole.
  Spread take_map(const std::string& name);
  static void set_map(integer::Node& n, const Spread& map);
  void conv(OnnxNode& node);
  void gemm(OnnxNode& node);
  void qlinear_conv(OnnxNode& node);
  void qgemm(OnnxNode& node);
  /// Add, Mul, AveragePool, ... on dequantized codes.
  void float_operator(integer::Op op, OnnxNode& node, int least, int most);
  /// The com.microsoft operators on codes: (codes, scale, zero point) for each input, then scale and zero point.
  void code_operator(integer::Op op, OnnxNode& node, int operands);
  void qlinear_concat(OnnxNode& node);
  /// MaxPool and Flatten, on codes or on dequantized codes.
  void pass(integer::Op op, OnnxNode& node);
  static void read_attributes(integer::Node& n, OnnxNode& node);
  static void read_window(integer::Node& n, OnnxNode& node);
  void read_weight(integer::Node& n, OnnxNode& node);
  int operand(const OnnxNode& node, int at);

  const onnx::GraphProto& graph_;
  OnnxInitializers initializers_;
  std::map<std::string, const onnx::ValueInfoProto*> types_;
  std::set<std::string> outputs_;
  std::map<std::string, Value> values_;
  std::map<std::string, int> tensors_;  // by the name of their value
  integer::IntegerModel model_;
};

}  // namespace qat::exporter
