#include "core/ops/cuda/statistics.h"
#include "core/ops/cuda/sums.cuh"

namespace qat::ops::cuda {
namespace {

struct Sums {
  __device__ void add(int32_t value) {
    sum += value;
    squares += static_cast<double>(value) * value;  // rounded before it is added, as on the CPU
    min = value < min ? value : min;
    max = value > max ? value : max;
  }
  __device__ void join(const Sums& other) {
    sum += other.sum;
    squares += other.squares;
    min = other.min < min ? other.min : min;
    max = other.max > max ? other.max : max;
  }
  int64_t sum = 0;
  double squares = 0;
  int32_t min = INT32_MAX;
  int32_t max = INT32_MIN;
};

}  // namespace

size_t channel_statistics_scratch(int64_t rows, int64_t channels) {
  if (rows * channels == 0) return 0;
  const Chunks chunks(rows, channels);
  return static_cast<size_t>(chunks.count * chunks.period) * sizeof(Sums);
}

void channel_statistics(const int32_t* acc, int64_t rows, int64_t channels, const ChannelStatistics& statistics,
                        void* scratch, cudaStream_t stream) {
  if (channels == 0) return;
  const ChannelStatistics s = statistics;
  const bool empty = rows == 0;
  sum_channels<Sums>(
      "channel_statistics", Chunks(rows, channels), [=] __device__(int64_t i, int64_t) { return acc[i]; },
      [=] __device__(int64_t c, const Sums& sums) {
        s.sum[c] = static_cast<double>(sums.sum);
        s.sum_squares[c] = sums.squares;
        s.min[c] = empty ? 0 : sums.min;
        s.max[c] = empty ? 0 : sums.max;
      },
      scratch, stream);
}

}  // namespace qat::ops::cuda
