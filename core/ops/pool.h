// Pools on codes, NHWC.
#pragma once

#include <cstdint>
#include <utility>

#include "core/ops/types.h"

namespace qat::ops {

struct PoolGeometry {
  int64_t batch = 1, in_h = 1, in_w = 1, channels = 1;
  int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int64_t dilation_h = 1, dilation_w = 1;  // max pool only
  bool ceil_mode = false;

  /// With ceil_mode: ceil, minus one where the last window would start past the input and its leading padding.
  int64_t out_h() const;
  int64_t out_w() const;
  /// A window of the whole map without padding: a global average pool.
  bool is_whole_map() const {
    return kernel_h == in_h && kernel_w == in_w && pad_top + pad_left + pad_bottom + pad_right == 0;
  }
};

/// First maximum in row-major window order; padding never wins. winner (optional) [batch][out_h][out_w][channels]:
/// index kh * kernel_w + kw of the winning pixel.
template <class Code>
void max_pool(const PoolGeometry& g, const Code* x, Code* y, uint16_t* winner = nullptr);

/// dx (zeroed by the callee) gets dy at each window's winner; fixed order.
void max_pool_gradient(const PoolGeometry& g, const float* dy, const uint16_t* winner, float* dx);

/// v = float sum of fl32(s_x * float(q - z_x)) over the valid pixels, rows then columns, rounded at each addition;
/// v = fl32(v / float(n)); y = clip(rne(fl32(fl32(v / s_y) + z_y)), lo, hi). n = number of valid pixels, or
/// kernel_h * kernel_w with count_include_pad (also where ceil mode lets the window run past the padded input).
/// A window of the whole map without padding is a global average pool, in its arithmetic: so the runtime has it.
/// inside (optional): lo <= value <= hi before rounding.
template <class Code>
void average_pool(const PoolGeometry& g, bool count_include_pad, const Code* x, float scale_x, int32_t zero_x,
                  float scale_y, CodeRange range, Code* y, uint8_t* inside = nullptr);

/// Smallest and largest mean v of average_pool, before the division by s_y; global_average_range where the window is of
/// the whole map without padding. There must be an output.
template <class Code>
std::pair<double, double> average_range(const PoolGeometry& g, bool count_include_pad, const Code* x, float scale_x,
                                        int32_t zero_x);

/// acc = sum (q - z_x) in int32; m = fl32(s_x / fl32(s_y * float(pixels))); y = rne(clip(fl32(float(acc) * m))) + z_y.
/// acc (optional) [batch][channels] keeps the sums. inside as above on t = float(acc) * m.
template <class Code>
void global_average_pool(const Code* x, int64_t batch, int64_t pixels, int64_t channels, float scale_x, int32_t zero_x,
                         float scale_y, CodeRange range, Code* y, int32_t* acc = nullptr, uint8_t* inside = nullptr);

/// Smallest and largest real value s_x * acc / pixels, in double, of a global average pool; batch * channels > 0.
template <class Code>
std::pair<double, double> global_average_range(const Code* x, int64_t batch, int64_t pixels, int64_t channels,
                                               float scale_x, int32_t zero_x);

}  // namespace qat::ops
