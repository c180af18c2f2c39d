// What makes a transposed convolution an ordinary one of stride 1: zeros between the pixels of its input.
#pragma once

#include <cstdint>

namespace qat::ops {

/// NHWC maps. A negative padding takes rows or columns away.
struct SpreadGeometry {
  int64_t batch = 1, in_h = 1, in_w = 1, channels = 1;
  int64_t step_h = 1, step_w = 1;  // at least 1
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;

  int64_t out_h() const { return (in_h - 1) * step_h + 1 + pad_top + pad_bottom; }
  int64_t out_w() const { return (in_w - 1) * step_w + 1 + pad_left + pad_right; }
  bool operator==(const SpreadGeometry&) const = default;
};

/// y[n][r * step_h + pad_top][c * step_w + pad_left] = x[n][r][c] where that is a pixel of y; all others hold `fill`.
template <class Code>
void spread(const SpreadGeometry& g, const Code* x, Code fill, Code* y);

}  // namespace qat::ops
