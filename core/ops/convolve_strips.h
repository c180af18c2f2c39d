// A convolution's packed weights and the loop over its parts. Internal to core/ops.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/ops/convolve.h"
#include "core/ops/convolve_kernels.h"
#include "core/ops/packing.h"
#include "core/ops/scratch.h"
#include "core/ops/strips.h"

namespace qat::ops::kernels {

enum class Kernel { kPairs, kWinograd, kQuads, kBits, kDepthwise, kDepthwiseQuads };

inline constexpr int32_t kLowestNibble = -8;

/// What PackedConvolution holds.
template <class Code>
struct PackedWeights {
  explicit PackedWeights(const ConvGeometry& geometry, int32_t zero)
      : g(geometry), zero_point(zero), segments(geometry) {}

  /// Whether the kernel makes codes of its accumulators itself.
  bool fuses_codes() const {
    return kernel == Kernel::kWinograd || kernel == Kernel::kBits ||
           ((kernel == Kernel::kQuads || kernel == Kernel::kPairs) && g.groups == 1);
  }
  int64_t group_channels() const { return g.out_c / g.groups; }
  int64_t blocks() const { return divide_up(group_channels(), kBlock); }
  int64_t products() const { return kernel == Kernel::kQuads ? 4 : 2; }
  int64_t groups_of_products() const { return divide_up(segments.length, products()); }
  int64_t block_size() const { return segments.count() * groups_of_products() * kBlock * products(); }

  ConvGeometry g;  // batch 1
  int32_t zero_point;
  Kernel kernel = Kernel::kPairs;
  Segments segments;
  AlignedVector<int16_t> pairs;  // or Winograd's
  AlignedVector<int8_t> quads;
  std::vector<uint8_t> nibbles;  // the quads, where they have been shrunk (nibbles.h); they start at kLowestNibble
  AlignedVector<uint64_t> bits;
  std::vector<int32_t> start;  // of quads and bits
  int64_t flush = 0;
  AlignedVector<float> taps;  // depthwise: [taps][channels rounded up]
  int64_t quad_rows = 0;      // depthwise quads: groups of four rows of the kernel
  bool fits_int16 = false;
};

/// Throws qat::Error as PackedConvolution's constructor.
template <class Code, class Weight>
std::unique_ptr<PackedWeights<Code>> pack_convolution(const ConvGeometry& geometry, const Weight* w, int32_t zero_point,
                                                      int32_t highest);

/// Where a part of a strip's accumulators goes: rows from first_pixel, channels from `channel`.
struct Part {
  int64_t first_pixel = 0, pixels = 0, channel = 0, channels = 0;
};

/// Writes a part's accumulators, out_stride apart, or, where the kernel fuses_codes(), its codes.
using Multiply = std::function<void(int32_t* out, int64_t out_stride, const CodeOutput* codes)>;
using Finish = std::function<void(const Part&, const Multiply&)>;

/// finish(part, multiply) for all parts of all strips, on all threads; it calls multiply once. in_memory: it reads the
/// accumulators of its part again.
template <class Code>
void run_strips(const PackedWeights<Code>& p, const Code* x, int64_t batch, bool in_memory, const Finish& finish);

}  // namespace qat::ops::kernels
