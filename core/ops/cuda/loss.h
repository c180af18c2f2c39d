// Cross-entropy of logits and its gradient on the GPU (torch.nn.functional.cross_entropy with label smoothing, mean
// over the batch), and what a progress line counts.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// Sums over batches since they were zeroed.
struct LossTotals {
  double loss = 0;      // times the samples
  int64_t correct = 0;  // whose largest logit (the first of equal ones) is the label's
  int64_t samples = 0;
  double last_loss = 0;  // of the last batch
};

/// Labels of samples, or mixed ones: share * loss(labels) + (1 - share) * loss(others).
struct Targets {
  const int64_t* labels = nullptr;  // [batch]
  const int64_t* others = nullptr;  // [batch]
  const float* share = nullptr;     // [1]: 1 where nothing is mixed, as without it
  double label_smoothing = 0;
};

/// Bytes of scratch memory that cross_entropy needs; aligned to 16.
size_t cross_entropy_scratch(int64_t batch);

/// logits [batch][classes]; gradient (of the mean) the same, or null; totals [1] are added to. failed [1] is set to 1
/// where the loss is not finite or a label is outside the classes. Sums in double, in a fixed order.
void cross_entropy(const float* logits, int64_t batch, int64_t classes, const Targets& targets, float* gradient,
                   LossTotals* totals, int32_t* failed, void* scratch, cudaStream_t stream);

}  // namespace qat::ops::cuda
