// Float <-> code on the GPU; see core/ops/encode.h.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// scale [1]. inside may be null.
void encode(const float* x, int64_t n, const float* scale, DeviceRange range, uint8_t* codes, uint8_t* inside,
            cudaStream_t stream);

/// scale [1], zero_point [1].
void dequantize(const uint8_t* codes, int64_t n, const float* scale, const int32_t* zero_point, float* x,
                cudaStream_t stream);

}  // namespace qat::ops::cuda
