// Graph: a traced network as a list of typed nodes in execution order (single assignment).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/functions.h"
#include "core/nn/activation.h"
#include "core/nn/weighted.h"

namespace qat::graph {

enum class Op {
  kInput,
  kConv,    // one to three dimensions, transposed too
  kLinear,  // of the last dimension
  kBatchNorm,
  kActivation,
  kAdd,         // of equal sizes
  kMul,         // of equal sizes, or one operand [N, C, 1, 1]
  kConcat,      // along channels
  kRequantize,  // the same values with a quantizer of their own
  kMaxPool2d,
  kAvgPool2d,
  kGlobalAvgPool2d,
  kFlatten,
  kChannelShuffle,
  kChannelSlice,
  kMove,  // any other operator that moves elements without changing them
  kDropout,
  kStochasticDepth,  // dropout of whole samples
  kCall,             // any other operator, replayed in float
};

const char* to_string(Op op);

/// Replays an operator; `batch` is the number of samples.
using Call = std::function<at::Tensor(const std::vector<at::Tensor>& inputs, int64_t batch)>;

/// One operator and its output tensor. Fields that the operator does not use keep their defaults.
struct Node {
  Op op = Op::kCall;
  std::string name;         // of the parameters' module ("layer1.0.conv1"), otherwise of the operator ("add", "add_1")
  std::vector<int> inputs;  // indices of earlier nodes
  std::vector<int64_t> sizes;  // of the output, without the batch

  nn::LayerTensors tensors;   // kConv, kLinear: weight, bias; with batch norms once fused. kBatchNorm: batch_norm
  nn::ConvGeometry geometry;  // kConv
  nn::Activation activation;  // kActivation; kConv, kLinear, kAdd: a fused one
  autograd::Pool2d pool;      // pools
  double dropout = 0.0;       // probability
  int64_t groups = 1;         // kChannelShuffle
  int64_t begin = 0;          // kChannelSlice: channels [begin, begin + sizes[0])
  std::string call_name;      // kMove, kCall: the operator, "aten::sort"
  std::vector<int64_t> ints;  // kMove: its integer arguments; the batch is 0
  Call call;                  // kMove, kCall
};

/// A network's output that only its training reads: an auxiliary classifier's.
struct Head {
  std::string name;
  int node = -1;
};

struct Graph {
  std::vector<Node> nodes;
  int input = -1;
  int output = -1;
  std::vector<Head> heads;

  /// How many nodes read each node (the graph's outputs count as readers).
  std::vector<int> users() const;

  /// One line a node, for people and for diffs.
  std::string dump() const;
};

}  // namespace qat::graph
