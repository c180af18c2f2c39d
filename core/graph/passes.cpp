#include "core/graph/passes.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"

namespace qat::graph {
namespace {

using nn::Activation;

void say(Report report, std::string line) {
  if (report != nullptr) report->push_back(std::move(line));
}

/// Lets every reader of `from` read `to` instead.
void redirect(Graph& graph, int from, int to) {
  for (Node& reader : graph.nodes) std::replace(reader.inputs.begin(), reader.inputs.end(), from, to);
  if (graph.output == from) graph.output = to;
  for (Head& head : graph.heads) {
    if (head.node == from) head.node = to;
  }
}

/// Lets every reader of `node` read its input instead; the node itself stays behind, reading nothing and unread.
void bypass(Graph& graph, int node) {
  redirect(graph, node, graph.nodes[node].inputs[0]);
  graph.nodes[node].inputs.clear();
}

bool is_weighted(const Node& node) { return node.op == Op::kConv || node.op == Op::kLinear; }

/// With affine parameters and running statistics.
bool is_whole_batch_norm(const Node& node) {
  return node.op == Op::kBatchNorm && node.tensors.batch_norm->gamma.defined() &&
         node.tensors.batch_norm->running_mean.defined();
}

/// Features of a linear layer are what batch norm normalizes only without further dimensions.
bool takes_batch_norm(const Node& node) {
  return is_weighted(node) && !node.tensors.batch_norm && !node.activation &&
         (node.op == Op::kConv || node.sizes.size() == 1);
}

bool takes_activation(const Node& node, const Activation& activation, const FuseOptions& options) {
  if (node.activation) return false;
  if (node.op == Op::kAdd) return activation.folds_into_range();
  return is_weighted(node) && (options.all_activations || activation.folds_into_range());
}

bool takes_input_norm(const Node& node) {
  const auto& padding = node.geometry.padding;
  return is_weighted(node) && !node.tensors.input_norm && (node.op == Op::kConv || node.sizes.size() == 1) &&
         !node.geometry.transposed && std::all_of(padding.begin(), padding.end(), [](int64_t p) { return p == 0; });
}

class Fusion {
 public:
  Fusion(Graph& graph, const FuseOptions& options, Report report) : graph_(graph), options_(options), report_(report) {}

  void run() {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Op op = graph_.nodes[i].op;
      if (op != Op::kActivation && !(options_.batch_norm && is_whole_batch_norm(graph_.nodes[i]))) continue;
      const int node = static_cast<int>(i);
      if (!into_producer(node) && !before_concat(node) && op == Op::kBatchNorm) into_reader(node);
    }
    remove_dead_code(graph_);
  }

 private:
  bool takes(const Node& producer, const Node& node) const {
    return node.op == Op::kBatchNorm ? takes_batch_norm(producer)
                                     : takes_activation(producer, node.activation, options_);
  }

  static void give(Node& producer, const Node& node) {
    if (node.op == Op::kBatchNorm) {
      producer.tensors.batch_norm = node.tensors.batch_norm;
    } else {
      producer.activation = node.activation;
    }
  }

  bool into_producer(int i) {
    const Node& node = graph_.nodes[i];
    Node& producer = graph_.nodes[node.inputs[0]];
    if (graph_.users()[node.inputs[0]] != 1 || !takes(producer, node)) return false;
    give(producer, node);
    say(report_, fmt::format("fused {} into {}", node.name, producer.name));
    bypass(graph_, i);
    return true;
  }

  bool before_concat(int i) {
    const Node& node = graph_.nodes[i];
    const Node& concat = graph_.nodes[node.inputs[0]];
    const std::vector<int> users = graph_.users();
    if (concat.op != Op::kConcat || users[node.inputs[0]] != 1) return false;
    for (const int branch : concat.inputs) {
      if (users[branch] != 1 || !takes(graph_.nodes[branch], node)) return false;
    }
    int64_t channels = 0;
    for (const int branch : concat.inputs) {
      Node& producer = graph_.nodes[branch];
      give(producer, node);
      if (node.op == Op::kBatchNorm) producer.tensors.norm_begin = channels;
      channels += producer.sizes[0];
    }
    say(report_, fmt::format("fused {} into the {} branches of {}", node.name, concat.inputs.size(), concat.name));
    bypass(graph_, i);
    return true;
  }

