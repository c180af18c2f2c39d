// trace(): records an unmodified torch::nn network as a Graph.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <vector>

#include "core/graph/graph.h"

namespace qat::graph {

/// Runs `forward` twice in evaluation mode on dummy inputs of two batch sizes, recording at the dispatcher.
///
/// Parameters and buffers are recognised by identity, so nodes carry the module's dotted names. Functional calls and
/// in-place operators become nodes. Integers that differ between the two recordings as the batch sizes do are the
/// batch.
///
/// input: sizes without the batch. The module's training mode is restored.
/// Throws GraphError, with operator and nearest layer, for baked sizes, captured tensors, control flow that depends on
/// the batch, operators with several outputs, and reads of views whose base was changed in place.
Graph trace(torch::nn::Module& module, const std::function<at::Tensor(const at::Tensor&)>& forward,
            const std::vector<int64_t>& input);

}  // namespace qat::graph
