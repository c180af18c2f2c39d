#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/follow.cuh"

namespace qat::ops::cuda {
namespace {

/// Eight for each of an H100's 132 multiprocessors.
constexpr int64_t kBlocks = 1056;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

int64_t blocks_of(int64_t n) {
  const int64_t all = divide_up(n, kThreads * kEight);
  return all < kBlocks ? all : kBlocks;
}

__global__ void follow_ends(const double* ends, bool relu, FollowedRange range, int32_t* failed) {
  await_previous();
  follow({ends[0], ends[1]}, relu, range, failed);
}

/// ends [blocks]: each of the values that its threads take.
__global__ void __launch_bounds__(kThreads) block_range(const float* x, int64_t n, bool aligned, RangeEnds* ends) {
  await_previous();
  float least = static_cast<float>(kInfinity), most = -least;
  bool is_nan = false;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kEight;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kEight; i < n; i += step) {
    const Part part{i, n - i < kEight ? static_cast<int>(n - i) : kEight, aligned};
    const Eight<float> values = load(x, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k >= part.count) continue;
      const float v = values.at[k];
      least = v < least ? v : least;
      most = v > most ? v : most;
      is_nan = is_nan || v != v;
    }
  }
  const RangeEnds joined = block_ends(is_nan ? RangeEnds{kNan, kNan} : RangeEnds{least, most});
  if (threadIdx.x == 0) ends[blockIdx.x] = joined;
}

__global__ void __launch_bounds__(kThreads) join_ranges(const RangeEnds* parts, int64_t count, RangeEnds* ends) {
  await_previous();
  RangeEnds joined = RangeEnds::none();
  for (int64_t i = threadIdx.x; i < count; i += kThreads) joined.join(parts[i]);
  joined = block_ends(joined);
  if (threadIdx.x == 0) *ends = joined;
}

}  // namespace

void follow_range(const double* ends, bool relu, const FollowedRange& range, int32_t* failed, cudaStream_t stream) {
  require_followed(range, "follow_range");
  launch_kernel("follow_range", follow_ends, 1, 1, 0, stream, ends, relu, range, failed);
}

size_t values_range_scratch(int64_t n) { return static_cast<size_t>(blocks_of(n)) * sizeof(RangeEnds); }

void values_range(const float* x, int64_t n, double* ends, void* scratch, cudaStream_t stream) {
  require(n > 0, "values_range", "no values have no range");
  const int64_t blocks = blocks_of(n);
  auto* all = reinterpret_cast<RangeEnds*>(ends);
  RangeEnds* parts = blocks == 1 ? all : static_cast<RangeEnds*>(scratch);
  launch_kernel("values_range", block_range, static_cast<unsigned>(blocks), kThreads, 0, stream, x, n, aligned(x),
                parts);
  if (blocks > 1) launch_kernel("values_range", join_ranges, 1, kThreads, 0, stream, parts, blocks, all);
}

}  // namespace qat::ops::cuda
