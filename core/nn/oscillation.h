// Weights that oscillate between two codes, and their freezing.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <vector>

namespace qat::nn {

/// Iterative weight freezing (Nagel et al., "Overcoming oscillations in quantization-aware training", ICML 2022,
/// arXiv:2203.11086, section 4.2 and algorithm 1). After each optimizer step, with the codes q of a weight:
///   o = 1 where q changed, and against the direction of its last change; else 0
///   f = m o + (1 - m) f                  how often it oscillates
///   where f > threshold: frozen to rne(the moving average of q up to the step before)
///   average = m q + (1 - m) average      starting with the first codes
/// All state lies in buffers.
class OscillationTracker : public torch::nn::Module {
 public:
  /// sizes: of the weight.
  explicit OscillationTracker(const std::vector<int64_t>& sizes);

  /// codes: int8, of those sizes. Frozen weights keep the code they were frozen to, whatever is given.
  void update(const at::Tensor& codes, double threshold, double momentum);

  const at::Tensor& frozen() const { return frozen_; }        // bool
  const at::Tensor& frozen_codes() const { return kept_; }    // int8, where frozen
  const at::Tensor& frequency() const { return frequency_; }  // float32

 private:
  at::Tensor started_;  // bool [1]
  at::Tensor frozen_, kept_;
  at::Tensor previous_, direction_;  // int8: codes, and the sign of their last change
  at::Tensor frequency_, average_;   // float32
};

}  // namespace qat::nn
