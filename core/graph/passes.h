// Passes over a Graph. Each keeps the function (outputs equal within float rounding) and says what it did; rewrites,
// which a user must ask for, change it.
#pragma once

#include <string>
#include <vector>

#include "core/graph/graph.h"

namespace qat::graph {

/// What passes did, one line each; null: not wanted.
using Report = std::vector<std::string>*;

/// Removes nodes that no output depends on.
void remove_dead_code(Graph& graph, Report report = nullptr);

/// Removes dropout and stochastic depth: all of them for a network that no longer trains, otherwise those of
/// probability 0.
void remove_dropout(Graph& graph, bool all, Report report = nullptr);

/// Recognizes what was written with simpler operators: x * sigmoid(x) is SiLU, x * hardsigmoid(x) hardswish,
/// view, transpose(1, 2), view a channel shuffle.
void lift(Graph& graph, Report report = nullptr);

struct FuseOptions {
  bool batch_norm = true;
  /// Also activations that no integer kernel computes with its layer (leaky ReLU, hardswish, SiLU, ...).
  bool all_activations = true;
};

/// Fuses batch norm into the convolution or linear layer in front of it, or behind it (nothing between, no padding: its
/// statistics become constants once the network is quantized), activations into convolutions, linear layers and adds.
/// A batch norm or activation behind a concatenation moves in front of it where every branch can take it. Only where
/// nothing else reads the tensor in between.
void fuse(Graph& graph, const FuseOptions& options = {}, Report report = nullptr);

/// All of the above in order.
void canonicalize(Graph& graph, const FuseOptions& options = {}, Report report = nullptr);

/// For a residual stream of its own width: what adds read and make keeps one quantizer, and what convolutions and
/// linear layers read of it is requantized for them by a node of its own, "<tensor>.requantized".
void split_residual(Graph& graph, Report report = nullptr);

/// Names of rewrites: "relu6_to_relu", "silu_to_hardswish".
std::vector<std::string> rewrites();

/// Changes the network's function: every activation of one kind becomes another. Throws qat::Error for an unknown name.
void rewrite(Graph& graph, const std::string& name, Report report = nullptr);

}  // namespace qat::graph
