// trace(): records an unmodified torch::nn network as a Graph.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/record.h"

namespace qat::graph {

/// Runs `forward` twice in training mode (the mode that the graph will be trained in: dropout, stochastic depth and
/// auxiliary heads show) on dummy inputs of two batch sizes, recording at the dispatcher.
///
/// Parameters and buffers are recognised by identity, so nodes carry the module's dotted names. Functional calls and
/// in-place operators become nodes. Integers that differ between the two recordings as the batch sizes do are multiples
/// of the batch. The first output is the graph's, others become its heads.
///
/// input: sizes without the batch. Training modes, buffers and random state are restored.
/// Throws GraphError, with operator and nearest layer, for baked sizes, captured tensors, control flow that depends on
/// the batch, operators with several outputs that are no views, and reads of views whose base was changed in place.
Graph trace(torch::nn::Module& module, const Forward& forward, const std::vector<int64_t>& input);

/// The same for a network with one output.
Graph trace(torch::nn::Module& module, const std::function<at::Tensor(const at::Tensor&)>& forward,
            const std::vector<int64_t>& input);

}  // namespace qat::graph
