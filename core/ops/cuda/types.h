// What the CUDA kernels share. Pointers are device pointers, feature maps are NHWC, activations are uint8 codes and
// weights int8 codes with zero point 0. A function only puts work into the stream: it never waits for the GPU. Scales
// and zero points that training changes are arrays of one element on the device for the same reason.
//
// Results are those of the functions of the same names in core/ops, bit for bit, their sums' fixed orders included; the
// formulas are written there. Not covered: NaN and infinities in what core/ops sums.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/ops/types.h"

namespace qat::ops::cuda {

/// Codes of an output tensor; the zero point is on the device and lies in [0, 255].
struct DeviceRange {
  int32_t lo = 0;
  int32_t hi = 255;
  const int32_t* zero_point = nullptr;  // [1]
};

}  // namespace qat::ops::cuda
