// The convolution of CPUs that have no exact multiply-add of 8-bit codes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/ops/types.h"

namespace qat::ops {

/// What ONNX Runtime's default session computes on CPUs with AVX2 (or SSE4.1) and no VNNI, from uint8 codes and int8
/// weights: products of neighbours are summed in int16 with saturation (vpmaddubsw), those sums in int32. With the
/// products of one output in the order kernel row, kernel column, input channel of the group,
///   acc = sum over k of clamp(x[2k] w[2k] + x[2k+1] w[2k+1], -2^15, 2^15 - 1) - zero_point * sum of the weights
/// modulo 2^32, where x are raw codes, the zero point's where the kernel lies over padding, and an odd last product
/// stands alone. Const calls may run on several threads at once.
class SaturatingConvolution {
 public:
  /// w: [co][kh][kw][ci / groups] around zero, not needed afterwards. g.batch is not read. Throws qat::Error if the
  /// zero point is no uint8.
  SaturatingConvolution(const ConvGeometry& g, const int8_t* w, int32_t zero_point);

  /// The accumulators [rows][out_c] of `batch` images, NHWC.
  void accumulate(const uint8_t* x, int64_t batch, int32_t* acc) const;
  /// Of the weights.
  int64_t bytes() const { return static_cast<int64_t>(weights_.size() * sizeof(int16_t)); }

 private:
  ConvGeometry g_;
  int32_t zero_point_;
  int64_t half_;                  // products of one output, halved and filled up to whole vectors
  std::vector<int16_t> weights_;  // [co]: those of even k, then those of odd k
  std::vector<int32_t> start_;    // -zero_point * sum of the weights
};

/// Whether a convolution is exact there whatever its codes: one input and one output channel a group.
inline bool never_saturates(const ConvGeometry& g) { return g.in_c == g.groups && g.out_c == g.groups; }

}  // namespace qat::ops
