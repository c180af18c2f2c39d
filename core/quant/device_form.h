// What a GPU needs to train a quantizer by itself (core/device/training_step.h), as the quantizer's own tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "core/device/follow_rule.h"

namespace qat::quant {

/// How an observer's range follows the ends of batches.
struct RangeForm {
  device::FollowRule rule = device::FollowRule::kMovingAverage;
  double averaging = 0;
  bool starts_here = true;
  at::Tensor range;    // float64 [2]
  at::Tensor batches;  // int64 [1]
};

struct DeviceForm {
  bool follows_weight = false;     // the scale is that of the largest magnitude of the weight
  std::optional<RangeForm> range;  // of an activation, by the rule of the minmax quantizer
  // A learned scale is a parameter, and clipped to these after an update.
  double lowest_scale = 0, highest_scale = 0;
};

}  // namespace qat::quant
