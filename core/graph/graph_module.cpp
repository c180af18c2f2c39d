#include "core/graph/graph_module.h"

#include <ATen/TensorOperators.h>

#include <optional>

#include "core/base/error.h"
#include "core/nn/pointwise.h"
#include "core/nn/weighted.h"

namespace qat::graph {
namespace {

std::shared_ptr<nn::QLayer> make_layer(const Node& node) {
  switch (node.op) {
    case Op::kInput:
      return std::make_shared<nn::QInput>(node.name);
    case Op::kConv2d:
    case Op::kLinear:
      return std::make_shared<nn::WeightedLayer>(node.name, node.tensors, node.geometry, node.relu);
    case Op::kRelu:
      return std::make_shared<nn::ReLULayer>(node.name);
    case Op::kAdd:
      return std::make_shared<nn::QAdd>(node.name, node.relu);
    case Op::kMaxPool2d:
      return std::make_shared<nn::QMaxPool2d>(node.name, node.pool);
    case Op::kAvgPool2d:
      return std::make_shared<nn::QAvgPool2d>(node.name, node.pool);
    case Op::kGlobalAvgPool2d:
      return std::make_shared<nn::QGlobalAvgPool2d>(node.name);
    case Op::kFlatten:
      return std::make_shared<nn::QFlatten>(node.name);
    case Op::kDropout:
      return std::make_shared<nn::QDropout>(node.name, node.dropout);
    case Op::kBatchNorm:
      return std::make_shared<nn::FloatBatchNorm>(node.name, *node.tensors.batch_norm);
    case Op::kCall:
      return std::make_shared<nn::FloatLayer>(node.name, node.call_name, node.call);
  }
  throw GraphError(fmt::format("{}: has no executable layer", node.name));
}

}  // namespace

GraphModule::GraphModule(const Graph& graph, const torch::nn::Module& source) {
  for (const auto& item : source.named_parameters()) {
    const std::string& name = item.key();
    const size_t dot = name.rfind('.');
    container(dot == std::string::npos ? "" : name.substr(0, dot))
        ->register_parameter(name.substr(dot == std::string::npos ? 0 : dot + 1), item.value(),
                             item.value().requires_grad());
  }
  for (const auto& item : source.named_buffers()) {
    const std::string& name = item.key();
    const size_t dot = name.rfind('.');
    container(dot == std::string::npos ? "" : name.substr(0, dot))
        ->register_buffer(name.substr(dot == std::string::npos ? 0 : dot + 1), item.value());
  }
  for (const Node& node : graph.nodes) steps_.push_back({make_layer(node), node.inputs, node.sizes});
  output_ = graph.output;
  QAT_CHECK_AS(GraphError, graph.input == 0 && output_ >= 0, "a graph needs its input first and an output");
}

torch::nn::Module* GraphModule::container(const std::string& path) {
  torch::nn::Module* module = this;
  for (size_t start = 0; start < path.size();) {
    const size_t dot = std::min(path.find('.', start), path.size());
    const std::string name = path.substr(start, dot - start);
    const auto children = module->named_children();
    const auto* found = children.find(name);
    module =
        found != nullptr ? found->get() : module->register_module(name, std::make_shared<torch::nn::Module>()).get();
    start = dot + 1;
  }
  return module;
}

at::Tensor GraphModule::forward(const at::Tensor& x) { return forward(x, nullptr); }

at::Tensor GraphModule::forward(const at::Tensor& x, const Tap& tap) {
  // Values are dropped after their last reader, so that only autograd decides what lives on.
  std::vector<std::optional<nn::Value>> values(steps_.size());
  std::vector<size_t> last_reader(steps_.size(), 0);
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (const int input : steps_[i].inputs) last_reader[input] = i;
  }
  last_reader[output_] = steps_.size();
  for (size_t i = 0; i < steps_.size(); ++i) {
    std::vector<nn::Value> inputs;
    if (steps_[i].inputs.empty()) inputs.emplace_back(x);
    for (const int input : steps_[i].inputs) inputs.push_back(*values[input]);
    values[i] = steps_[i].layer->run(inputs);
    if (tap) tap(*steps_[i].layer, *values[i]);
    for (const int input : steps_[i].inputs) {
      if (last_reader[input] == i) values[input].reset();
    }
  }
  return nn::to_float(*values[output_]);
}

void GraphModule::set_phase(nn::Phase phase) {
  phase_ = phase;
  for (Step& step : steps_) step.layer->set_phase(phase);
}

void GraphModule::train(bool on) {
  torch::nn::Module::train(on);
  for (Step& step : steps_) step.layer->train(on);
}

void GraphModule::set_output_quantizer(int step, std::shared_ptr<quant::Quantizer> quantizer) {
  nn::QLayer& layer = *steps_.at(step).layer;
  layer.set_output_quantizer(container(layer.label())->register_module("output_quantizer", std::move(quantizer)));
}

void GraphModule::set_weight_quantizer(int step, std::shared_ptr<quant::Quantizer> quantizer) {
  nn::QLayer& layer = *steps_.at(step).layer;
  layer.set_weight_quantizer(container(layer.label())->register_module("weight_quantizer", std::move(quantizer)));
}

void GraphModule::initialize_quantizers() {
  for (Step& step : steps_) step.layer->initialize_quantizers();
}

void GraphModule::project() {
  for (Step& step : steps_) step.layer->project();
}

at::Tensor GraphModule::penalty() const {
  at::Tensor sum;
  for (const Step& step : steps_) {
    const at::Tensor term = step.layer->penalty();
    if (term.defined()) sum = sum.defined() ? sum + term : term;
  }
  return sum;
}

}  // namespace qat::graph
