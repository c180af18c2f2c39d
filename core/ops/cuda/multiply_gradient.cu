#include <algorithm>

#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/cuda/shares.cuh"

namespace qat::ops::cuda {
namespace {

/// The products of core/autograd/pointwise.cpp's MulBackward, in its order.
struct MulTerms {
  struct Result {
    float a, b, scale;  // what an element adds to the three gradients
  };
  __device__ explicit MulTerms(const BinaryParams& p)
      : zero_a(*p.zero_a),
        zero_b(*p.zero_b),
        zero_y(*p.range.zero_point),
        scale_a(*p.scale_a),
        scale_b(*p.scale_b),
        lo(static_cast<float>(p.range.lo)),
        hi(static_cast<float>(p.range.hi)) {
    const float product = scale_a * scale_b;
    m = product / *p.scale_y;
  }
  __device__ Result operator()(float g, uint8_t a, uint8_t b, uint8_t y) const {
    const auto qa = static_cast<float>(a - zero_a), qb = static_cast<float>(b - zero_b);
    const float t = qa * qb * m, rounded_from = t + static_cast<float>(zero_y);
    const bool inside = rounded_from >= lo && rounded_from <= hi;
    const float masked = g * (inside ? 1.0f : 0.0f);  // keeps the sign of a zero
    const auto code = static_cast<float>(y - zero_y);
    return {masked * qb * scale_b, masked * qa * scale_a, g * (inside ? code - t : code)};
  }

  int32_t zero_a, zero_b, zero_y;
  float scale_a, scale_b, lo, hi, m;
};

struct MulArrays {
  const float* g;
  const uint8_t* a;
  const uint8_t* b;
  const uint8_t* y;  // null: the scale does not learn
  BinaryParams params;
  float* da;  // may be null, as db
  float* db;
  bool aligned;
};

/// partial_ds [blocks], unless y is null.
__global__ void __launch_bounds__(kThreads) mul_gradient_kernel(const MulArrays p, int64_t n, double* partial_ds) {
  await_previous();
  const MulTerms terms(p.params);
  double ds = 0.0;
  for_share(n, p.aligned, [&](const Part& part) {
    const Eight<float> g = load(p.g, part);
    const Eight<uint8_t> a = load(p.a, part), b = load(p.b, part);
    Eight<uint8_t> y = {};
    if (p.y != nullptr) y = load(p.y, part);
    Eight<float> da, db;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const MulTerms::Result of = terms(g.at[k], a.at[k], b.at[k], y.at[k]);
      da.at[k] = of.a;
      db.at[k] = of.b;
      if (k < part.count) ds += of.scale;
    }
    if (p.da != nullptr) store(p.da, part, da);
    if (p.db != nullptr) store(p.db, part, db);
  });
  if (p.y != nullptr) keep_sum(ds, partial_ds, blockIdx.x);
}

/// How the blocks of a broadcast share a map: a thread takes `vector` channels and every `rows`-th pixel of a chunk.
struct Layout {
  Layout(int64_t batch, int64_t pixels, int64_t channels)
      : pixels(pixels), channels(channels), vector(channels % kEight == 0 ? kEight : 1) {
    columns = static_cast<int>(std::clamp<int64_t>(channels / vector, 1, kThreads));
    rows = kThreads / columns;
    chunk = std::max<int64_t>(64, 16 * rows);
    chunks = divide_up(pixels, chunk);
    groups = divide_up(channels, int64_t{columns} * vector);
    blocks = batch * chunks;
  }
  int64_t pixels, channels;
  int vector, columns, rows;
  int64_t chunk;   // pixels of a block
  int64_t chunks;  // of a sample
  int64_t groups;  // of channels
  int64_t blocks;  // of a group
};

/// partial_db [blocks][channels] and partial_ds [groups][blocks], unless db or y is null.
template <int kVector>
__global__ void __launch_bounds__(kThreads)
    mul_gradient_broadcast(const MulArrays p, const Layout layout, double* partial_db, double* partial_ds) {
  await_previous();
  __shared__ double sums[kThreads * kVector];
  const MulTerms terms(p.params);
  const int thread = static_cast<int>(threadIdx.x), row = thread / layout.columns;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * layout.columns * kVector;  // channel of the block
  const int64_t c = first + (thread - row * layout.columns) * kVector;
  const int64_t sample = quotient(blockIdx.x, layout.chunks);
  const int64_t begin = (blockIdx.x - sample * layout.chunks) * layout.chunk;
  const int64_t end = begin + layout.chunk < layout.pixels ? begin + layout.chunk : layout.pixels;
  double ds = 0.0, db[kVector] = {};
  if (row < layout.rows && c < layout.channels) {
    const bool whole = p.aligned && kVector == kEight;
    const Eight<uint8_t> b = load(p.b, {sample * layout.channels + c, kVector, whole});
    for (int64_t pixel = begin + row; pixel < end; pixel += layout.rows) {
      const Part part{(sample * layout.pixels + pixel) * layout.channels + c, kVector, whole};
      const Eight<float> g = load(p.g, part);
      const Eight<uint8_t> a = load(p.a, part);
      Eight<uint8_t> y = {};
      if (p.y != nullptr) y = load(p.y, part);
      Eight<float> da = {};
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const MulTerms::Result of = terms(g.at[k], a.at[k], b.at[k], y.at[k]);
        da.at[k] = of.a;
        db[k] += of.b;
        ds += of.scale;
      }
      if (p.da != nullptr) store(p.da, part, da);
    }
  }
  if (p.y != nullptr) keep_sum(ds, partial_ds, static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x);
  if (p.db == nullptr) return;
#pragma unroll
  for (int k = 0; k < kVector; ++k) sums[thread * kVector + k] = db[k];
  __syncthreads();
  const int width = layout.columns * kVector;
  for (int i = thread; i < width && first + i < layout.channels; i += kThreads) {
    double sum = 0.0;
    for (int r = 0; r < layout.rows; ++r) sum += sums[r * width + i];
    partial_db[blockIdx.x * layout.channels + first + i] = sum;
  }
}

