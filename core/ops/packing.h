// Weights in the order that the convolution kernels read. Internal to core/ops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/ops/bit_kernels.h"
#include "core/ops/convolve_kernels.h"
#include "core/ops/scratch.h"
#include "core/ops/strips.h"
#include "core/ops/types.h"

namespace qat::ops {

using kernels::kBlock;
using kernels::kWord;

/// Runs of consecutive products of one output, in the padded input.
struct Segments {
  explicit Segments(const ConvGeometry& g) {
    const bool whole_rows = g.groups == 1 && g.dilation_w == 1;  // the taps of a kernel row lie side by side
    const int64_t columns = whole_rows ? 1 : g.kernel_w;
    length = g.in_c / g.groups * (whole_rows ? g.kernel_w : 1);
    for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
      for (int64_t kw = 0; kw < columns; ++kw) {
        offset.push_back((kh * g.dilation_h * (g.in_w + g.pad_left + g.pad_right) + kw * g.dilation_w) * g.in_c);
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(offset.size()); }

  std::vector<int64_t> offset;
  int64_t length = 0;
};

/// w [channels][segments][length] as [blocks][segments][groups][kBlock][kGroup].
template <int64_t kGroup, class To, class From>
void pack_blocks(const Segments& segments, const From* w, int64_t channels, To* packed) {
  const int64_t depth = segments.count() * segments.length, groups = divide_up(segments.length, kGroup);
  const int64_t blocks = divide_up(channels, kBlock);
#pragma omp parallel for if (channels * depth >= kParallelProducts)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t used = std::min(kBlock, channels - block * kBlock);
    // Widened first, a row at a time, so that a group is copied as one word.
    const To* rows;
    std::vector<To> wide;
    if constexpr (std::is_same_v<To, From>) {
      rows = w + block * kBlock * depth;
    } else {
      wide.assign(w + block * kBlock * depth, w + (block * kBlock + used) * depth);
      rows = wide.data();
    }
    To* out = packed + block * segments.count() * groups * kBlock * kGroup;
    for (int64_t s = 0; s < segments.count(); ++s) {
      const To* in = rows + s * segments.length;
      for (int64_t j = 0; j < groups; ++j, out += kBlock * kGroup) {
        const int64_t count = std::min(kGroup, segments.length - kGroup * j);
        if (used == kBlock && count == kGroup) {
          for (int64_t c = 0; c < kBlock; ++c) {
            std::memcpy(out + c * kGroup, in + c * depth + kGroup * j, kGroup * sizeof(To));
          }
          continue;
        }
        std::fill_n(out, kBlock * kGroup, To{0});
        for (int64_t c = 0; c < used; ++c) std::copy_n(in + c * depth + kGroup * j, count, out + c * kGroup);
      }
    }
  }
}

/// What sums over codes begin with: -zero * (sum of the weights) for each of w [channels][depth].
template <class From>
void put_starts(const From* w, int64_t channels, int64_t depth, int64_t zero, int32_t* start) {
  for (int64_t c = 0; c < channels; ++c) {
    uint32_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += static_cast<uint32_t>(w[c * depth + k]);
    start[c] = static_cast<int32_t>(0u - static_cast<uint32_t>(zero) * sum);
  }
}

/// Weights [channels][depth] of -1 and 1 as [blocks][depth / kWord][kBlock]: bits of those that are 1.
template <class From>
AlignedVector<uint64_t> pack_signs(const From* w, int64_t channels, int64_t depth) {
  AlignedVector<uint64_t> packed(static_cast<size_t>(divide_up(channels, kBlock) * (depth / kWord) * kBlock), 0);
  for (int64_t c = 0; c < channels; ++c) {
    uint64_t* out = packed.data() + c / kBlock * (depth / kWord) * kBlock + c % kBlock;
    for (int64_t k = 0; k < depth; ++k) {
      out[k / kWord * kBlock] |= static_cast<uint64_t>(w[c * depth + k] > 0) << (k % kWord);
    }
  }
  return packed;
}

}  // namespace qat::ops
