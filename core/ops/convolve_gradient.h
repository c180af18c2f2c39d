// Gradients of a convolution of codes: float32 sums in a fixed order, which depends neither on the number of threads
// nor, on machines with a fused multiply-add, on the width of vectors.
#pragma once

#include <cstdint>

#include "core/ops/types.h"

namespace qat::ops {

/// dw[co][kh][kw][ci / groups] = factor[co] * sum over rows of g[row][co] * (x - zero_point); a padded pixel adds 0.
///   x  NHWC codes; g  float32 [rows][out_c]
/// No float copy of the input exists: codes are converted some rows at a time.
/// Throws qat::Error for groups that are neither 1 nor (depthwise) the channels of both sides.
template <class Code>
void weight_gradient(const ConvGeometry& g, const Code* x, int32_t zero_point, const float* grad, const float* factor,
                     float* dw);

/// dx[n][ih][iw][ci] = sum of g[row][co] * fl32(scale[co] * w[co][kh][kw][ci / groups]) over all outputs that read it.
///   w  int8 [co][kh][kw][ci / groups]
/// Throws qat::Error as weight_gradient().
void input_gradient(const ConvGeometry& g, const float* grad, const int8_t* w, const float* scale, float* dx);

/// Whether both of the above take such groups.
inline bool has_gradients(const ConvGeometry& g) {
  return g.groups == 1 || (g.groups == g.in_c && g.groups == g.out_c);
}

}  // namespace qat::ops
