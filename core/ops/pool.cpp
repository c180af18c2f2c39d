#include "core/ops/pool.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "core/base/error.h"
#include "core/ops/mask.h"
#include "core/ops/pieces.h"
#include "core/ops/round.h"

namespace qat::ops {
namespace {

int64_t output_size(int64_t in, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation,
                    bool ceil_mode) {
  const int64_t room = in + before + after - dilation * (kernel - 1) - 1;
  if (room < 0) return 0;
  int64_t out = (ceil_mode ? room + stride - 1 : room) / stride + 1;
  if (ceil_mode && (out - 1) * stride >= in + before) --out;
  return out;
}

/// Kernel positions [begin, end) that fall into the input, for the output at `out`.
struct Taps {
  int64_t origin, begin, end;
  Taps(int64_t out, int64_t stride, int64_t pad, int64_t kernel, int64_t dilation, int64_t in)
      : origin(out * stride - pad),
        begin(origin >= 0 ? 0 : (-origin + dilation - 1) / dilation),
        end(origin >= in ? 0 : std::min(kernel, (in - 1 - origin) / dilation + 1)) {}
  bool empty() const { return begin >= end; }
};

struct Window {
  Taps rows, columns;
  Window(const PoolGeometry& g, int64_t oh, int64_t ow)
      : rows(oh, g.stride_h, g.pad_top, g.kernel_h, g.dilation_h, g.in_h),
        columns(ow, g.stride_w, g.pad_left, g.kernel_w, g.dilation_w, g.in_w) {}
};

/// Channels whose sums are made at once, in memory of the stack.
constexpr int64_t kChannels = 256;

bool is_large(const PoolGeometry& g) {
  return g.batch * g.out_h() * g.out_w() * g.channels * g.kernel_h * g.kernel_w >= 16 * kPiece;
}

/// rne(clip(t, lo, hi)) as a code; its flag, where wanted, is lo <= t <= hi.
template <class Code>
void store(float t, float lo, float hi, int32_t offset, Code* y, uint8_t* flag) {
  *y = static_cast<Code>(static_cast<int32_t>(round_even(clip(t, lo, hi))) + offset);
  if (flag != nullptr) *flag = static_cast<uint8_t>((t >= lo) & (t <= hi));
}

void check_average(const PoolGeometry& g, const char* name) {
  QAT_CHECK(g.dilation_h == 1 && g.dilation_w == 1, "{}: dilation must be 1, found {}x{}", name, g.dilation_h,
            g.dilation_w);
  QAT_CHECK(g.pad_top < g.kernel_h && g.pad_bottom < g.kernel_h && g.pad_left < g.kernel_w && g.pad_right < g.kernel_w,
            "{}: padding must be smaller than the kernel ({}x{}), found [{}, {}, {}, {}]", name, g.kernel_h, g.kernel_w,
            g.pad_top, g.pad_left, g.pad_bottom, g.pad_right);
}

/// Calls take(row of the output, its first element, how many, their means) for channels of all windows, on all threads;
/// one thread takes a row.
template <class Code, class Take>
void for_means(const PoolGeometry& g, bool count_include_pad, const Code* x, float scale_x, int32_t zero_x,
               const Take& take) {
  const int64_t out_h = g.out_h(), out_w = g.out_w(), channels = g.channels;
#pragma omp parallel for schedule(static) if (is_large(g))
  for (int64_t row = 0; row < g.batch * out_h; ++row) {
    const int64_t n = row / out_h, oh = row % out_h;
    for (int64_t ow = 0; ow < out_w; ++ow) {
      const Window w(g, oh, ow);
      const int64_t valid = (w.rows.end - w.rows.begin) * (w.columns.end - w.columns.begin);
      const auto count = static_cast<float>(count_include_pad ? g.kernel_h * g.kernel_w : valid);
      for (int64_t first = 0; first < channels; first += kChannels) {
        const int64_t width = std::min(kChannels, channels - first);
        std::array<float, kChannels> mean;
        std::fill_n(mean.begin(), width, 0.0f);
        for (int64_t kh = w.rows.begin; kh < w.rows.end; ++kh) {
          for (int64_t kw = w.columns.begin; kw < w.columns.end; ++kw) {
            const int64_t ih = w.rows.origin + kh, iw = w.columns.origin + kw;
            const Code* pixel = x + ((n * g.in_h + ih) * g.in_w + iw) * channels + first;
            for (int64_t c = 0; c < width; ++c) mean[c] += scale_x * static_cast<float>(pixel[c] - zero_x);
          }
        }
        for (int64_t c = 0; c < width; ++c) mean[c] /= count;
        take(row, (row * out_w + ow) * channels + first, width, mean.data());
      }
    }
  }
}

/// Calls take(sample * channels + channel, sum of q - z) for all samples and channels, on all threads.
template <class Code, class Take>
void for_channel_sums(const Code* x, int64_t batch, int64_t pixels, int64_t channels, int32_t zero_x,
                      const Take& take) {
  const int64_t parts = (channels + kChannels - 1) / kChannels;
#pragma omp parallel for schedule(static) if (batch * pixels * channels >= 16 * kPiece)
  for (int64_t part = 0; part < batch * parts; ++part) {
    const int64_t n = part / parts, first = part % parts * kChannels, width = std::min(kChannels, channels - first);
    std::array<int32_t, kChannels> sum;
    std::fill_n(sum.begin(), width, 0);
    for (int64_t p = 0; p < pixels; ++p) {
      const Code* pixel = x + (n * pixels + p) * channels + first;
      for (int64_t c = 0; c < width; ++c) sum[c] += pixel[c] - zero_x;
    }
    for (int64_t c = 0; c < width; ++c) take(n * channels + first + c, sum[c]);
  }
}

}  // namespace

int64_t PoolGeometry::out_h() const {
  return output_size(in_h, kernel_h, stride_h, pad_top, pad_bottom, dilation_h, ceil_mode);
}
int64_t PoolGeometry::out_w() const {
  return output_size(in_w, kernel_w, stride_w, pad_left, pad_right, dilation_w, ceil_mode);
}

template <class Code>
void max_pool(const PoolGeometry& g, const Code* x, Code* y, uint16_t* winner) {
  QAT_CHECK(winner == nullptr || g.kernel_h * g.kernel_w <= 65536,
            "max_pool: a kernel of {}x{} has more pixels than a winner's index can name (65536)", g.kernel_h,
            g.kernel_w);
  const int64_t out_h = g.out_h(), out_w = g.out_w(), channels = g.channels;
#pragma omp parallel for schedule(static) if (is_large(g))
  for (int64_t row = 0; row < g.batch * out_h; ++row) {
    const int64_t n = row / out_h, oh = row % out_h;
    for (int64_t ow = 0; ow < out_w; ++ow) {
      const Window w(g, oh, ow);
      Code* best = y + (row * out_w + ow) * channels;
      uint16_t* index = winner == nullptr ? nullptr : winner + (row * out_w + ow) * channels;
      // A window of padding alone (only a dilated one can be) gives the lowest code.
      std::fill_n(best, channels, std::numeric_limits<Code>::lowest());
      const auto first =
          static_cast<uint16_t>(w.rows.empty() || w.columns.empty() ? 0 : w.rows.begin * g.kernel_w + w.columns.begin);
      if (index != nullptr) std::fill_n(index, channels, first);
      for (int64_t kh = w.rows.begin; kh < w.rows.end; ++kh) {
        for (int64_t kw = w.columns.begin; kw < w.columns.end; ++kw) {
          const int64_t ih = w.rows.origin + kh * g.dilation_h, iw = w.columns.origin + kw * g.dilation_w;
          const Code* pixel = x + ((n * g.in_h + ih) * g.in_w + iw) * channels;
          if (index == nullptr) {
            for (int64_t c = 0; c < channels; ++c) best[c] = std::max(best[c], pixel[c]);
            continue;
          }
          const auto tap = static_cast<uint16_t>(kh * g.kernel_w + kw);
          for (int64_t c = 0; c < channels; ++c) {
            const bool greater = pixel[c] > best[c];
            best[c] = greater ? pixel[c] : best[c];
            index[c] = greater ? tap : index[c];
          }
        }
      }
    }
  }
}

void max_pool_gradient(const PoolGeometry& g, const float* dy, const uint16_t* winner, float* dx) {
  const int64_t out_h = g.out_h(), out_w = g.out_w(), channels = g.channels;
  const int64_t map = g.in_h * g.in_w * channels;
#pragma omp parallel for schedule(static) if (is_large(g))
  for (int64_t n = 0; n < g.batch; ++n) {
    std::fill_n(dx + n * map, map, 0.0f);
    for (int64_t oh = 0; oh < out_h; ++oh) {
      for (int64_t ow = 0; ow < out_w; ++ow) {
        const int64_t at = ((n * out_h + oh) * out_w + ow) * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t ih = oh * g.stride_h - g.pad_top + winner[at + c] / g.kernel_w * g.dilation_h;
          const int64_t iw = ow * g.stride_w - g.pad_left + winner[at + c] % g.kernel_w * g.dilation_w;
          if (ih < 0 || ih >= g.in_h || iw < 0 || iw >= g.in_w) continue;  // a window of padding alone
          dx[n * map + (ih * g.in_w + iw) * channels + c] += dy[at + c];
        }
      }
    }
  }
}

