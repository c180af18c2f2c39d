#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/move.h"

namespace qat::ops::cuda {

template <class T>
void gather_channels(const T* x, int64_t pixels, int64_t x_channels, const int32_t* from, int64_t y_channels, T* y,
                     cudaStream_t stream) {
  require(pixels >= 0 && x_channels >= 0 && y_channels >= 0, "gather_channels", "sizes must not be negative");
  for_parts("gather_channels", pixels * y_channels, aligned(y, from), stream, [=] __device__(const Part& part) {
    const PartChannels channels(part, y_channels);
    const Eight<int32_t> source = channels.load(from);
    const int64_t row = quotient(part.begin, y_channels);
    if (channels.together) {  // most movements keep neighbours: then eight of them are one access
      const T* first = x + row * x_channels + source.at[0];
      bool neighbours = source.at[0] >= 0 && reinterpret_cast<uintptr_t>(first) % alignof(Eight<T>) == 0;
#pragma unroll
      for (int k = 1; k < kEight; ++k) neighbours = neighbours && source.at[k] == source.at[0] + k;
      if (neighbours) {
        store(y, part, *reinterpret_cast<const Eight<T>*>(first));
        return;
      }
    }
    const T* pixel = x + row * x_channels;
    int64_t c = channels.first;
    Eight<T> result = {};
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < part.count && source.at[k] >= 0) result.at[k] = pixel[source.at[k]];
      if (++c < y_channels) continue;
      c = 0;
      pixel += x_channels;
    }
    store(y, part, result);
  });
}

template void gather_channels<uint8_t>(const uint8_t*, int64_t, int64_t, const int32_t*, int64_t, uint8_t*,
                                       cudaStream_t);
template void gather_channels<float>(const float*, int64_t, int64_t, const int32_t*, int64_t, float*, cudaStream_t);

}  // namespace qat::ops::cuda
