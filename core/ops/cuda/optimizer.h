// An optimizer's update of all parameters on the GPU in a few launches; see trainers/optimizer.h for the formulas.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// One parameter. All pointers are device pointers to n floats but for what is said.
struct ParameterUpdate {
  float* parameter = nullptr;
  const float* gradient = nullptr;
  float* first = nullptr;   // sgd: the momentum; adam: exp_avg. 0 before the first update. Null: sgd without momentum
  float* second = nullptr;  // adam: exp_avg_sq
  int64_t n = 0;
  int32_t rate = 0;  // which of the learning rates
  float weight_decay = 0;
  float lowest = 0, highest = 0;  // the parameter is clipped to them afterwards where lowest < highest
};

/// Work for the kernels below: at most kUpdatePiece elements of a parameter.
struct UpdatePiece {
  int32_t parameter = 0;
  int64_t begin = 0;
};
inline constexpr int64_t kUpdatePiece = 4096;

/// A list on the device: updates [count] and the pieces that they are cut into, in order.
struct UpdateList {
  const ParameterUpdate* updates = nullptr;
  const UpdatePiece* pieces = nullptr;
  int64_t count = 0, piece_count = 0;
};

/// Of all gradients: sets failed [1] to 1 where a value is not finite, and writes the 2-norm of all of them to norm [1]
/// (summed in double in a fixed order), after clipping as in GradientClipping. scratch: 8 bytes a piece.
void measure_gradients(const UpdateList& list, float clip_value, double* norm, int32_t* failed, void* scratch,
                       cudaStream_t stream);

/// What is done to a gradient before the update. clip_value: to [-clip_value, clip_value], 0: off. max_norm: times
/// float(max_norm / (norm + 1e-6)) where that is below 1, 0: off. The former comes first; norm [1] is that of the
/// gradients as they are then: measure_gradients takes the same clip_value.
struct GradientClipping {
  float clip_value = 0;
  double max_norm = 0;
  const double* norm = nullptr;
};

struct SgdOptions {
  float momentum = 0;
  bool nesterov = false;
};

/// core/ops' sgd_step. rates: learning rates on the device. Nothing is done where *failed is not 0.
void sgd(const UpdateList& list, const SgdOptions& options, const GradientClipping& clipping, const float* rates,
         const int32_t* failed, cudaStream_t stream);

/// corrections on the device, for each learning rate two: 1 - beta1^t and sqrt(1 - beta2^t). decoupled: adamw. As
/// LibTorch's adam, but for the last bits.
struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  bool decoupled = false;
};
void adam(const UpdateList& list, const AdamOptions& options, const GradientClipping& clipping, const float* rates,
          const double* corrections, const int32_t* failed, cudaStream_t stream);

}  // namespace qat::ops::cuda