  void into_reader(int i) {
    const Node& node = graph_.nodes[i];
    if (graph_.users()[i] != 1) return;
    const auto reader = std::find_if(graph_.nodes.begin(), graph_.nodes.end(), [&](const Node& other) {
      return std::find(other.inputs.begin(), other.inputs.end(), i) != other.inputs.end();
    });
    if (reader == graph_.nodes.end() || !takes_input_norm(*reader)) return;
    reader->tensors.input_norm = node.tensors.batch_norm;
    say(report_, fmt::format("fused {} into {} behind it", node.name, reader->name));
    bypass(graph_, i);
  }

  Graph& graph_;
  const FuseOptions& options_;
  Report report_;
};

/// x * gate(x) as one activation.
void lift_gate(Graph& graph, int i, Report report) {
  Node& node = graph.nodes[i];
  for (int side = 0; side < 2; ++side) {
    const Node& gate = graph.nodes[node.inputs[side]];
    const int x = node.inputs[1 - side];
    if (gate.op != Op::kActivation || gate.inputs[0] != x) continue;
    const bool silu = gate.activation.kind == Activation::Kind::kSigmoid;
    if (!silu && gate.activation.kind != Activation::Kind::kHardsigmoid) continue;
    say(report, fmt::format("lifted {} and {} to {}", gate.name, node.name, silu ? "silu" : "hardswish"));
    node.op = Op::kActivation;
    node.activation = {.kind = silu ? Activation::Kind::kSilu : Activation::Kind::kHardswish};
    node.inputs = {x};
    return;
  }
}

bool moves(const Node& node, std::initializer_list<const char*> names) {
  return node.op == Op::kMove && std::find(names.begin(), names.end(), node.call_name) != names.end();
}

/// [N, C, H, W] as [N, groups, C / groups, H, W], the two exchanged, and back.
void lift_channel_shuffle(Graph& graph, int i, const std::vector<int>& users, Report report) {
  Node& last = graph.nodes[i];
  const std::initializer_list<const char*> views = {"aten::view", "aten::reshape", "aten::flatten.using_ints"};
  if (!moves(last, views) || last.sizes.size() != 3) return;
  const Node& exchange = graph.nodes[last.inputs[0]];
  if (!moves(exchange, {"aten::transpose.int"}) || users[last.inputs[0]] != 1) return;
  const std::set<int64_t> dims(exchange.ints.begin(), exchange.ints.end());
  const Node& split = graph.nodes[exchange.inputs[0]];
  if (dims != std::set<int64_t>{1, 2} || !moves(split, views) || users[exchange.inputs[0]] != 1) return;
  const std::vector<int64_t>& from = graph.nodes[split.inputs[0]].sizes;
  if (split.sizes.size() != 4 || from != last.sizes || split.sizes[0] * split.sizes[1] != from[0] ||
      split.sizes[2] != from[1]) {
    return;
  }
  say(report, fmt::format("lifted {}, {} and {} to channel_shuffle", split.name, exchange.name, last.name));
  last.op = Op::kChannelShuffle;
  last.groups = split.sizes[0];
  last.inputs = split.inputs;
}

struct Rewrite {
  const char* name;
  Activation from, to;
};

std::vector<Rewrite> all_rewrites() {
  return {{"relu6_to_relu", Activation::clip(0.0, 6.0), Activation::relu()},
          {"silu_to_hardswish", {.kind = Activation::Kind::kSilu}, {.kind = Activation::Kind::kHardswish}}};
}

/// [i]: whether an add makes or reads the tensor that node i makes, or through nodes that pass it on.
std::vector<bool> residual_tensors(const Graph& graph) {
  static const std::set<Op> passing{Op::kMaxPool2d, Op::kFlatten, Op::kChannelShuffle, Op::kChannelSlice,
                                    Op::kMove,      Op::kDropout, Op::kStochasticDepth};
  std::vector<bool> result(graph.nodes.size(), false);
  // Backwards: what an add reads may be passed on by nodes before it.
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    if (node.op == Op::kAdd) result[i] = true;
    if (node.op != Op::kAdd && !(result[i] && passing.contains(node.op))) continue;
    for (const int input : node.inputs) result[static_cast<size_t>(input)] = true;
  }
  // Forwards: what is made of the stream without arithmetic has its quantizer.
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (passing.contains(node.op) && result[static_cast<size_t>(node.inputs[0])]) result[i] = true;
  }
  return result;
}

}  // namespace

