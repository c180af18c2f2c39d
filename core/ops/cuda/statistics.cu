#include "core/ops/cuda/statistics.h"
#include "core/ops/cuda/sums.cuh"

namespace qat::ops::cuda {
namespace {

struct Sums {
  using Result = Sums;
  static __device__ Sums none() { return {0, 0.0, INT32_MAX, INT32_MIN}; }
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
  __device__ Sums result() const { return *this; }
  int64_t sum;
  double squares;
  int32_t min, max;
};

struct Accumulators {
  using Item = int32_t;
  struct Cursor {
    __device__ int32_t operator()(int64_t i) const { return acc[i]; }
    const int32_t* acc;
  };
  __device__ Cursor start(int64_t, int64_t) const { return {acc}; }
  const int32_t* acc;
};

}  // namespace

size_t channel_statistics_scratch(int64_t rows, int64_t channels) { return channel_scratch<Sums>(rows, channels); }

void channel_statistics(const int32_t* acc, int64_t rows, int64_t channels, const ChannelStatistics& statistics,
                        void* scratch, cudaStream_t stream) {
  const ChannelStatistics s = statistics;
  const bool empty = rows == 0;
  sum_channels<Sums>(
      "channel_statistics", rows, channels, Accumulators{acc},
      [=] __device__(int64_t c, const Sums& sums) {
        s.sum[c] = static_cast<double>(sums.sum);
        s.sum_squares[c] = sums.squares;
        s.min[c] = empty ? 0 : sums.min;
        s.max[c] = empty ? 0 : sums.max;
      },
      scratch, stream);
}

}  // namespace qat::ops::cuda
