// A module in training mode, without consequences. Internal to trace.cpp.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <torch/nn/module.h>

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace qat::graph {

/// Training mode without consequences: afterwards every module has its own mode back (a user may keep a batch norm in
/// evaluation), and buffers and random state are as they were.
class Rehearsal {
 public:
  explicit Rehearsal(torch::nn::Module& root) : root_(root), training_(root.is_training()) {
    for (const auto& module : root.modules(false)) modes_.emplace_back(module, module->is_training());
    for (const at::Tensor& buffer : root.buffers()) buffers_.emplace_back(buffer, buffer.clone());
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    random_ = generator_.get_state();
    root.train();
  }
  ~Rehearsal() {
    root_.train(training_);
    for (const auto& [module, training] : modes_) module->train(training);  // outer modules first
    for (auto& [buffer, before] : buffers_) buffer.copy_(before);
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    generator_.set_state(random_);
  }
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

 private:
  torch::nn::Module& root_;
  bool training_;
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> modes_;
  std::vector<std::pair<at::Tensor, at::Tensor>> buffers_;
  at::Generator generator_ = at::detail::getDefaultCPUGenerator();
  at::Tensor random_;
};

}  // namespace qat::graph
