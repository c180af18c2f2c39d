// Pools on codes on the GPU; see core/ops/pool.h.
#pragma once

#include "core/ops/cuda/types.h"
#include "core/ops/pool.h"

namespace qat::ops::cuda {

/// winner may be null.
void max_pool(const PoolGeometry& g, const uint8_t* x, uint8_t* y, uint16_t* winner, cudaStream_t stream);

/// Every pixel collects from the windows that it won, in the CPU's order.
void max_pool_gradient(const PoolGeometry& g, const float* dy, const uint16_t* winner, float* dx, cudaStream_t stream);

/// scale_x, zero_x, scale_y [1]; inside may be null. A window of the whole map without padding is refused: it is
/// global_average_pool's, which needs memory for its sums.
void average_pool(const PoolGeometry& g, bool count_include_pad, const uint8_t* x, const float* scale_x,
                  const int32_t* zero_x, const float* scale_y, DeviceRange range, uint8_t* y, uint8_t* inside,
                  cudaStream_t stream);

/// acc [batch][channels] is needed. scale_x, zero_x, scale_y [1]; inside may be null.
void global_average_pool(const uint8_t* x, int64_t batch, int64_t pixels, int64_t channels, const float* scale_x,
                         const int32_t* zero_x, const float* scale_y, DeviceRange range, uint8_t* y, int32_t* acc,
                         uint8_t* inside, cudaStream_t stream);

}  // namespace qat::ops::cuda
