#include "core/ops/convolve.h"

namespace qat::ops {

template <class Code>
void convolve_reference(const ConvGeometry& g, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc) {
  const int64_t group_in = g.in_c / g.groups, group_out = g.out_c / g.groups;
  const int64_t out_h = g.out_h(), out_w = g.out_w();
  for (int64_t row = 0; row < g.rows(); ++row) {
    const int64_t n = row / (out_h * out_w), oh = row / out_w % out_h, ow = row % out_w;
    for (int64_t co = 0; co < g.out_c; ++co) {
      uint32_t sum = 0;  // unsigned: wraps modulo 2^32 by definition
      for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
        const int64_t ih = oh * g.stride_h - g.pad_top + kh * g.dilation_h;
        if (ih < 0 || ih >= g.in_h) continue;
        for (int64_t kw = 0; kw < g.kernel_w; ++kw) {
          const int64_t iw = ow * g.stride_w - g.pad_left + kw * g.dilation_w;
          if (iw < 0 || iw >= g.in_w) continue;
          const Code* pixel = x + ((n * g.in_h + ih) * g.in_w + iw) * g.in_c + co / group_out * group_in;
          const int16_t* weight = w + ((co * g.kernel_h + kh) * g.kernel_w + kw) * group_in;
          for (int64_t c = 0; c < group_in; ++c) sum += static_cast<uint32_t>((pixel[c] - zero_point) * weight[c]);
        }
      }
      acc[row * g.out_c + co] = static_cast<int32_t>(sum);
    }
  }
}

template void convolve_reference<uint8_t>(const ConvGeometry&, const uint8_t*, int32_t, const int16_t*, int32_t*);
template void convolve_reference<int8_t>(const ConvGeometry&, const int8_t*, int32_t, const int16_t*, int32_t*);

}  // namespace qat::ops
