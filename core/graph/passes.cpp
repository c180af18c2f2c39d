#include "core/graph/passes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace qat::graph {
namespace {

void say(std::vector<std::string>* report, std::string line) {
  if (report != nullptr) report->push_back(std::move(line));
}

/// Lets every reader of `node` read its input instead.
void bypass(Graph& graph, int node) {
  const int source = graph.nodes[node].inputs[0];
  for (Node& reader : graph.nodes) std::replace(reader.inputs.begin(), reader.inputs.end(), node, source);
  if (graph.output == node) graph.output = source;
}

bool takes_batch_norm(const Node& node) {
  return (node.op == Op::kConv2d || node.op == Op::kLinear) && !node.tensors.batch_norm && !node.relu;
}

bool takes_relu(const Node& node) {
  return (node.op == Op::kConv2d || node.op == Op::kLinear || node.op == Op::kAdd) && !node.relu;
}

}  // namespace

const char* to_string(Op op) {
  switch (op) {
    case Op::kInput:
      return "input";
    case Op::kConv2d:
      return "conv2d";
    case Op::kLinear:
      return "linear";
    case Op::kBatchNorm:
      return "batch_norm";
    case Op::kRelu:
      return "relu";
    case Op::kAdd:
      return "add";
    case Op::kMaxPool2d:
      return "max_pool2d";
    case Op::kAvgPool2d:
      return "avg_pool2d";
    case Op::kGlobalAvgPool2d:
      return "global_avg_pool2d";
    case Op::kFlatten:
      return "flatten";
    case Op::kDropout:
      return "dropout";
    case Op::kCall:
      return "call";
  }
  return "?";
}

std::vector<int> Graph::users() const {
  std::vector<int> counts(nodes.size(), 0);
  for (const Node& node : nodes) {
    for (const int input : node.inputs) ++counts[input];
  }
  if (output >= 0) ++counts[output];
  return counts;
}

std::string Graph::dump() const {
  std::string text;
  for (const Node& node : nodes) {
    std::vector<std::string> inputs;
    for (const int input : node.inputs) inputs.push_back(nodes[input].name);
    text += fmt::format("{:<28} {}{}{}({}) -> [{}]\n", node.name,
                        node.op == Op::kCall ? node.call_name : to_string(node.op),
                        node.op != Op::kBatchNorm && node.tensors.batch_norm ? "+batch_norm" : "",
                        node.relu ? "+relu" : "", fmt::join(inputs, ", "), fmt::join(node.sizes, ", "));
  }
  return text;
}

void remove_dead_code(Graph& graph, std::vector<std::string>* report) {
  std::vector<bool> needed(graph.nodes.size(), false);
  needed[graph.output] = needed[graph.input] = true;
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    if (!needed[i]) continue;
    for (const int input : graph.nodes[i].inputs) needed[input] = true;
  }
  std::vector<int> moved(graph.nodes.size(), -1);
  std::vector<Node> kept;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!needed[i]) {
      say(report, fmt::format("removed {}: nothing reads it", graph.nodes[i].name));
      continue;
    }
    moved[i] = static_cast<int>(kept.size());
    kept.push_back(std::move(graph.nodes[i]));
    for (int& input : kept.back().inputs) input = moved[input];
  }
  graph.nodes = std::move(kept);
  graph.input = moved[graph.input];
  graph.output = moved[graph.output];
}

void fuse(Graph& graph, std::vector<std::string>* report) {
  std::vector<int> users = graph.users();
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.op != Op::kBatchNorm && node.op != Op::kRelu) continue;
    Node& producer = graph.nodes[node.inputs[0]];
    if (users[node.inputs[0]] != 1) continue;
    if (node.op == Op::kBatchNorm && takes_batch_norm(producer)) {
      producer.tensors.batch_norm = node.tensors.batch_norm;
    } else if (node.op == Op::kRelu && takes_relu(producer)) {
      producer.relu = true;
    } else {
      continue;
    }
    say(report, fmt::format("fused {} into {}", node.name, producer.name));
    // The node's readers now read the producer; the node itself stays behind without readers.
    users[node.inputs[0]] = users[i];
    users[i] = 0;
    bypass(graph, static_cast<int>(i));
  }
  remove_dead_code(graph, nullptr);
}

void canonicalize(Graph& graph, std::vector<std::string>* report) {
  remove_dead_code(graph, report);
  fuse(graph, report);
}

}  // namespace qat::graph
