// Geometries of convolutions for the tests of the CUDA kernels.
#pragma once

#include <fmt/format.h>

#include <string>

#include "core/ops/types.h"

namespace qat::ops::cuda {

inline ConvGeometry square(int64_t batch, int64_t size, int64_t in_c, int64_t out_c, int64_t kernel, int64_t stride,
                           int64_t pad, int64_t groups = 1) {
  return {.batch = batch,
          .in_h = size,
          .in_w = size,
          .in_c = in_c,
          .out_c = out_c,
          .kernel_h = kernel,
          .kernel_w = kernel,
          .stride_h = stride,
          .stride_w = stride,
          .pad_top = pad,
          .pad_left = pad,
          .pad_bottom = pad,
          .pad_right = pad,
          .groups = groups};
}

inline std::string describe(const ConvGeometry& g) {
  return fmt::format("input {}x{}x{}x{} outputs {} kernel {}x{} stride {}x{} pads {},{},{},{} dilation {}x{} groups {}",
                     g.batch, g.in_h, g.in_w, g.in_c, g.out_c, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w,
                     g.pad_top, g.pad_left, g.pad_bottom, g.pad_right, g.dilation_h, g.dilation_w, g.groups);
}

}  // namespace qat::ops::cuda
