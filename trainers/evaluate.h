// Top-1, top-5 and loss of a network on the evaluation split, by any of its three runtimes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "core/judges/score.h"
#include "trainers/session.h"

namespace qat::trainers {

using Evaluation = judges::Score;

enum class Runtime {
  kFloat,      // the float network
  kSimulated,  // the quantized network in LibTorch
  kInteger,    // the lowered network by the integer engine
};
const char* to_string(Runtime runtime);

/// Evaluates all samples. Modules come back in evaluation mode; no parameter or buffer changes.
/// Throws Interrupted when `stop` is set, qat::Error for a runtime that the session has no network for.
Evaluation evaluate(Session& session, Runtime runtime, StopFlag stop = nullptr);

/// Milliseconds for one image: the median of some runs, after one that is not counted.
double latency_ms(Session& session, Runtime runtime);

}  // namespace qat::trainers
