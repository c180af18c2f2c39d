// Convolutions of codes 0 and 1 with weights -1 and 1, which count bits. Internal to core/ops.
//   sum of x * w = 2 * bits of (x and [w = 1]) - bits of x
#pragma once

#include <cstdint>

#include "core/ops/convolve_kernels.h"

namespace qat::ops::kernels {

inline constexpr int64_t kWord = 64;  // codes

/// Bit i % 64 of word i / 64 is set where x[i] is not 0; n: a multiple of kWord.
void gather_bits(const uint8_t* x, int64_t n, uint64_t* bits);

/// Some pixels of an output map against some output channels. The products of one output are `segments` runs of `words`
/// words: run s of pixel p starts where pixels[p] + segment_offset[s] does in the codes from `first` on.
struct BitTask {
  const uint8_t* const* pixels = nullptr;
  int64_t pixel_count = 0;
  const uint8_t* first = nullptr;
  const uint64_t* bits = nullptr;           // of the codes from `first` on
  const int64_t* segment_offset = nullptr;  // multiples of kWord
  int64_t segments = 0, words = 0;
  const uint64_t* weights = nullptr;  // [blocks][segments][words][kBlock]
  const int32_t* start = nullptr;     // what sums begin with, [channels rounded up to a multiple of kBlock]
  int64_t channels = 0;               // outputs to write
  int32_t* out = nullptr;             // [pixel_count][out_stride]
  int64_t out_stride = 0;
  const CodeOutput* code_output = nullptr;  // then `out` is not written
};
void multiply(const BitTask& task);

}  // namespace qat::ops::kernels
