#include "core/nn/oscillation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

namespace qat::nn {

OscillationTracker::OscillationTracker(const std::vector<int64_t>& sizes)
    : started_(register_buffer("started", at::zeros({1}, at::kBool))),
      frozen_(register_buffer("frozen", at::zeros(sizes, at::kBool))),
      kept_(register_buffer("kept", at::zeros(sizes, at::kChar))),
      previous_(register_buffer("previous", at::zeros(sizes, at::kChar))),
      direction_(register_buffer("direction", at::zeros(sizes, at::kChar))),
      frequency_(register_buffer("frequency", at::zeros(sizes, at::kFloat))),
      average_(register_buffer("average", at::zeros(sizes, at::kFloat))) {}

void OscillationTracker::update(const at::Tensor& codes, double threshold, double momentum) {
  const at::NoGradGuard no_grad;
  if (!*started_.const_data_ptr<bool>()) {
    started_.fill_(true);
    previous_.copy_(codes);
    average_.copy_(codes);
    return;
  }
  const at::Tensor now = at::where(frozen_, kept_, codes);
  // Codes differ by up to 254: their difference does not fit int8.
  const at::Tensor change = (now.to(at::kShort) - previous_).sign().to(at::kChar), changed = change.ne(0);
  const at::Tensor oscillates = (change * direction_).eq(-1);
  frequency_.mul_(1 - momentum).add_(oscillates, momentum);
  const at::Tensor freezes = frequency_.gt(threshold).logical_and(frozen_.logical_not());
  kept_.copy_(at::where(freezes, average_.round().to(at::kChar), kept_));
  frozen_.logical_or_(freezes);
  direction_.copy_(at::where(changed, change, direction_));
  previous_.copy_(at::where(frozen_, kept_, now));
  average_.mul_(1 - momentum).add_(now, momentum);
}

}  // namespace qat::nn
