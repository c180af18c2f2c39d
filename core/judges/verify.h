// verify: does the exported file compute the codes that training simulated, every one of them?
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/graph/graph_module.h"
#include "core/integer/integer_model.h"

namespace qat::judges {

struct TensorResult {
  std::string name;
  int64_t compared = 0;
  int64_t mismatches = 0;
  double max_difference = 0;  // in codes; for float tensors in values
};

struct JudgeResult {
  std::string name;  // "engine"
  int64_t compared = 0;
  int64_t mismatches = 0;
  std::vector<TensorResult> tensors;
};

struct VerifyResult {
  int64_t samples = 0;
  int64_t compared = 0;
  int64_t mismatches = 0;
  std::vector<std::string> skipped;  // tensors that only one side has
  std::vector<JudgeResult> judges;
  int64_t simulated_top1 = 0, integer_top1 = 0;  // correct samples of each side

  bool passed() const { return mismatches == 0 && skipped.empty() && compared > 0; }
};

/// A batch for both sides: NHWC float32 images and their labels; returns false at the end.
struct VerifyBatch {
  int64_t size = 0;
  const float* images = nullptr;
  const int64_t* labels = nullptr;
};
using BatchSource = std::function<bool(VerifyBatch&)>;

/// Runs the simulation (net in evaluation; its phase must be kLive or kFrozen) and the engine on `file_model`, as read
/// back from the exported file, over all batches and counts differing values tensor by tensor. Float tensors must be
/// equal bit for bit. A tensor that only one side has is listed in skipped.
VerifyResult verify(graph::GraphModule& net, const integer::IntegerModel& file_model, const BatchSource& batches);

}  // namespace qat::judges
