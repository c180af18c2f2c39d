#include "core/graph/graph_module.h"

#include <ATen/TensorOperators.h>

#include <optional>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/nn/pointwise.h"
#include "core/nn/weighted.h"

namespace qat::graph {

std::shared_ptr<nn::QLayer> make_layer(const Node& node) {
  switch (node.op) {
    case Op::kInput:
      return std::make_shared<nn::QInput>(node.name);
    case Op::kConv:
    case Op::kLinear:
      return std::make_shared<nn::WeightedLayer>(node.name, node.tensors, node.geometry, node.activation);
    case Op::kActivation:
      return std::make_shared<nn::ActivationLayer>(node.name, node.activation);
    case Op::kAdd:
      return std::make_shared<nn::QAdd>(node.name, node.activation);
    case Op::kMul:
      return std::make_shared<nn::QMul>(node.name);
    case Op::kRequantize:
      return std::make_shared<nn::QRequantize>(node.name);
    case Op::kConcat:
      return std::make_shared<nn::QConcat>(node.name);
    case Op::kMaxPool2d:
      return std::make_shared<nn::QMaxPool2d>(node.name, node.pool);
    case Op::kAvgPool2d:
      return std::make_shared<nn::QAvgPool2d>(node.name, node.pool);
    case Op::kGlobalAvgPool2d:
      return std::make_shared<nn::QGlobalAvgPool2d>(node.name);
    case Op::kFlatten:
      return std::make_shared<nn::QMove>(
          node.name, "flatten", [](const std::vector<at::Tensor>& inputs, int64_t) { return inputs[0].flatten(1); });
    case Op::kChannelShuffle: {
      const auto shuffle = [groups = node.groups](const std::vector<at::Tensor>& inputs, int64_t) {
        const at::Tensor& x = inputs[0];
        const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
        return x.reshape({n, groups, c / groups, h, w}).transpose(1, 2).reshape({n, c, h, w});
      };
      return std::make_shared<nn::QMove>(node.name, "channel_shuffle", shuffle, node.groups);
    }
    case Op::kChannelSlice: {
      const auto slice = [begin = node.begin, size = node.sizes[0]](const std::vector<at::Tensor>& inputs, int64_t) {
        return inputs[0].narrow(1, begin, size);
      };
      return std::make_shared<nn::QMove>(node.name, "channel_slice", slice, node.begin);
    }
    case Op::kMove:
      return std::make_shared<nn::QMove>(node.name, node.call_name, node.call);
    case Op::kDropout:
    case Op::kStochasticDepth:
      return std::make_shared<nn::QDropout>(node.name, node.dropout, node.op == Op::kStochasticDepth);
    case Op::kBatchNorm:
      return std::make_shared<nn::FloatBatchNorm>(node.name, *node.tensors.batch_norm);
    case Op::kCall:
      return std::make_shared<nn::FloatLayer>(node.name, node.call_name, node.call);
  }
  throw GraphError(fmt::format("{}: has no executable layer", node.name));
}

torch::nn::Module& submodule(torch::nn::Module& root, const std::string& path) {
  torch::nn::Module* module = &root;
  for (size_t start = 0; start < path.size();) {
    const size_t dot = std::min(path.find('.', start), path.size());
    const std::string name = path.substr(start, dot - start);
    const auto children = module->named_children();
    const auto* found = children.find(name);
    module =
        found != nullptr ? found->get() : module->register_module(name, std::make_shared<torch::nn::Module>()).get();
    start = dot + 1;
  }
  return *module;
}

GraphModule::GraphModule(const Graph& graph, const torch::nn::Module& source) {
  for (const auto& item : source.named_parameters()) {
    const std::string& name = item.key();
    const size_t dot = name.rfind('.');
    submodule(*this, dot == std::string::npos ? "" : name.substr(0, dot))
        .register_parameter(name.substr(dot == std::string::npos ? 0 : dot + 1), item.value(),
                            item.value().requires_grad());
  }
  for (const auto& item : source.named_buffers()) {
    const std::string& name = item.key();
    const size_t dot = name.rfind('.');
    submodule(*this, dot == std::string::npos ? "" : name.substr(0, dot))
        .register_buffer(name.substr(dot == std::string::npos ? 0 : dot + 1), item.value());
  }
  for (const Node& node : graph.nodes) steps_.push_back({make_layer(node), node.inputs, node.sizes});
  output_ = graph.output;
  heads_ = graph.heads;
  QAT_CHECK_AS(GraphError, graph.input == 0 && output_ >= 0, "a graph needs its input first and an output");
  needed_.assign(steps_.size(), false);
  needed_[0] = needed_[output_] = true;
  for (size_t i = steps_.size(); i-- > 0;) {
    if (!needed_[i]) continue;
    for (const int input : steps_[i].inputs) needed_[input] = true;
  }
}

at::Tensor GraphModule::forward(const at::Tensor& x, const Tap& tap) {
  return run(x, phase_ == nn::Phase::kCalibrate, tap)[0].second;
}

NamedTensors GraphModule::forward_heads(const at::Tensor& x, const Tap& tap) { return run(x, true, tap); }

void GraphModule::set_autocast(bool on) {
  for (Step& step : steps_) step.layer->set_autocast(on);
}

NamedTensors GraphModule::run(const at::Tensor& x, bool with_heads, const Tap& tap) {
  // Values are dropped after their last reader, so that only autograd decides what lives on.
  std::vector<std::optional<nn::Value>> values(steps_.size());
  std::vector<size_t> last_reader(steps_.size(), 0);
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (const int input : steps_[i].inputs) last_reader[input] = i;
  }
  last_reader[output_] = steps_.size();
  for (const Head& head : heads_) last_reader[head.node] = steps_.size();
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (!with_heads && !needed_[i]) continue;
    std::vector<nn::Value> inputs;
    if (steps_[i].inputs.empty()) inputs.emplace_back(x);
    for (const int input : steps_[i].inputs) inputs.push_back(*values[input]);
    values[i] = steps_[i].layer->run(inputs, x.size(0));
    if (tap) tap(*steps_[i].layer, *values[i]);
    for (const int input : steps_[i].inputs) {
      if (last_reader[input] == i) values[input].reset();
    }
  }
  NamedTensors outputs{{"logits", nn::to_float(*values[output_])}};
  if (!with_heads) return outputs;
  for (const Head& head : heads_) outputs.emplace_back(head.name, nn::to_float(*values[head.node]));
  return outputs;
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
  layer.set_output_quantizer(submodule(*this, layer.label()).register_module("output_quantizer", std::move(quantizer)));
}

