// Channels of a map in another order or fewer of them, on the GPU: slices, shuffles and their gradients, which are the
// same with the inverse list.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// y[p][c] = from[c] < 0 ? 0 : x[p][from[c]]; x [pixels][x_channels], y [pixels][y_channels]. from [y_channels] is on
/// the device.
template <class T>  // uint8_t, float
void gather_channels(const T* x, int64_t pixels, int64_t x_channels, const int32_t* from, int64_t y_channels, T* y,
                     cudaStream_t stream);

}  // namespace qat::ops::cuda
