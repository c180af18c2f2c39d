// Pools on codes on the GPU; see core/ops/pool.h.
#pragma once

#include "core/ops/cuda/types.h"
#include "core/ops/pool.h"

namespace qat::ops::cuda {

/// winner may be null.
void max_pool(const PoolGeometry& g, const uint8_t* x, uint8_t* y, uint16_t* winner, cudaStream_t stream);

/// Every pixel collects from the windows that it won, in the CPU's order.
void max_pool_gradient(const PoolGeometry& g, const float* dy, const uint16_t* winner, float* dx, cudaStream_t stream);

/// scale_x, zero_x, scale_y [1]; inside may be null. A window of the whole map without padding is refused: it is a
/// global average pool, which needs memory for its sums.
void average_pool(const PoolGeometry& g, bool count_include_pad, const uint8_t* x, const float* scale_x,
                  const int32_t* zero_x, const float* scale_y, DeviceRange range, uint8_t* y, uint8_t* inside,
                  cudaStream_t stream);

/// Bytes of scratch memory that average_range and average_scale_gradient need; aligned to 16.
size_t average_scratch(const PoolGeometry& g);

/// ends [2] = smallest and largest mean, ops::average_range. There must be an output.
void average_range(const PoolGeometry& g, bool count_include_pad, const uint8_t* x, const float* scale_x,
                   const int32_t* zero_x, double* ends, void* scratch, cudaStream_t stream);

/// LSQ's gradient of the output scale (ops::ScaleGradient) with t = fl32(mean / scale_y), or global_average_codes' for
/// a window of the whole map; dy and y are of the output, inside may be null. ds [1], summed in double in a fixed
/// order.
void average_scale_gradient(const PoolGeometry& g, bool count_include_pad, const float* dy, const uint8_t* x,
                            const uint8_t* y, const uint8_t* inside, const float* scale_x, const int32_t* zero_x,
                            const float* scale_y, DeviceRange range, double* ds, void* scratch, cudaStream_t stream);

/// dx: every pixel adds (inside ? dy : 0) / n of the windows over it, rows then columns; n as in average_pool. inside
/// may be null.
void average_pool_gradient(const PoolGeometry& g, bool count_include_pad, const float* dy, const uint8_t* inside,
                           float* dx, cudaStream_t stream);

/// A global average pool in three steps, so that the range can follow in between. acc [batch][channels] = sum (q - z).
void global_average_sums(const uint8_t* x, int64_t batch, int64_t pixels, int64_t channels, const int32_t* zero_x,
                         int32_t* acc, cudaStream_t stream);

/// ends [2] = smallest and largest real value, ops::global_average_range: scale_x * acc / pixels in double.
void global_average_range(const int32_t* acc, int64_t batch, int64_t pixels, int64_t channels, const float* scale_x,
                          double* ends, cudaStream_t stream);

/// scale_x, scale_y [1]; inside may be null.
void global_average_codes(const int32_t* acc, int64_t batch, int64_t pixels, int64_t channels, const float* scale_x,
                          const float* scale_y, DeviceRange range, uint8_t* y, uint8_t* inside, cudaStream_t stream);

/// LSQ's gradient of the output scale (ops::ScaleGradient) with t = fl32(float(acc) * multiplier) of
/// global_average_codes; ds [1], summed in double in a fixed order.
void global_average_scale_gradient(const float* g, const int32_t* acc, const uint8_t* y, const uint8_t* inside,
                                   int64_t batch, int64_t pixels, int64_t channels, const float* scale_x,
                                   const float* scale_y, DeviceRange range, double* ds, cudaStream_t stream);

/// dx [batch][pixels][channels]: every pixel gets float(inside ? g : 0) / float(pixels) of its channel's g
/// [batch][channels].
void global_average_pool_gradient(const float* g, const uint8_t* inside, int64_t batch, int64_t pixels,
                                  int64_t channels, float* dx, cudaStream_t stream);

}  // namespace qat::ops::cuda
