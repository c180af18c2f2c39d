#include "core/autograd/node.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include "core/autograd/conv_backward.h"
#include "core/autograd/quantized_tensor.h"
#include "core/base/error.h"

namespace qat::autograd {
namespace {

class BackwardNode final : public torch::autograd::Node {
 public:
  explicit BackwardNode(std::unique_ptr<Backward> backward) : backward_(std::move(backward)) {}

  std::string name() const override { return backward_ ? backward_->name() : "released"; }

  void release_variables() override { backward_.reset(); }

  Backward* backward() const { return backward_.get(); }

 private:
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    QAT_CHECK(backward_ != nullptr,
              "backward through a quantized operator for the second time: pass retain_graph to the first backward");
    QAT_CHECK(!at::GradMode::is_enabled(),
              "{}: second derivatives (create_graph) are not defined for quantized operators", backward_->name());
    torch::autograd::variable_list result(num_outputs());
    if (!grads[0].defined()) return result;
    std::vector<bool> needed(num_outputs());
    for (size_t i = 0; i < needed.size(); ++i) needed[i] = task_should_compute_output(i);
    return backward_->apply(kernel_layout(grads[0]), needed);
  }

  std::unique_ptr<Backward> backward_;
};

}  // namespace

Backward* backward_of(const at::Tensor& output) {
  const auto* node = output.defined() ? dynamic_cast<BackwardNode*>(output.grad_fn().get()) : nullptr;
  return node == nullptr ? nullptr : node->backward();
}

bool needs_gradient(const std::vector<at::Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& input : inputs) {
    if (input.defined() && input.requires_grad()) return true;
  }
  return false;
}

at::Tensor connect(at::Tensor output, const std::vector<at::Tensor>& inputs, std::unique_ptr<Backward> backward) {
  if (!needs_gradient(inputs)) return output;
  auto node = std::shared_ptr<BackwardNode>(new BackwardNode(std::move(backward)), torch::autograd::deleteNode);
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& input : inputs) {
    edges.push_back(input.defined() ? torch::autograd::impl::gradient_edge(input) : torch::autograd::Edge());
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(output, node);
  return output;
}

}  // namespace qat::autograd
