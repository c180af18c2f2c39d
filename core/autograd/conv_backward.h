// What a convolution keeps for backward, and its gradients. Internal to core/autograd.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/autograd/functions.h"
#include "core/autograd/node.h"
#include "core/ops/convolve.h"
#include "core/ops/types.h"

namespace qat::autograd {

template <class T>
at::Tensor to_tensor(const std::vector<T>& values) {
  return at::from_blob(const_cast<T*>(values.data()), {static_cast<int64_t>(values.size())},
                       at::TensorOptions(c10::CppTypeToScalarType<T>::value))
      .clone();
}

inline at::Tensor to_float_tensor(const std::vector<double>& values) {
  return to_tensor(std::vector<float>(values.begin(), values.end()));
}

/// int32 [rows, C], or int16 with their statistics; and the sizes [N, C, spatial...] of the map that the rows are.
struct Accumulators {
  at::Tensor values;
  std::vector<int64_t> sizes;
  std::optional<ops::ChannelStatistics> statistics;
};

/// The convolution of codes: by the integer kernels, or in float64 where they have no form (exact as well).
/// narrow: int16 where the weights leave the accumulators no other values.
Accumulators run_convolution(const ConvCall& call, const at::Tensor& x_codes, const ops::CodeRange& x_range,
                             const at::Tensor& w_codes, bool narrow);

/// A node behind a weight's handle that can make the weight's codes again, so that no one need keep them.
class RemakesCodes {
 public:
  virtual ~RemakesCodes() = default;
  virtual at::Tensor codes() const = 0;
};

/// The node of ours that made a tensor, while its graph has not been freed; null if there is none.
Backward* backward_of(const at::Tensor& output);

/// What backward keeps, and the gradient rules of the whole block.
struct ConvBackward final : Backward {
  std::string layer;
  ConvCall call;  // without observers or output; with tensors only where the folded codes are made again
  KeptCodes kept_x;
  float x_scale = 1;
  ops::CodeRange x_range;
  bool has_bias = false, has_norm = false;

  // The weight that ran: raw codes in the live phase, folded ones otherwise. Undefined where `weight` remakes them.
  at::Tensor w_codes, w_scale;
  std::vector<int64_t> w_sizes;
  at::Tensor weight, raw_scale;       // the weight's handle, and the scale of its raw codes
  std::vector<double> k;              // folded: the gain of batch norm
  std::vector<double> weight_factor;  // of the gradient at the weight's handle to that of the weight that ran; empty: 1

  at::Tensor inside;  // bit mask; undefined: everywhere
  at::Tensor kept;    // int16 (compact, or narrow) or int32 accumulators; undefined: none, or recomputed
  bool recompute = false;
  at::Tensor middle, step;  // with int16
  bool narrow = false;      // how they are recomputed

  // Live batch norm: xhat = p * acc + q.
  std::vector<double> p, q, gain;  // gain = gamma / sqrt(var + eps)
  LiveStatistics statistics = LiveStatistics::kBatch;

  // A learned output scale.
  bool learn = false;
  KeptCodes kept_y;
  std::vector<float> multiplier, offset;
  ops::CodeRange y_range;
  double gradient_scale = 1;

  std::string name() const override { return "qat::conv(" + layer + ")"; }

  /// The weight's codes, kept or made again.
  at::Tensor weight_codes() const;
  /// Makes the gradient of the convolution's own output, rows [first, first + rows) of it, in `into`.
  using MakeRows = std::function<void(int64_t first, int64_t rows, float* into)>;
  /// result[0] and result[1]. No `make`: grad is the gradient of the convolution's own output.
  void add_convolution_gradients(const at::Tensor& grad, const MakeRows& make, const at::Tensor& codes,
                                 const std::vector<bool>& needed, std::vector<at::Tensor>& result) const;
  std::vector<at::Tensor> apply(const at::Tensor& grad, const std::vector<bool>& needed) override;
};

}  // namespace qat::autograd
