// Top-1, top-5 and loss of a network on the evaluation split, by any of its three runtimes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "trainers/session.h"

namespace qat::trainers {

struct Evaluation {
  int64_t samples = 0;
  int64_t top1 = 0, top5 = 0;  // correct samples
  double loss = 0;             // mean cross-entropy

  double top1_fraction() const { return samples > 0 ? static_cast<double>(top1) / static_cast<double>(samples) : 0; }
  double top5_fraction() const { return samples > 0 ? static_cast<double>(top5) / static_cast<double>(samples) : 0; }
};

enum class Runtime {
  kFloat,      // the float network
  kSimulated,  // the quantized network in LibTorch
  kInteger,    // the lowered network by the integer engine
};
const char* to_string(Runtime runtime);

/// Evaluates all samples. Modules come back in evaluation mode; no parameter or buffer changes.
/// Throws Interrupted when `stop` is set, qat::Error for a runtime that the session has no network for.
Evaluation evaluate(Session& session, Runtime runtime, StopFlag stop = nullptr);

}  // namespace qat::trainers
