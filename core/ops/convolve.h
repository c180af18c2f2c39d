// Convolution of integer codes: exact int32 accumulators (wrapping modulo 2^32 as the runtime's do).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/ops/types.h"

namespace qat::ops {
namespace kernels {
template <class Code>
struct PackedWeights;
}

/// A 1x1 convolution without stride, padding or groups: the matrix product of pixels and weights.
inline bool is_pointwise(const ConvGeometry& g) {
  return g.kernel_h == 1 && g.kernel_w == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top == 0 &&
         g.pad_left == 0 && g.pad_bottom == 0 && g.pad_right == 0 && g.groups == 1;
}

/// acc[row][co] = sum over the kernel of (x - zero_point) * w; a padded pixel contributes 0.
///   x    NHWC codes (uint8_t or int8_t)
///   w    [co][kh][kw][ci / groups], centred: code - weight zero point, in [-255, 255]
///   acc  [rows][out_c]
/// The scalar definition; every other implementation must give the same integers.
template <class Code>
void convolve_reference(const ConvGeometry& g, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc);

/// Statistics of accumulators per channel: exact sums, each as the double next to it.
struct ChannelStatistics {
  std::vector<double> sum;
  std::vector<double> sum_squares;
  std::vector<int32_t> min;
  std::vector<int32_t> max;
};

/// A convolution with its weights in the order that this machine's kernels read, packed once for any number of inputs.
/// Which kernel runs follows from the values of the weights and the range of the input codes; all give the same
/// integers:
///   pairs      int16 multiply-add, always exact; x is widened to x - zero_point
///   winograd   of 3x3 kernels with many channels, the same by minimal filtering (integer_winograd.h)
///   quads      four uint8 codes by four int8 weights (weights in [-128, 127]). With VNNI (vpdpbusd) exact; with
///              vpmaddubsw where 2 * |x| * |w| stays below 2^15, added to int32 as often as the sums could reach it.
///              Padding holds the zero point's code; the accumulators start at -zero_point * (sum of the weights)
///   bits       codes 0 and 1 with weights -1 and 1, whole words of channels: 2 * bits(x and [w = 1]) - bits(x)
///   depthwise  one output an input channel, float32 multiply-add while every sum stays below 2^24; with VNNI four
///              rows of the kernel at a time ("depthwise quads")
/// Const calls may run on several threads at once.
template <class Code>
class PackedConvolution {
 public:
  /// g.batch: about how many images a call will have, for the choice of the kernel. `highest`: the largest input code
  /// (the smallest is 0 or -128); an input that exceeds it gives undefined codes. The weights are not needed
  /// afterwards. Throws qat::Error if sizes, strides or groups are not possible, the kernel is larger than the padded
  /// input, or zero_point is not a Code.
  PackedConvolution(const ConvGeometry& g, const int16_t* w, int32_t zero_point, int32_t highest = kHighest);
  PackedConvolution(const ConvGeometry& g, const int8_t* w, int32_t zero_point, int32_t highest = kHighest);
  ~PackedConvolution();
  PackedConvolution(PackedConvolution&&) noexcept;
  PackedConvolution& operator=(PackedConvolution&&) noexcept;

  /// The accumulators [rows][out_c] of `batch` images.
  void accumulate(const Code* x, int64_t batch, int32_t* acc) const;

  /// Whether, of all inputs, every accumulator lies in [-32767, 32767].
  bool fits_int16() const;
  /// Accumulators of a convolution that fits_int16(), and their statistics on the way. Throws qat::Error if it does
  /// not.
  void accumulate(const Code* x, int64_t batch, int16_t* acc, ChannelStatistics* statistics = nullptr) const;

  /// The codes that requantize() (requantize.h) makes of the accumulators, which never reach memory as a whole. bias
  /// may be null. Throws qat::Error if the range is not one of Code.
  void requantize(const Code* x, int64_t batch, const int32_t* bias, const float* multiplier, CodeRange range,
                  Code* y) const;

  /// Keeps weights of four bits two a byte, if the kernel is quads; every call then unpacks what it reads, in cache.
  /// For weights that stay.
  void shrink();
  /// Of the packed weights.
  int64_t bytes() const;

  /// "pairs", "winograd", "quads", "bits", "depthwise" or "depthwise quads".
  const char* kernel() const;

 private:
  static constexpr int32_t kHighest = std::is_signed_v<Code> ? 127 : 255;

  std::unique_ptr<kernels::PackedWeights<Code>> packed_;
};

/// Packs and accumulates at once. An empty batch is fine.
template <class Code>
void convolve(const ConvGeometry& g, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc);

/// Of int32 accumulators [rows][channels].
ChannelStatistics channel_statistics(const int32_t* acc, int64_t rows, int64_t channels);

}  // namespace qat::ops
