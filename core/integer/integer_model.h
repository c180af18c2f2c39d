// IntegerModel: the lowered form of a network. Everything below it (engine, exporters, judges) reads only this.
//
// A list of nodes in execution order over named tensors. Activations are codes with one scale and zero point a tensor,
// feature maps have the logical shape {C, H, W} (the batch is implied) and are stored NHWC; vectors have {F}.
// The arithmetic of every operator is the target's (onnxruntime preset): see core/ops/.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace qat::integer {

/// kPixels: an image's bytes, whose float32 values the preprocessing gives (pixels.h); inputs only.
enum class CodeType { kUint8, kInt8, kFloat32, kPixels };

inline bool holds_codes(CodeType type) { return type == CodeType::kUint8 || type == CodeType::kInt8; }

enum class Op {
  kQuantize,           // float32 -> codes: rne(clip(x / s, lo - z, hi - z)) + z, a true division; pixels: of their values
  kDequantize,         // codes -> float32: fl32(s * float(q - z))
  kConv,               // codes, weight OIHW -> codes (acc * m); of a spread map: a transposed convolution
  kLinear,             // codes {F}, weight [out, in] -> codes, or float32: fl32(float(acc) * fl32(s_x * s_w))
  kAdd,                // a + b on raw codes, operand order kept; broadcast of {C, 1, 1} allowed on either side
  kMul,                // a * b on codes
  kMaxPool,            // on codes; padding never wins
  kAveragePool,        // float sum of dequantized codes, row by row
  kGlobalAveragePool,  // int32 sum, one multiplier
  kConcat,             // along channels; a table per input, copies where scale and zero point are equal
  kTable,              // y = table[q - lowest code of the input's type]: sigmoid, leaky relu, ...
  kRelu,               // max(q, z), scale and zero point passed on
  kFlatten,            // {C, H, W} -> {C * H * W} in NCHW order
  kChannelSlice,       // channels [begin, begin + output's channels)
  kChannelShuffle,     // output channel j * groups + i is input channel i * (C / groups) + j
};

/// Whether an operator hands on its input's codes: with the same scale and zero point, and no arithmetic but max().
inline bool passes_codes(Op op) {
  return op == Op::kMaxPool || op == Op::kRelu || op == Op::kFlatten || op == Op::kChannelSlice ||
         op == Op::kChannelShuffle;
}

/// A tensor of the network. Codes lie in [lo, hi]; for float32 and pixels scale, zero_point, lo and hi have no meaning.
struct Tensor {
  std::string name;
  CodeType type = CodeType::kUint8;
  std::vector<int64_t> shape;  // without the batch: {C, H, W} or {F}
  float scale = 1.0f;
  int32_t zero_point = 0;
  int32_t lo = 0;
  int32_t hi = 255;

  /// Elements of one sample.
  int64_t size() const;

  bool operator==(const Tensor&) const = default;
};

/// Weight codes of a convolution (OIHW, I = in_channels / groups) or linear layer ([out, in]).
struct Weight {
  CodeType type = CodeType::kInt8;
  std::vector<int64_t> shape;
  std::vector<int16_t> codes;       // each within the range of `type`
  std::vector<float> scale;         // one value, or one per output channel
  std::vector<int32_t> zero_point;  // one value, or one per output channel

  bool operator==(const Weight&) const = default;
};

/// One operator. Fields that the operator does not use keep their defaults.
struct Node {
  Op op = Op::kQuantize;
  std::string name;
  std::vector<int> inputs;  // indices into IntegerModel::tensors
  int output = -1;

  std::array<int64_t, 2> kernel{1, 1};
  std::array<int64_t, 2> stride{1, 1};
  std::array<int64_t, 4> pad{0, 0, 0, 0};  // top, left, bottom, right; the padded code is the input's zero point
  /// kConv: the input's pixels come this far apart, with its zero point between them, before the padding, which may be
  /// negative then (rows and columns taken away). {0, 0}: it is read as it is.
  std::array<int64_t, 2> spread{0, 0};
  std::array<int64_t, 2> dilation{1, 1};
  int64_t groups = 1;  // kConv, kChannelShuffle
  int64_t begin = 0;   // kChannelSlice
  bool ceil_mode = false;
  bool count_include_pad = true;

  Weight weight;
  std::vector<int32_t> bias;   // int32 with scale fl32(s_x * s_w[c]); empty: none
  std::string function;        // kTable: "sigmoid", "leaky_relu", ...
  double alpha = 0.0;          // kTable, leaky_relu: slope below zero (a float32 value)
  std::vector<int16_t> table;  // kTable: 256 output codes

  bool is_spread() const { return spread[0] != 0; }

  bool operator==(const Node&) const = default;
};

/// How an image becomes the network's input, and what its outputs mean.
struct Preprocessing {
  std::vector<float> mean;  // float32 per channel (x / 255 - mean) / std
  std::vector<float> std;
  /// The steps from a decoded image to the network's input, normalization included, as a YAML list on one line
  /// (datasets/transforms.h); empty: only the normalization.
  std::string transforms = {};
  std::vector<std::string> classes = {};  // names by label; none: not known

  bool operator==(const Preprocessing&) const = default;
};

/// How convolutions and linear layers sum their products.
enum class Overflow {
  kExact,
  kSaturate16,  // in pairs that saturate to int16: ops/convolve_saturating.h
};

struct IntegerModel {
  std::string target = "onnxruntime";
  Overflow overflow = Overflow::kExact;
  std::vector<Tensor> tensors;
  std::vector<Node> nodes;
  std::vector<int> inputs;
  std::vector<int> outputs;
  Preprocessing preprocessing;

  bool operator==(const IntegerModel&) const = default;

  /// Throws qat::Error, with the node's name, unless the model is well formed: indices in range and defined before use,
  /// every tensor written once, unique names, shapes and parameter sizes consistent, scales finite and positive,
  /// codes and zero points within their types; uint8 codes and int8 weights around zero where sums saturate.
  void check() const;

  /// Throws qat::Error unless no int32 accumulator can overflow: |B| + sum |w| * max|q - z_x| < 2^31 for every output
  /// channel of every convolution and linear layer (the runtime would wrap around silently). Where sums saturate,
  /// max(q, z_x) + z_x takes the place of max|q - z_x|.
  void check_accumulators() const;

  /// Lowest and highest code of a type.
  static int32_t lowest(CodeType type) { return type == CodeType::kInt8 ? -128 : 0; }
  static int32_t highest(CodeType type) { return type == CodeType::kInt8 ? 127 : 255; }

  /// Requantization multipliers of a kConv or kLinear node: m[c] = fl32(fl32(s_x * s_w[c]) / s_y), or, where the output
  /// is float32, fl32(s_x * s_w[c]).
  std::vector<float> multipliers(const Node& node) const;

  /// One line a node, for people and for diffs: name, operator, shapes, scales, zero points, bytes.
  std::string dump() const;
};

const char* to_string(Op op);
const char* to_string(CodeType type);
const char* to_string(Overflow overflow);

}  // namespace qat::integer
