// Errors of the CUDA kernels, kept out of what nvcc compiles. Internal to core/ops/cuda.
#pragma once

#include <cstdint>

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// Throws qat::Error "<kernel>: <expectation>" unless the condition holds.
void require(bool condition, const char* kernel, const char* expectation);

/// Codes [lo, hi] must fit uint8.
void require_codes(const DeviceRange& range, const char* kernel);

/// Throws qat::Error with CUDA's words if the launch before it, or earlier work of this thread, failed.
void check_launch(const char* kernel);

/// Whether the GPU can begin a kernel before the one ahead of it has ended, and the kernels were compiled to wait for
/// it: both take compute capability 9.0. (device.cu)
bool launches_early();

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace qat::ops::cuda
