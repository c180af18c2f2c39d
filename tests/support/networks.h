// Networks written as a user would write them, and the steps from a network to a verified integer model.
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <memory>

#include "core/graph/graph_module.h"
#include "core/graph/passes.h"
#include "core/graph/trace.h"
#include "quantizers/builtin.h"

namespace qat::test {

/// Functional calls, in-place add and ReLU, depthwise and 1x1 convolutions, three kinds of pools, biases, a flatten in
/// the middle; shapes vary with the seed. x [N, 3, size, size].
class MixedNet : public torch::nn::Module {
 public:
  explicit MixedNet(int seed) : variant_(seed) {
    namespace nn = torch::nn;
    const int64_t c = 6 + seed % 5, stride = 1 + seed % 2;
    stem_ =
        register_module("stem", nn::Conv2d(nn::Conv2dOptions(3, c, 3).stride(stride).padding(1).bias(seed % 3 == 0)));
    stem_bn_ = register_module("stem_bn", nn::BatchNorm2d(c));
    depthwise_ = register_module("depthwise", nn::Conv2d(nn::Conv2dOptions(c, c, 3).padding(1).groups(c).bias(false)));
    depthwise_bn_ = register_module("depthwise_bn", nn::BatchNorm2d(c));
    pointwise_ = register_module("pointwise", nn::Conv2d(nn::Conv2dOptions(c, c, 1)));
    pointwise_bn_ = register_module("pointwise_bn", nn::BatchNorm2d(c));
    plain_ = register_module("plain", nn::Conv2d(nn::Conv2dOptions(c, 2 * c, {3, 2}).stride({1, 2}).dilation({2, 1})));
    fc1_ = register_module("fc1", nn::Linear(2 * c, 9));
    fc2_ = register_module("fc2", nn::Linear(nn::LinearOptions(9, 5).bias(seed % 2 == 0)));
  }

  at::Tensor forward(at::Tensor x) {
    x = stem_bn_(stem_(x)).relu_();
    if (variant_ % 2 == 0) x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1});
    at::Tensor y = depthwise_bn_(depthwise_(x));
    if (variant_ % 3 == 0) y = at::relu(y);
    y = pointwise_bn_(pointwise_(y));
    y += x;
    if (variant_ % 4 != 3) y.relu_();
    if (variant_ % 2 == 1) y = at::avg_pool2d(y, {2, 2}, {1, 1});
    y = plain_(y);
    y = variant_ % 2 == 0 ? at::adaptive_avg_pool2d(y, {1, 1}).flatten(1) : y.mean({2, 3});
    y = at::relu(fc1_(y.view({y.size(0), -1})));
    return fc2_(y);
  }

 private:
  int variant_;
  torch::nn::Conv2d stem_{nullptr}, depthwise_{nullptr}, pointwise_{nullptr}, plain_{nullptr};
  torch::nn::BatchNorm2d stem_bn_{nullptr}, depthwise_bn_{nullptr}, pointwise_bn_{nullptr};
  torch::nn::Linear fc1_{nullptr}, fc2_{nullptr};
};

template <class Net>
graph::Graph trace_canonical(Net& net, const std::vector<int64_t>& input,
                             const quant::QuantizationConfig& config = {}) {
  graph::Graph graph = graph::trace(
      net, [&](const at::Tensor& x) { return net.forward(x); }, input);
  graph::canonicalize(graph, graph::fuse_options(config));
  if (config.residual) graph::split_residual(graph);
  return graph;
}

template <class Net>
std::shared_ptr<graph::GraphModule> quantize(Net& net, const std::vector<int64_t>& input,
                                             const quant::QuantizationConfig& config, const at::Tensor& calibration) {
  quantizers::register_builtin();
  auto module = std::make_shared<graph::GraphModule>(trace_canonical(net, input, config), net);
  graph::insert_quantizers(*module, config);
  if (config.batch_norm.mode == "folded") module->merge_batch_norm();
  module->eval();
  module->set_phase(nn::Phase::kCalibrate);
  {
    const at::NoGradGuard no_grad;
    module->forward(calibration);
  }
  module->initialize_quantizers();
  module->set_phase(nn::Phase::kLive);
  return module;
}

/// One plain SGD step on a random loss; returns the loss.
inline double train_step(graph::GraphModule& net, const at::Tensor& x, const at::Tensor& labels, double lr) {
  net.train();
  for (at::Tensor& p : net.parameters()) p.mutable_grad() = at::Tensor();
  const at::Tensor loss = at::cross_entropy_loss(net.forward(x), labels);
  loss.backward();
  const at::NoGradGuard no_grad;
  for (at::Tensor& p : net.parameters()) {
    if (p.grad().defined()) p.sub_(p.grad() * lr);
  }
  net.project();
  return loss.item<double>();
}

}  // namespace qat::test
