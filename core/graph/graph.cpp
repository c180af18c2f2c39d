#include "core/graph/graph.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace qat::graph {

const char* to_string(Op op) {
  switch (op) {
    case Op::kInput:
      return "input";
    case Op::kConv:
      return "conv";
    case Op::kLinear:
      return "linear";
    case Op::kBatchNorm:
      return "batch_norm";
    case Op::kActivation:
      return "activation";
    case Op::kAdd:
      return "add";
    case Op::kMul:
      return "mul";
    case Op::kRequantize:
      return "requantize";
    case Op::kConcat:
      return "concat";
    case Op::kMaxPool2d:
      return "max_pool2d";
    case Op::kAvgPool2d:
      return "avg_pool2d";
    case Op::kGlobalAvgPool2d:
      return "global_avg_pool2d";
    case Op::kFlatten:
      return "flatten";
    case Op::kChannelShuffle:
      return "channel_shuffle";
    case Op::kChannelSlice:
      return "channel_slice";
    case Op::kMove:
      return "move";
    case Op::kDropout:
      return "dropout";
    case Op::kStochasticDepth:
      return "stochastic_depth";
    case Op::kCall:
      return "call";
  }
  return "?";
}

namespace {

/// "conv2d+batch_norm+relu", "aten::sort", "relu".
std::string describe(const Node& node) {
  std::string text = to_string(node.op);
  if (node.op == Op::kConv) {
    text = fmt::format("conv{}{}d", node.geometry.transposed ? "_transpose" : "", node.tensors.weight.dim() - 2);
  } else if (node.op == Op::kMove || node.op == Op::kCall) {
    text = node.call_name;
  } else if (node.op == Op::kActivation) {
    return node.activation.name();
  } else if (node.op == Op::kBatchNorm) {
    return text;
  }
  return fmt::format("{}{}{}{}", node.tensors.input_norm ? "batch_norm+" : "", text,
                     node.tensors.batch_norm ? "+batch_norm" : "",
                     node.activation ? fmt::format("+{}", node.activation.name()) : "");
}

}  // namespace

std::vector<int> Graph::users() const {
  std::vector<int> counts(nodes.size(), 0);
  for (const Node& node : nodes) {
    for (const int input : node.inputs) ++counts[input];
  }
  if (output >= 0) ++counts[output];
  for (const Head& head : heads) ++counts[head.node];
  return counts;
}

std::string Graph::dump() const {
  std::string text;
  for (const Node& node : nodes) {
    std::vector<std::string> inputs;
    for (const int input : node.inputs) inputs.push_back(nodes[input].name);
    text += fmt::format("{:<28} {}({}) -> [{}]\n", node.name, describe(node), fmt::join(inputs, ", "),
                        fmt::join(node.sizes, ", "));
  }
  for (const Head& head : heads) text += fmt::format("{:<28} output({})\n", head.name, nodes[head.node].name);
  return text;
}

}  // namespace qat::graph
