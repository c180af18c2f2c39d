// Passes over a Graph. Each keeps the function in evaluation (outputs equal within float rounding) and says what it
// did.
#pragma once

#include <string>
#include <vector>

#include "core/graph/graph.h"

namespace qat::graph {

/// Removes nodes that the output does not depend on.
void remove_dead_code(Graph& graph, std::vector<std::string>* report = nullptr);

/// Fuses batch norm into the convolution or linear layer in front of it, and ReLU into a convolution, linear layer or
/// add. Only where nothing else reads the tensor in between.
void fuse(Graph& graph, std::vector<std::string>* report = nullptr);

/// All of the above in order.
void canonicalize(Graph& graph, std::vector<std::string>* report = nullptr);

}  // namespace qat::graph
