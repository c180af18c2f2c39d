// GraphBuilder: a Graph written by hand, for tests of passes and for networks that exist as tables only.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "core/graph/graph.h"

namespace qat::graph {

/// Every method appends a node and returns its index. Parameters and buffers are registered with module() under the
/// node's name ("conv1.weight"), as a GraphModule wants them. Throws what LibTorch throws for sizes that do not fit.
class GraphBuilder {
 public:
  /// sizes: of the input, without the batch.
  explicit GraphBuilder(std::vector<int64_t> sizes);

  int input() const { return 0; }
  int conv(const std::string& name, int x, const at::Tensor& weight, const at::Tensor& bias, nn::ConvGeometry geometry);
  int linear(const std::string& name, int x, const at::Tensor& weight, const at::Tensor& bias);
  int batch_norm(const std::string& name, int x, autograd::BatchNorm norm);
  int activation(const std::string& name, int x, const nn::Activation& activation);
  int add(const std::string& name, int a, int b);
  int mul(const std::string& name, int a, int b);
  int concat(const std::string& name, std::vector<int> inputs);
  int max_pool2d(const std::string& name, int x, const autograd::Pool2d& pool);
  int avg_pool2d(const std::string& name, int x, const autograd::Pool2d& pool);
  int global_avg_pool2d(const std::string& name, int x);
  int flatten(const std::string& name, int x);
  int dropout(const std::string& name, int x, double probability);

  Graph finish(int output);
  const torch::nn::Module& module() const { return *module_; }

 private:
  int append(Node node);
  void own(const std::string& path, const at::Tensor& tensor, bool is_parameter);

  Graph graph_;
  std::vector<at::Tensor> samples_;  // the output of every node for a batch of 2 zeros
  std::shared_ptr<torch::nn::Module> module_ = std::make_shared<torch::nn::Module>();
};

}  // namespace qat::graph