void GraphModule::set_weight_quantizer(int step, std::shared_ptr<quant::Quantizer> quantizer) {
  nn::QLayer& layer = *steps_.at(step).layer;
  layer.set_weight_quantizer(submodule(*this, layer.label()).register_module("weight_quantizer", std::move(quantizer)));
}

void GraphModule::set_bias_quantizer(int step, std::shared_ptr<quant::Quantizer> quantizer) {
  auto& layer = dynamic_cast<nn::WeightedLayer&>(*steps_.at(step).layer);
  layer.set_bias_quantizer(submodule(*this, layer.label()).register_module("bias_quantizer", std::move(quantizer)));
}

void GraphModule::set_batch_norm_mode(nn::BatchNormMode mode) {
  for (Step& step : steps_) {
    if (auto* layer = dynamic_cast<nn::WeightedLayer*>(step.layer.get())) layer->set_batch_norm_mode(mode);
  }
}

void GraphModule::merge_batch_norm() {
  for (Step& step : steps_) {
    if (auto* layer = dynamic_cast<nn::WeightedLayer*>(step.layer.get())) layer->merge_batch_norm();
  }
}

void GraphModule::reestimate_batch_norm(const std::function<at::Tensor()>& next) {
  const auto set_momentum = [this](std::optional<double> momentum) {
    for (Step& step : steps_) step.layer->set_reestimation(momentum);
  };
  const auto restore = [&, training = is_training()](void*) {
    set_momentum(std::nullopt);
    train(training);
  };
  const std::unique_ptr<void, decltype(restore)> guard(this, restore);  // also where `next` or a layer throws
  eval();
  const at::NoGradGuard no_grad;
  double batches = 0;
  for (at::Tensor x = next(); x.defined(); x = next()) {
    set_momentum(1.0 / ++batches);
    run(x, true, nullptr);
  }
}

void GraphModule::set_step(const quant::StepSettings& settings) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    quant::StepSettings own = settings;
    own.noise_key = hash(settings.noise_key, i);
    steps_[i].layer->set_step(own);
  }
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