template <class Code>
void average_pool(const PoolGeometry& g, bool count_include_pad, const Code* x, float scale_x, int32_t zero_x,
                  float scale_y, CodeRange range, Code* y, uint8_t* inside) {
  check_average(g, "average_pool");
  if (g.is_whole_map()) {
    return global_average_pool(x, g.batch, g.in_h * g.in_w, g.channels, scale_x, zero_x, scale_y, range, y, nullptr,
                               inside);
  }
  const int64_t n = g.batch * g.out_h() * g.out_w() * g.channels;
  const auto lo = static_cast<float>(range.lo), hi = static_cast<float>(range.hi);
  const auto zero_y = static_cast<float>(range.zero_point);
  std::vector<uint8_t> flags(inside == nullptr ? 0 : n);
  for_means(g, count_include_pad, x, scale_x, zero_x, [&](int64_t, int64_t at, int64_t width, const float* mean) {
    for (int64_t c = 0; c < width; ++c) {
      const float scaled = mean[c] / scale_y;
      store(scaled + zero_y, lo, hi, 0, y + at + c, inside == nullptr ? nullptr : &flags[at + c]);
    }
  });
  if (inside != nullptr) pack_mask(flags.data(), n, inside);
}

template <class Code>
std::pair<double, double> average_range(const PoolGeometry& g, bool count_include_pad, const Code* x, float scale_x,
                                        int32_t zero_x) {
  check_average(g, "average_range");
  const int64_t rows = g.batch * g.out_h();
  QAT_CHECK(rows * g.out_w() * g.channels > 0, "average_range: no elements have no range");
  if (g.is_whole_map()) return global_average_range(x, g.batch, g.in_h * g.in_w, g.channels, scale_x, zero_x);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> least(rows, kInfinity), most(rows, -kInfinity);
  for_means(g, count_include_pad, x, scale_x, zero_x, [&](int64_t row, int64_t, int64_t width, const float* mean) {
    const auto [lo, hi] = std::minmax_element(mean, mean + width);
    least[row] = std::min(least[row], *lo);
    most[row] = std::max(most[row], *hi);
  });
  return {std::ranges::min(least), std::ranges::max(most)};
}

