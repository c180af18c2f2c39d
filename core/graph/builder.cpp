#include "core/graph/builder.h"

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "core/graph/graph_module.h"

namespace qat::graph {
namespace {

Node make(Op op, const std::string& name, std::vector<int> inputs) {
  Node node;
  node.op = op;
  node.name = name;
  node.inputs = std::move(inputs);
  return node;
}

}  // namespace

GraphBuilder::GraphBuilder(std::vector<int64_t> sizes) {
  std::vector<int64_t> batch{2};
  batch.insert(batch.end(), sizes.begin(), sizes.end());
  samples_.push_back(at::zeros(batch, at::kFloat));
  Node node = make(Op::kInput, "input", {});
  node.sizes = std::move(sizes);
  graph_.nodes.push_back(std::move(node));
  graph_.input = 0;
}

int GraphBuilder::conv(const std::string& name, int x, const at::Tensor& weight, const at::Tensor& bias,
                       nn::ConvGeometry geometry) {
  Node node = make(Op::kConv, name, {x});
  node.tensors.weight = weight, node.tensors.bias = bias;
  node.geometry = std::move(geometry);
  own(name + ".weight", weight, true);
  if (bias.defined()) own(name + ".bias", bias, true);
  return append(std::move(node));
}

int GraphBuilder::linear(const std::string& name, int x, const at::Tensor& weight, const at::Tensor& bias) {
  Node node = make(Op::kLinear, name, {x});
  node.tensors.weight = weight, node.tensors.bias = bias;
  own(name + ".weight", weight, true);
  if (bias.defined()) own(name + ".bias", bias, true);
  return append(std::move(node));
}

int GraphBuilder::batch_norm(const std::string& name, int x, autograd::BatchNorm norm) {
  own(name + ".weight", norm.gamma, true);
  own(name + ".bias", norm.beta, true);
  own(name + ".running_mean", norm.running_mean, false);
  own(name + ".running_var", norm.running_var, false);
  Node node = make(Op::kBatchNorm, name, {x});
  node.tensors.batch_norm = std::move(norm);
  return append(std::move(node));
}

int GraphBuilder::activation(const std::string& name, int x, const nn::Activation& activation) {
  Node node = make(Op::kActivation, name, {x});
  node.activation = activation;
  return append(std::move(node));
}

int GraphBuilder::add(const std::string& name, int a, int b) { return append(make(Op::kAdd, name, {a, b})); }

int GraphBuilder::mul(const std::string& name, int a, int b) { return append(make(Op::kMul, name, {a, b})); }

int GraphBuilder::concat(const std::string& name, std::vector<int> inputs) {
  return append(make(Op::kConcat, name, std::move(inputs)));
}

int GraphBuilder::max_pool2d(const std::string& name, int x, const autograd::Pool2d& pool) {
  Node node = make(Op::kMaxPool2d, name, {x});
  node.pool = pool;
  return append(std::move(node));
}

int GraphBuilder::avg_pool2d(const std::string& name, int x, const autograd::Pool2d& pool) {
  Node node = make(Op::kAvgPool2d, name, {x});
  node.pool = pool;
  return append(std::move(node));
}

int GraphBuilder::global_avg_pool2d(const std::string& name, int x) {
  return append(make(Op::kGlobalAvgPool2d, name, {x}));
}

int GraphBuilder::flatten(const std::string& name, int x) { return append(make(Op::kFlatten, name, {x})); }

int GraphBuilder::dropout(const std::string& name, int x, double probability) {
  Node node = make(Op::kDropout, name, {x});
  node.dropout = probability;
  return append(std::move(node));
}

Graph GraphBuilder::finish(int output) {
  graph_.output = output;
  return graph_;
}

int GraphBuilder::append(Node node) {
  const at::NoGradGuard no_grad;
  const std::shared_ptr<nn::QLayer> layer = make_layer(node);
  layer->eval();
  std::vector<nn::Value> inputs;
  for (const int input : node.inputs) inputs.emplace_back(samples_.at(static_cast<size_t>(input)));
  samples_.push_back(nn::to_float(layer->run(inputs, samples_[0].size(0))));
  node.sizes = samples_.back().sizes().slice(1).vec();
  graph_.nodes.push_back(std::move(node));
  return static_cast<int>(graph_.nodes.size()) - 1;
}

void GraphBuilder::own(const std::string& path, const at::Tensor& tensor, bool is_parameter) {
  torch::nn::Module& owner = submodule(*module_, path.substr(0, path.rfind('.')));
  const std::string name = path.substr(path.rfind('.') + 1);
  if (is_parameter) {
    owner.register_parameter(name, tensor, tensor.requires_grad());
  } else {
    owner.register_buffer(name, tensor);
  }
}

}  // namespace qat::graph
