// Operands with one value for all pixels. Internal to core/ops/cuda.
#pragma once

#include "core/ops/cuda/eights.cuh"

namespace qat::ops::cuda {

/// The elements of small [batch][channels] that belong to a part of [batch][pixels][channels].
struct Broadcast {
  int64_t pixels, channels;
  __device__ Eight<uint8_t> load(const uint8_t* small, const Part& part) const {
    const int64_t pixel = quotient(part.begin, channels);
    int64_t c = part.begin - pixel * channels, sample = quotient(pixel, pixels);
    int64_t left = (sample + 1) * pixels - pixel;  // pixels of this sample
    Eight<uint8_t> result = {};
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < part.count) result.at[k] = small[sample * channels + c];
      if (++c < channels) continue;
      c = 0;
      if (--left > 0) continue;
      ++sample;
      left = pixels;
    }
    return result;
  }
};

}  // namespace qat::ops::cuda