template <class Code>
void global_average_pool(const Code* x, int64_t batch, int64_t pixels, int64_t channels, float scale_x, int32_t zero_x,
                         float scale_y, CodeRange range, Code* y, int32_t* acc, uint8_t* inside) {
  const float scaled_pixels = scale_y * static_cast<float>(pixels);
  const float multiplier = scale_x / scaled_pixels;
  const auto lo = static_cast<float>(range.lo - range.zero_point), hi = static_cast<float>(range.hi - range.zero_point);
  std::vector<uint8_t> flags(inside == nullptr ? 0 : batch * channels);
  for_channel_sums(x, batch, pixels, channels, zero_x, [&](int64_t at, int32_t sum) {
    if (acc != nullptr) acc[at] = sum;
    store(static_cast<float>(sum) * multiplier, lo, hi, range.zero_point, y + at,
          inside == nullptr ? nullptr : &flags[at]);
  });
  if (inside != nullptr) pack_mask(flags.data(), batch * channels, inside);
}

template <class Code>
std::pair<double, double> global_average_range(const Code* x, int64_t batch, int64_t pixels, int64_t channels,
                                               float scale_x, int32_t zero_x) {
  std::vector<int32_t> sums(batch * channels);
  for_channel_sums(x, batch, pixels, channels, zero_x, [&](int64_t at, int32_t sum) { sums[at] = sum; });
  const auto [least, most] = std::ranges::minmax(sums);
  const auto real = [&](int32_t sum) { return static_cast<double>(scale_x) * sum / static_cast<double>(pixels); };
  return {real(least), real(most)};
}

#define QAT_INSTANTIATE(Code)                                                                                       \
  template void max_pool<Code>(const PoolGeometry&, const Code*, Code*, uint16_t*);                                 \
  template void average_pool<Code>(const PoolGeometry&, bool, const Code*, float, int32_t, float, CodeRange, Code*, \
                                   uint8_t*);                                                                       \
  template std::pair<double, double> average_range<Code>(const PoolGeometry&, bool, const Code*, float, int32_t);   \
  template void global_average_pool<Code>(const Code*, int64_t, int64_t, int64_t, float, int32_t, float, CodeRange, \
                                          Code*, int32_t*, uint8_t*);                                               \
  template std::pair<double, double> global_average_range<Code>(const Code*, int64_t, int64_t, int64_t, float, int32_t);
QAT_INSTANTIATE(uint8_t)
QAT_INSTANTIATE(int8_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
