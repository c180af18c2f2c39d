// Gradients of 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308): 16
// products for four outputs in place of 36. Internal to core/ops; convolve_gradient.h chooses.
//
//   B^T = |1 0 -1 0|0 1 1 0|0 -1 1 0|0 1 0 -1|   A^T = |1 1 1 0|0 1 -1 -1|   G = |1 0 0|1/2 1/2 1/2|1/2 -1/2 1/2|0 0 1|
//   dx = A^T [(G w' G^T) * (B^T dy B)] A      w' turned by half a turn; sums over output channels
//   dw = G^T [(A dy A^T) * (B^T x B)] G       sums over tiles
// The sums of the 16 products are matrix products in a fixed order.
#pragma once

#include <cstdint>

#include "core/ops/types.h"

namespace qat::ops::winograd {

/// 3x3, padding 1, no stride, dilation or groups, and enough channels and tiles to pay for the transforms.
bool serves(const ConvGeometry& g);

/// As the functions of convolve_gradient.h.
void input_gradient(const ConvGeometry& g, const float* grad, const int8_t* w, const float* scale, float* dx);
template <class Code>
void weight_gradient(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad, const float* factor,
                     float* dw);

}  // namespace qat::ops::winograd
