// Graph: a traced network as a list of typed nodes in execution order (single assignment).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "core/autograd/functions.h"
#include "core/nn/weighted.h"

namespace qat::graph {

enum class Op {
  kInput,
  kConv2d,
  kLinear,
  kBatchNorm,
  kRelu,
  kAdd,
  kMaxPool2d,
  kAvgPool2d,
  kGlobalAvgPool2d,
  kFlatten,
  kDropout,
  kCall,  // any other operator, replayed in float
};

const char* to_string(Op op);

/// One operator and its output tensor. Fields that the operator does not use keep their defaults.
struct Node {
  Op op = Op::kCall;
  std::string name;         // of the parameters' module ("layer1.0.conv1"), otherwise of the operator ("add", "add_1")
  std::vector<int> inputs;  // indices of earlier nodes
  std::vector<int64_t> sizes;  // of the output, without the batch

  nn::LayerTensors tensors;     // kConv2d, kLinear: weight, bias; with batch norm once fused. kBatchNorm: batch_norm
  nn::ConvGeometry2d geometry;  // kConv2d
  autograd::Pool2d pool;        // pools
  bool relu = false;            // a fused ReLU
  double dropout = 0.0;         // probability
  std::string call_name;        // kCall: the operator, "aten::sigmoid"
  std::function<at::Tensor(const std::vector<at::Tensor>& inputs)> call;
};

struct Graph {
  std::vector<Node> nodes;
  int input = -1;
  int output = -1;

  /// How many nodes read each node (the graph's output counts as a reader).
  std::vector<int> users() const;

  /// One line a node, for people and for diffs.
  std::string dump() const;
};

}  // namespace qat::graph
