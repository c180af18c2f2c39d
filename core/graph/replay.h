// Replays a recorded operator through the dispatcher. Internal to trace.cpp.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <utility>
#include <vector>

#include "core/graph/graph.h"

namespace qat::graph {

/// What fills one argument: tensors, a constant, or a constant with multiples of the batch in it.
struct Slot {
  std::vector<int> inputs;  // positions among the node's inputs; -1: undefined; -2 - k: tensors[k]
  bool is_list = false;
  c10::IValue constant;
  std::vector<std::pair<size_t, int64_t>> multiples;  // place in an int list (or 0 for a single int), factor
  bool is_constant = false;
};

/// tensors: parameters and buffers that the operator reads. item: which of a list of results.
Call replay(c10::OperatorHandle op, std::vector<Slot> slots, std::vector<at::Tensor> tensors, size_t item);

}  // namespace qat::graph