void remove_dead_code(Graph& graph, Report report) {
  std::vector<bool> needed(graph.nodes.size(), false);
  needed[graph.output] = needed[graph.input] = true;
  for (const Head& head : graph.heads) needed[head.node] = true;
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
  for (Head& head : graph.heads) head.node = moved[head.node];
}

void remove_dropout(Graph& graph, bool all, Report report) {
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if ((node.op != Op::kDropout && node.op != Op::kStochasticDepth) || (!all && node.dropout != 0.0)) continue;
    say(report,
        fmt::format("removed {}: {}", node.name, all ? "the network no longer trains" : "its probability is 0"));
    bypass(graph, static_cast<int>(i));
  }
  remove_dead_code(graph);
}

void lift(Graph& graph, Report report) {
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (graph.nodes[i].op == Op::kMul) lift_gate(graph, static_cast<int>(i), report);
    lift_channel_shuffle(graph, static_cast<int>(i), graph.users(), report);
  }
  remove_dead_code(graph);
}

void fuse(Graph& graph, const FuseOptions& options, Report report) { Fusion(graph, options, report).run(); }

void canonicalize(Graph& graph, const FuseOptions& options, Report report) {
  remove_dead_code(graph, report);
  remove_dropout(graph, false, report);
  lift(graph, report);
  fuse(graph, options, report);
}

void split_residual(Graph& graph, Report report) {
  const std::vector<bool> residual = residual_tensors(graph);
  Graph split{.nodes = {}, .input = graph.input, .output = -1, .heads = graph.heads};
  std::vector<int> now(graph.nodes.size()), requantized(graph.nodes.size(), -1);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    Node node = graph.nodes[i];
    const bool weighted = node.op == Op::kConv || node.op == Op::kLinear;
    for (int& input : node.inputs) {
      const auto source = static_cast<size_t>(input);
      if (!weighted || !residual[source] || graph.nodes[source].op == Op::kInput) {
        input = now[source];
        continue;
      }
      if (requantized[source] < 0) {
        const Node& from = graph.nodes[source];
        Node copy;
        copy.op = Op::kRequantize;
        copy.name = from.name + ".requantized";
        copy.inputs = {now[source]};
        copy.sizes = from.sizes;
        say(report, fmt::format("{}: requantized for what computes with it", from.name));
        split.nodes.push_back(std::move(copy));
        requantized[source] = static_cast<int>(split.nodes.size()) - 1;
      }
      input = requantized[source];
    }
    split.nodes.push_back(std::move(node));
    now[i] = static_cast<int>(split.nodes.size()) - 1;
  }
  split.output = now[static_cast<size_t>(graph.output)];
  for (Head& head : split.heads) head.node = now[static_cast<size_t>(head.node)];
  graph = std::move(split);
}

std::vector<std::string> rewrites() {
  std::vector<std::string> names;
  for (const Rewrite& rewrite : all_rewrites()) names.emplace_back(rewrite.name);
  return names;
}

void rewrite(Graph& graph, const std::string& name, Report report) {
  for (const Rewrite& rewrite : all_rewrites()) {
    if (name != rewrite.name) continue;
    for (Node& node : graph.nodes) {
      if (node.activation != rewrite.from) continue;
      node.activation = rewrite.to;
      say(report, fmt::format("rewrote {}: {} is now {} (another function)", node.name, rewrite.from.name(),
                              rewrite.to.name()));
    }
    return;
  }
  throw Error(
      fmt::format("unknown rewrite '{}'{}; known: {}", name, did_you_mean(name, rewrites()), join(rewrites(), ", ")));
}

}  // namespace qat::graph