/// db [batch][channels] from the chunks' sums.
__global__ void __launch_bounds__(kThreads)
    join_chunks(const double* partial, int64_t n, int64_t chunks, int64_t channels, float* db) {
  await_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const int64_t sample = quotient(i, channels);
  double sum = 0.0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    sum += partial[(sample * chunks + chunk) * channels + i - sample * channels];
  }
  db[i] = static_cast<float>(sum);
}

constexpr const char* kName = "mul_gradient";

void gradient_of_broadcast(const MulArrays& p, int64_t batch, int64_t pixels, int64_t channels, double* ds,
                           double* scratch, cudaStream_t stream) {
  const Layout layout(batch, pixels, channels);
  const int64_t small = batch * channels;
  require(layout.blocks <= INT32_MAX && layout.groups <= 65535 && divide_up(small, kThreads) <= INT32_MAX, kName,
          "the map is too large");
  double* partial_db = scratch;
  double* partial_ds = scratch + layout.blocks * channels;
  if (small * pixels > 0) {
    const dim3 grid(static_cast<unsigned>(layout.blocks), static_cast<unsigned>(layout.groups));
    launch_kernel(kName, layout.vector == kEight ? mul_gradient_broadcast<kEight> : mul_gradient_broadcast<1>, grid,
                  kThreads, 0, stream, p, layout, partial_db, partial_ds);
  }
  if (p.db != nullptr && small > 0) {
    launch_kernel(kName, join_chunks, static_cast<unsigned>(divide_up(small, kThreads)), kThreads, 0, stream,
                  partial_db, small, layout.chunks, channels, p.db);
  }
  if (ds != nullptr)
    join_sums(kName, partial_ds, small * pixels > 0 ? layout.blocks * layout.groups : 0, false, ds, stream);
}

}  // namespace

size_t mul_gradient_scratch(int64_t batch, int64_t pixels, int64_t channels, bool broadcast) {
  if (!broadcast) return static_cast<size_t>(share_blocks(batch * pixels * channels)) * sizeof(double);
  const Layout layout(batch, pixels, channels);
  return static_cast<size_t>(layout.blocks * (channels + layout.groups)) * sizeof(double);
}

void mul_gradient(const float* g, const uint8_t* a, const uint8_t* b, int64_t batch, int64_t pixels, int64_t channels,
                  bool broadcast, const BinaryParams& params, float* da, float* db, const uint8_t* y, double* ds,
                  void* scratch, cudaStream_t stream) {
  require_codes(params.range, kName);
  require(batch >= 0 && pixels >= 0 && channels >= 0, kName, "sizes must not be negative");
  if (da == nullptr && db == nullptr && ds == nullptr) return;
  if (ds == nullptr) y = nullptr;
  const MulArrays arrays{g, a, b, y, params, da, db, aligned(g, a, b, y, da) && (broadcast || aligned(db))};
  auto* partial = static_cast<double*>(scratch);
  if (broadcast) return gradient_of_broadcast(arrays, batch, pixels, channels, ds, partial, stream);
  const int64_t n = batch * pixels * channels, blocks = share_blocks(n);
  if (n > 0) {
    launch_kernel(kName, mul_gradient_kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, arrays, n, partial);
  }
  if (ds != nullptr) join_sums(kName, partial, blocks, false, ds, stream);
}

}  // namespace qat::ops::cuda
