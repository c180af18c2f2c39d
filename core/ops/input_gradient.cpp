#include <omp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "core/base/error.h"
#include "core/ops/convolve_gradient.h"
#include "core/ops/gradient_kernels.h"
#include "core/ops/strips.h"
#include "core/ops/winograd.h"

namespace qat::ops {
namespace {

using kernels::kBlock;

/// Pixels that are worth a pass over the weights.
constexpr int64_t kJoinedPixels = 144;

/// The pixels of dx that lie `phase` behind a multiple of the stride, in one direction: every stride-th one, reading
/// neighbouring rows (or columns) of the gradient.
struct Phase {
  int64_t first = 0;             // in dx
  int64_t count = 0;             // of pixels
  std::vector<int64_t> taps;     // kernel taps that reach these pixels
  std::vector<int64_t> offsets;  // of the row that each reads, from that of pixel `first`
};

/// Output o reads input o * stride - pad + k * dilation: tap k reaches input i where i + pad - k * dilation is a
/// multiple of the stride.
std::vector<Phase> phases_of(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  std::vector<Phase> phases;
  for (int64_t first = 0; first < std::min(stride, in); ++first) {
    Phase phase{.first = first, .count = divide_up(in - first, stride), .taps = {}, .offsets = {}};
    for (int64_t k = 0; k < kernel; ++k) {
      const int64_t distance = first + pad - k * dilation;
      if (distance % stride != 0) continue;
      phase.taps.push_back(k);
      phase.offsets.push_back(distance / stride);
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

/// Weights of some taps as [blocks of kBlock input channels][taps][co][kBlock], times their scale.
AlignedVector<float> pack_weights(const ConvGeometry& g, const int8_t* w, const float* scale, const Phase& rows,
                                  const Phase& cols) {
  const auto taps = static_cast<int64_t>(rows.taps.size() * cols.taps.size());
  const int64_t blocks = divide_up(g.in_c, kBlock);
  AlignedVector<float> packed(static_cast<size_t>(blocks * taps * g.out_c * kBlock), 0.0f);
#pragma omp parallel for if (blocks * taps * g.out_c * kBlock >= kParallelProducts)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t count = std::min(kBlock, g.in_c - block * kBlock);
    float* out = packed.data() + block * taps * g.out_c * kBlock;
    for (const int64_t kh : rows.taps) {
      for (const int64_t kw : cols.taps) {
        for (int64_t co = 0; co < g.out_c; ++co, out += kBlock) {
          const int8_t* in = w + ((co * g.kernel_h + kh) * g.kernel_w + kw) * g.in_c + block * kBlock;
          for (int64_t c = 0; c < count; ++c) out[c] = scale[co] * static_cast<float>(in[c]);
        }
      }
    }
  }
  return packed;
}

/// One thread's gradient of some images with zeros around each.
class PaddedGradient {
 public:
  /// Rows [-above, out_h + below) and columns alike.
  PaddedGradient(const ConvGeometry& g, int64_t images, int64_t above, int64_t below, int64_t left, int64_t right)
      : g_(g),
        above_(above),
        left_(left),
        height_(g.out_h() + above + below),
        width_(g.out_w() + left + right),
        values_(static_cast<size_t>(images * height_ * width_ * g.out_c)) {
    // What load() does not write: all that lies between the ends of one row of the gradient and the start of the next.
    const int64_t line = g.out_w() * g.out_c;
    float* end = values_.data();
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t r = 0; r < g.out_h(); ++r) {
        float* row = values_.data() + ((n * height_ + r + above_) * width_ + left_) * g.out_c;
        std::fill(end, row, 0.0f);
        end = row + line;
      }
    }
    std::fill(end, values_.data() + values_.size(), 0.0f);
  }
  void load(const float* from, int64_t images) {
    const int64_t line = g_.out_w() * g_.out_c;
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t r = 0; r < g_.out_h(); ++r, from += line) {
        std::copy_n(from, line, values_.data() + ((n * height_ + r + above_) * width_ + left_) * g_.out_c);
      }
    }
  }
  const float* at(int64_t image, int64_t row, int64_t col) const {
    return values_.data() + ((image * height_ + row + above_) * width_ + col + left_) * g_.out_c;
  }
  int64_t width() const { return width_; }

