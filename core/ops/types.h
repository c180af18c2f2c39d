// Shapes and code ranges shared by all kernels. Kernels take raw pointers; feature maps are NHWC.
#pragma once

#include <cstdint>

namespace qat::ops {

/// Codes of an output tensor: they lie in [lo, hi], zero_point stands for 0.0.
struct CodeRange {
  int32_t lo = 0;
  int32_t hi = 255;
  int32_t zero_point = 0;
};

/// A 2-D convolution; a linear layer is a 1x1 convolution of a 1x1 map.
struct ConvGeometry {
  int64_t batch = 1;
  int64_t in_h = 1, in_w = 1, in_c = 1, out_c = 1;
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t groups = 1;

  int64_t out_h() const { return (in_h + pad_top + pad_bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1; }
  int64_t out_w() const { return (in_w + pad_left + pad_right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
  /// Rows of the accumulator matrix [rows, out_c].
  int64_t rows() const { return batch * out_h() * out_w(); }
  /// Products summed for one output.
  int64_t depth() const { return kernel_h * kernel_w * (in_c / groups); }
};

}  // namespace qat::ops
