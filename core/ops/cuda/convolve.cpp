#include "core/ops/cuda/convolve.h"

#include "core/base/error.h"
#include "core/ops/cuda/convolve_kernels.h"

namespace qat::ops::cuda {
namespace kernels {

void check(const char* kernel, const ConvGeometry& g) {
  QAT_CHECK(g.batch >= 0 && g.in_h > 0 && g.in_w > 0 && g.in_c > 0 && g.out_c > 0 && g.kernel_h > 0 && g.kernel_w > 0 &&
                g.stride_h > 0 && g.stride_w > 0 && g.dilation_h > 0 && g.dilation_w > 0 && g.groups > 0 &&
                g.pad_top >= 0 && g.pad_left >= 0 && g.pad_bottom >= 0 && g.pad_right >= 0,
            "{}: sizes, strides and dilations must be positive, paddings not negative; found input {}x{}x{}x{}, "
            "{} outputs, kernel {}x{}, stride {}x{}, dilation {}x{}, {} groups",
            kernel, g.batch, g.in_h, g.in_w, g.in_c, g.out_c, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w,
            g.dilation_h, g.dilation_w, g.groups);
  QAT_CHECK(g.in_c % g.groups == 0 && g.out_c % g.groups == 0,
            "{}: {} input and {} output channels must be multiples of the {} groups", kernel, g.in_c, g.out_c,
            g.groups);
  QAT_CHECK(g.in_h + g.pad_top + g.pad_bottom > g.dilation_h * (g.kernel_h - 1) &&
                g.in_w + g.pad_left + g.pad_right > g.dilation_w * (g.kernel_w - 1),
            "{}: the {}x{} kernel (dilation {}x{}) is larger than the padded {}x{} input", kernel, g.kernel_h,
            g.kernel_w, g.dilation_h, g.dilation_w, g.in_h + g.pad_top + g.pad_bottom,
            g.in_w + g.pad_left + g.pad_right);
  // The kernels count pixels, and the bytes of one padded image, in 32 bits.
  constexpr int64_t kLimit = int64_t{1} << 30;
  const int64_t height = g.in_h + g.pad_top + g.pad_bottom, width = g.in_w + g.pad_left + g.pad_right;
  QAT_CHECK(g.rows() < kLimit && g.depth() < kLimit && g.out_c < kLimit && height < kLimit && width < kLimit / height &&
                g.in_c < kLimit / (height * width),
            "{}: {} output pixels of {} products, or images of {}x{}x{}, are too large for the GPU's kernels", kernel,
            g.rows(), g.depth(), height, width, g.in_c);
}

bool is_dense(const ConvGeometry& g) {
  constexpr int64_t kMaxKernel = 31;  // bits of a mask of taps
  return g.groups == 1 && g.kernel_h <= kMaxKernel && g.kernel_w <= kMaxKernel;
}

int processors() {
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

ConvShape::ConvShape(const ConvGeometry& g)
    : batch(static_cast<int>(g.batch)),
      in_h(static_cast<int>(g.in_h)),
      in_w(static_cast<int>(g.in_w)),
      in_c(static_cast<int>(g.in_c)),
      out_h(static_cast<int>(g.out_h())),
      out_w(static_cast<int>(g.out_w())),
      out_c(static_cast<int>(g.out_c)),
      kernel_h(static_cast<int>(g.kernel_h)),
      kernel_w(static_cast<int>(g.kernel_w)),
      stride_h(static_cast<int>(g.stride_h)),
      stride_w(static_cast<int>(g.stride_w)),
      pad_top(static_cast<int>(g.pad_top)),
      pad_left(static_cast<int>(g.pad_left)),
      dilation_h(static_cast<int>(g.dilation_h)),
      dilation_w(static_cast<int>(g.dilation_w)),
      groups(static_cast<int>(g.groups)),
      rows(static_cast<int>(g.rows())),
      depth(static_cast<int>(g.depth())) {}

}  // namespace kernels

void convolve(const ConvGeometry& g, const uint8_t* x, const int32_t* zero_point, const int8_t* w, int32_t* acc,
              const ChannelSums& sums, cudaStream_t stream) {
  kernels::check("convolve", g);
  require(sums.words == nullptr || sums.channels == g.out_c, "convolve", "the sums are not of the output's channels");
  if (g.batch == 0) return;
  const kernels::ConvShape shape(g);
  if (kernels::is_dense(g)) {
    kernels::convolve_dense(shape, x, zero_point, w, acc, sums, stream);
  } else {
    kernels::convolve_grouped(shape, x, zero_point, w, acc, stream);
    if (sums.words != nullptr) channel_statistics(acc, g.rows(), sums, stream);
  }
}

}  // namespace qat::ops::cuda