 private:
  const ConvGeometry& g_;
  int64_t above_, left_, height_, width_;
  ScratchVector<float> values_;
};

/// Rows of the gradient that the phases read outside of it.
std::pair<int64_t, int64_t> margins(const std::vector<Phase>& phases, int64_t out) {
  int64_t before = 0, after = 0;
  for (const Phase& phase : phases) {
    for (const int64_t offset : phase.offsets) {
      before = std::max(before, -offset);
      after = std::max(after, offset + phase.count - out);
    }
  }
  return {before, after};
}

/// Channels that fill too little of a vector: there all weights of a pixel of the gradient take the channels' place.
constexpr int64_t kFewChannels = 4;

/// Every pixel of the gradient times all its weights, [kh][kw][ci], added to the pixels of dx that they reach.
void scatter_gradient(const ConvGeometry& g, const float* grad, const int8_t* w, const float* scale, float* dx) {
  const int64_t reach = g.kernel_h * g.kernel_w * g.in_c, run = g.kernel_w * g.in_c;
  const Phase all{.first = 0, .count = 1, .taps = {0}, .offsets = {0}};
  const ConvGeometry product{.in_c = reach, .out_c = g.out_c};
  const AlignedVector<float> weights = pack_weights(product, w, scale, all, all);
  const int64_t out_h = g.out_h(), out_w = g.out_w(), line = g.in_w * g.in_c, offset = 0;
#pragma omp parallel for schedule(dynamic) if (g.rows() * g.out_c * g.depth() >= kParallelProducts)
  for (int64_t n = 0; n < g.batch; ++n) {
    ScratchVector<float> row(static_cast<size_t>(out_w * reach));
    ScratchVector<const float*> pixels(static_cast<size_t>(out_w));
    ScratchVector<float*> out(static_cast<size_t>(out_w));
    float* image = dx + n * g.in_h * line;
    std::fill_n(image, g.in_h * line, 0.0f);
    for (int64_t y = 0; y < out_h; ++y) {
      for (int64_t x = 0; x < out_w; ++x) {
        pixels[x] = grad + ((n * out_h + y) * out_w + x) * g.out_c;
        out[x] = row.data() + x * reach;
      }
      kernels::multiply_inputs({.pixels = pixels.data(),
                                .pixel_count = out_w,
                                .tap_offset = &offset,
                                .taps = 1,
                                .depth = g.out_c,
                                .weights = weights.data(),
                                .channels = reach,
                                .out = out.data()});
      for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
        const int64_t to = y * g.stride_h - g.pad_top + kh * g.dilation_h;
        if (to < 0 || to >= g.in_h) continue;
        for (int64_t x = 0; x < out_w; ++x) {
          const float* from = row.data() + x * reach + kh * run;
          const int64_t at = (x * g.stride_w - g.pad_left) * g.in_c;
          const int64_t begin = std::max<int64_t>(0, -at), end = std::min(run, line - at);
          float* into = image + to * line + at;
          for (int64_t i = begin; i < end; ++i) into[i] += from[i];
        }
      }
    }
  }
}

}  // namespace

