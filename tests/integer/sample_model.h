// Small models for tests of core/integer and core/engine.
#pragma once

#include <string>
#include <vector>

#include "core/integer/integer_model.h"

namespace qat::integer {

inline Tensor codes(const std::string& name, std::vector<int64_t> shape, float scale, int32_t zero_point,
                    CodeType type = CodeType::kUint8) {
  return {.name = name,
          .type = type,
          .shape = std::move(shape),
          .scale = scale,
          .zero_point = zero_point,
          .lo = IntegerModel::lowest(type),
          .hi = IntegerModel::highest(type)};
}

inline Tensor floats(const std::string& name, std::vector<int64_t> shape) {
  return {.name = name, .type = CodeType::kFloat32, .shape = std::move(shape)};
}

inline Node node(Op op, const std::string& name, std::vector<int> inputs, int output) {
  Node n;
  n.op = op;
  n.name = name;
  n.inputs = std::move(inputs);
  n.output = output;
  return n;
}

/// image float {1, 2, 2} -> quantize -> conv 1x1 to 2 channels -> relu'd by its range -> flatten -> linear -> logits.
///   scales: image codes 0.5 (zero 10), map 0.25 (zero 0), weights 0.5 and 0.25, linear weight 1.
inline IntegerModel sample_model() {
  IntegerModel m;
  m.tensors = {floats("image", {1, 2, 2}), codes("image_codes", {1, 2, 2}, 0.5f, 10), codes("map", {2, 2, 2}, 0.25f, 0),
               codes("flat", {8}, 0.25f, 0), floats("logits", {2})};
  m.nodes = {node(Op::kQuantize, "input", {0}, 1), node(Op::kConv, "conv", {1}, 2),
             node(Op::kFlatten, "flatten", {2}, 3), node(Op::kLinear, "fc", {3}, 4)};
  m.nodes[1].weight = {
      .type = CodeType::kInt8, .shape = {2, 1, 1, 1}, .codes = {2, -4}, .scale = {0.5f, 0.25f}, .zero_point = {0}};
  m.nodes[1].bias = {1, 40};
  m.nodes[3].weight = {.type = CodeType::kInt8,
                       .shape = {2, 8},
                       .codes = {1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1},
                       .scale = {1.0f},
                       .zero_point = {0}};
  m.inputs = {0};
  m.outputs = {4};
  m.preprocessing = {.mean = {0.286f}, .std = {0.353f}};
  return m;
}

/// One node of every kind, int8 activations, uint8 weights with zero points per channel.
inline IntegerModel every_op_model() {
  const auto i8 = [](const std::string& name, std::vector<int64_t> shape, float scale, int32_t zero) {
    return codes(name, std::move(shape), scale, zero, CodeType::kInt8);
  };
  IntegerModel m;
  m.tensors = {floats("x", {2, 4, 4}),
               i8("q", {2, 4, 4}, 0.1f, -3),
               i8("conv", {4, 2, 2}, 0.07f, 5),
               i8("relu", {4, 2, 2}, 0.07f, 5),
               i8("gap", {4, 1, 1}, 0.03f, 0),
               i8("gate", {4, 1, 1}, 1.0f / 256, -128),
               i8("scaled", {4, 2, 2}, 0.02f, 1),
               i8("sum", {4, 2, 2}, 0.09f, -7),
               i8("cat", {8, 2, 2}, 0.09f, -7),
               i8("max", {8, 2, 2}, 0.09f, -7),
               i8("avg", {8, 1, 1}, 0.05f, 0),
               i8("flat", {8}, 0.05f, 0),
               i8("fc", {3}, 0.4f, 9),
               floats("y", {3})};
  m.nodes = {node(Op::kQuantize, "n.q", {0}, 1),     node(Op::kConv, "n.conv", {1}, 2),
             node(Op::kRelu, "n.relu", {2}, 3),      node(Op::kGlobalAveragePool, "n.gap", {3}, 4),
             node(Op::kTable, "n.gate", {4}, 5),     node(Op::kMul, "n.scale", {3, 5}, 6),
             node(Op::kAdd, "n.add", {6, 2}, 7),     node(Op::kConcat, "n.cat", {7, 3}, 8),
             node(Op::kMaxPool, "n.max", {8}, 9),    node(Op::kAveragePool, "n.avg", {9}, 10),
             node(Op::kFlatten, "n.flat", {10}, 11), node(Op::kLinear, "n.fc", {11}, 12),
             node(Op::kDequantize, "n.y", {12}, 13)};
  Node& conv = m.nodes[1];
  conv.kernel = {3, 3};
  conv.stride = {2, 2};
  conv.pad = {1, 1, 0, 0};
  conv.groups = 2;
  conv.weight = {.type = CodeType::kUint8,
                 .shape = {4, 1, 3, 3},
                 .codes = {},
                 .scale = {0.01f, 0.02f, 0.03f, 0.04f},
                 .zero_point = {1, 120, 128, 255}};
  for (int i = 0; i < 36; ++i) conv.weight.codes.push_back(static_cast<int16_t>(i * 37 % 256));
  m.nodes[4].function = "leaky_relu";
  m.nodes[4].alpha = 0.1f;
  for (int i = 0; i < 256; ++i) m.nodes[4].table.push_back(static_cast<int16_t>(i / 2 - 64));
  m.nodes[8].kernel = {3, 3};
  m.nodes[8].pad = {1, 1, 1, 1};
  m.nodes[9].kernel = {2, 2};
  m.nodes[9].stride = {2, 2};
  m.nodes[9].ceil_mode = true;
  m.nodes[9].count_include_pad = false;
  Node& fc = m.nodes[11];
  fc.weight = {.type = CodeType::kInt8, .shape = {3, 8}, .codes = {}, .scale = {0.05f}, .zero_point = {0}};
  for (int i = 0; i < 24; ++i) fc.weight.codes.push_back(static_cast<int16_t>(i * 53 % 255 - 127));
  fc.bias = {-5, 100, 2000000000};
  m.inputs = {0};
  m.outputs = {13, 7};
  return m;
}

}  // namespace qat::integer