void input_gradient(const ConvGeometry& geometry, const float* grad, const int8_t* w, const float* scale, float* dx) {
  QAT_CHECK(has_gradients(geometry), "input_gradient: {} groups of {} inputs and {} outputs have no kernel",
            geometry.groups, geometry.in_c, geometry.out_c);
  if (winograd::serves(geometry)) {
    winograd::input_gradient(geometry, grad, w, scale, dx);
    return;
  }
  if (geometry.batch == 0) return;
  if (geometry.groups == 1 && geometry.in_c <= kFewChannels && geometry.kernel_w > 1 && geometry.dilation_w == 1) {
    scatter_gradient(geometry, grad, w, scale, dx);
    return;
  }
  const ConvGeometry g = flattened(geometry);
  const std::vector<Phase> rows = phases_of(g.in_h, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top),
                           cols = phases_of(g.in_w, g.kernel_w, g.stride_w, g.dilation_w, g.pad_left);
  const auto [above, below] = margins(rows, g.out_h());
  const auto [left, right] = margins(cols, g.out_w());
  const bool depthwise = g.groups > 1;

  struct Part {
    const Phase *rows, *cols;
    AlignedVector<float> weights;
  };
  std::vector<Part> parts;
  for (const Phase& r : rows) {
    for (const Phase& c : cols) {
      parts.push_back({&r, &c, {}});
      if (!depthwise) {
        parts.back().weights = pack_weights(g, w, scale, r, c);
        continue;
      }
      for (const int64_t kh : r.taps) {
        for (const int64_t kw : c.taps) {
          for (int64_t ch = 0; ch < g.in_c; ++ch) {
            parts.back().weights.push_back(scale[ch] * static_cast<float>(w[(ch * g.kernel_h + kh) * g.kernel_w + kw]));
          }
        }
      }
    }
  }
  // Small maps are joined: the weights are read once for all of them.
  const int64_t joined = std::clamp<int64_t>(kJoinedPixels * g.stride_h * g.stride_w / (g.in_h * g.in_w), 1,
                                             divide_up(g.batch, omp_get_max_threads()));
  const bool parallel = g.rows() * g.out_c * g.depth() >= kParallelProducts;
#pragma omp parallel if (parallel)
  {
    PaddedGradient padded(g, joined, above, below, left, right);
    std::vector<const float*> pixels;
    std::vector<float*> out;
    std::vector<int64_t> offset;
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < g.batch; n += joined) {
      const int64_t images = std::min(joined, g.batch - n);
      padded.load(grad + n * g.out_h() * g.out_w() * g.out_c, images);
      for (const Part& part : parts) {
        offset.clear();
        for (const int64_t r : part.rows->offsets) {
          for (const int64_t c : part.cols->offsets) offset.push_back((r * padded.width() + c) * g.out_c);
        }
        if (depthwise) {
          for (int64_t y = 0; y < images * part.rows->count; ++y) {
            const int64_t image = y / part.rows->count, row = y % part.rows->count;
            const int64_t to = (n + image) * g.in_h + part.rows->first + row * g.stride_h;
            kernels::multiply_depthwise_row({.g = padded.at(image, row, 0),
                                             .cols = part.cols->count,
                                             .channels = g.in_c,
                                             .tap_offset = offset.data(),
                                             .taps = static_cast<int64_t>(offset.size()),
                                             .weights = part.weights.data(),
                                             .out = dx + (to * g.in_w + part.cols->first) * g.in_c,
                                             .out_step = g.stride_w * g.in_c});
          }
          continue;
        }
        pixels.clear();
        out.clear();
        for (int64_t image = 0; image < images; ++image) {
          for (int64_t y = 0; y < part.rows->count; ++y) {
            const int64_t row = ((n + image) * g.in_h + part.rows->first + y * g.stride_h) * g.in_w;
            for (int64_t x = 0; x < part.cols->count; ++x) {
              pixels.push_back(padded.at(image, y, x));
              out.push_back(dx + (row + part.cols->first + x * g.stride_w) * g.in_c);
            }
          }
        }
        kernels::multiply_inputs({.pixels = pixels.data(),
                                  .pixel_count = static_cast<int64_t>(pixels.size()),
                                  .tap_offset = offset.data(),
                                  .taps = static_cast<int64_t>(offset.size()),
                                  .depth = g.out_c,
                                  .weights = part.weights.data(),
                                  .channels = g.in_c,
                                  .out = out.data()});
      }
    }
  }
}

}  // namespace qat::ops
