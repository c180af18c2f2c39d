#include "core/ops/cuda/block.cuh"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/shares.cuh"
#include "core/ops/cuda/table.h"

namespace qat::ops::cuda {
namespace {

constexpr int kCodes = 256;
static_assert(kCodes == kThreads);  // a thread for each code

__device__ double clamped(double v, double lo, double hi) { return v < lo ? lo : hi < v ? hi : v; }

/// core/ops/table.h, a code's value x_scale * (q - zero_x), and the derivatives of core/nn/activation.cpp.
struct CodeFunction {
  __device__ explicit CodeFunction(const TableParams& p)
      : function(p.function), alpha(p.alpha), scale(*p.scale_x), zero_point(*p.zero_x) {}

  __device__ float real(int code) const { return scale * static_cast<float>(code - zero_point); }

  __device__ float value(float v) const {
    switch (function) {
      case Function::kIdentity:
        break;
      case Function::kLeakyRelu:
        return v < 0 ? v * alpha : v;
      case Function::kHardsigmoid:
        return static_cast<float>(clamped(v + 3.0, 0.0, 6.0) / 6.0);
      case Function::kHardswish:
        return static_cast<float>(v * clamped(v + 3.0, 0.0, 6.0) / 6.0);
    }
    return v;
  }

  __device__ double derivative(double v) const {
    switch (function) {
      case Function::kIdentity:
        break;
      case Function::kLeakyRelu:
        return v > 0 ? 1.0 : static_cast<double>(alpha);
      case Function::kHardsigmoid:
        return v > -3 && v < 3 ? 1.0 / 6.0 : 0.0;
      case Function::kHardswish:
        if (v <= -3) return 0.0;
        return v < 3 ? (2.0 * v + 3.0) / 6.0 : 1.0;
    }
    return 1.0;
  }

  Function function;
  float alpha, scale;
  int32_t zero_point;
};

__global__ void __launch_bounds__(kCodes) fill_table(const TableParams p, uint8_t* table, Slopes* slopes) {
  await_previous();
  const CodeFunction f(p);
  const Bounds bounds(p.range);
  const float scale_y = *p.scale_y;
  const int q = static_cast<int>(threadIdx.x);
  const float real = f.real(q), t = f.value(real) / scale_y;
  const bool copies = f.function == Function::kIdentity && f.scale == scale_y && f.zero_point == bounds.zero_point;
  table[q] = copies ? static_cast<uint8_t>(min(max(q, p.range.lo), p.range.hi)) : bounds.code(t);
  if (slopes == nullptr) return;
  const double exact = t, lo = bounds.lo, hi = bounds.hi;
  const bool inside = exact >= lo && exact <= hi;
  slopes->to_input[q] = inside ? static_cast<float>(f.derivative(real)) : 0.0f;
  slopes->to_scale[q] = static_cast<float>(inside ? nearbyint(exact) - exact : clamped(exact, lo, hi));
}

/// seen [256], zeroed, gets 1 where a code occurs.
__global__ void __launch_bounds__(kThreads) mark_codes(const uint8_t* x, int64_t n, bool aligned, int32_t* seen) {
  await_previous();
  __shared__ int32_t mine[kCodes];
  mine[threadIdx.x] = 0;
  __syncthreads();
  for_share(n, aligned, [&](const Part& part) {
    const Eight<uint8_t> codes = load(x, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < part.count) mine[codes.at[k]] = 1;
    }
  });
  __syncthreads();
  if (mine[threadIdx.x] != 0) seen[threadIdx.x] = 1;
}

/// Joins in the order of the codes, as the CPU does: of zeros with different signs the first one counts.
__global__ void __launch_bounds__(kCodes)
    range_of_codes(const TableParams p, const int32_t* seen, double* ends, bool joins) {
  await_previous();
  __shared__ Ends<float> values[kCodes];
  const CodeFunction f(p);
  const int q = static_cast<int>(threadIdx.x);
  values[q] = no_ends<float>();
  if (seen[q] != 0) values[q].add(f.value(f.real(q)));
  for (int step = 1; step < kCodes; step *= 2) {
    __syncthreads();
    if (q % (2 * step) == 0) values[q].join(values[q + step]);
  }
  if (q > 0) return;
  Ends<double> all = no_ends<double>();
  if (joins) all = {ends[0], ends[1]};
  all.join({values[0].lo, values[0].hi});
  ends[0] = all.lo;
  ends[1] = all.hi;
}

/// Channels [begin, begin + channels) of the rows of a matrix with `stride` of them, whose parts are those of a matrix
/// [rows][channels].
struct Slice {
  /// per_access: elements that lie in 16 bytes, or in the eight, of the matrix.
  Slice(int64_t channels, int64_t stride, int64_t begin, int per_access, bool aligned)
      : channels(channels),
        stride(stride),
        begin(begin),
        together(aligned && channels % kEight == 0 && stride % per_access == 0 && begin % per_access == 0) {}

  template <class T>
  __device__ Eight<T> load(const T* matrix, const Part& part) const {
    if (stride == channels) return cuda::load(matrix, part);
    Place at(*this, part);
    if (together) return *reinterpret_cast<const Eight<T>*>(matrix + at.index());
    Eight<T> result = {};
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < part.count) result.at[k] = matrix[at.index()];
      at.advance();
    }
    return result;
  }

  template <class T>
  __device__ void store(T* matrix, const Part& part, const Eight<T>& eight) const {
    if (stride == channels) return cuda::store(matrix, part, eight);
    Place at(*this, part);
    if (together) {
      *reinterpret_cast<Eight<T>*>(matrix + at.index()) = eight;
      return;
    }
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < part.count) matrix[at.index()] = eight.at[k];
      at.advance();
    }
  }

  struct Place {
    __device__ Place(const Slice& slice, const Part& part)
        : slice(slice), row(quotient(part.begin, slice.channels)), c(part.begin - row * slice.channels) {}
    __device__ int64_t index() const { return row * slice.stride + slice.begin + c; }
    __device__ void advance() {
      if (++c < slice.channels) return;
      c = 0;
      ++row;
    }
    const Slice& slice;
    int64_t row, c;
  };

  int64_t channels, stride, begin;
  bool together;
};

void require_slice(int64_t channels, int64_t stride, int64_t begin, const char* kernel) {
  require(channels >= 0 && begin >= 0 && begin + channels <= stride, kernel, "the channels must lie in the matrix");
}

/// partial [blocks], where it is wanted: the sums of g * to_scale.
__global__ void __launch_bounds__(kThreads)
    table_gradient_kernel(const float* g, const uint8_t* x, int64_t n, bool aligned, const Slice slice,
                          const Slopes* slopes, float* dx, double* partial) {
  await_previous();
  __shared__ Slopes of;
  of.to_input[threadIdx.x] = slopes->to_input[threadIdx.x];
  of.to_scale[threadIdx.x] = slopes->to_scale[threadIdx.x];
  __syncthreads();
  double sum = 0.0;
  for_share(n, aligned, [&](const Part& part) {
    const Eight<uint8_t> codes = load(x, part);
    const Eight<float> gradient = slice.load(g, part);
    Eight<float> result;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      result.at[k] = gradient.at[k] * of.to_input[codes.at[k]];
      // The product is exact; elements behind the end have no gradient.
      if (k < part.count)
        sum = fma(static_cast<double>(gradient.at[k]), static_cast<double>(of.to_scale[codes.at[k]]), sum);
    }
    if (dx != nullptr) store(dx, part, result);
  });
  if (partial != nullptr) keep_sum(sum, partial, blockIdx.x);
}

}  // namespace

void make_table(const TableParams& p, uint8_t* table, Slopes* slopes, cudaStream_t stream) {
  require_codes(p.range, "make_table");
  launch_kernel("make_table", fill_table, 1, kCodes, 0, stream, p, table, slopes);
}

size_t table_range_scratch() { return kCodes * sizeof(int32_t); }

void table_range(const uint8_t* x, int64_t n, const TableParams& p, double* ends, bool joins, void* scratch,
                 cudaStream_t stream) {
  require(n >= 0, "table_range", "the number of elements must not be negative");
  auto* seen = static_cast<int32_t*>(scratch);
  cudaMemsetAsync(seen, 0, table_range_scratch(), stream);
  if (n > 0) {
    launch_kernel("table_range", mark_codes, static_cast<unsigned>(share_blocks(n)), kThreads, 0, stream, x, n,
                  aligned(x), seen);
  }
  launch_kernel("table_range", range_of_codes, 1, kCodes, 0, stream, p, seen, ends, joins);
}

void lookup_channels(const uint8_t* x, int64_t pixels, int64_t channels, const uint8_t* table, uint8_t* y,
                     int64_t y_channels, int64_t y_begin, cudaStream_t stream) {
  require_slice(channels, y_channels, y_begin, "lookup_channels");
  const bool both = aligned(x, y);
  const Slice slice(channels, y_channels, y_begin, kEight, both);
  for_parts("lookup_channels", pixels * channels, both, stream, [=] __device__(const Part& part) {
    Eight<uint8_t> codes = load(x, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) codes.at[k] = table[codes.at[k]];
    slice.store(y, part, codes);
  });
}

size_t table_gradient_scratch(int64_t pixels, int64_t channels) {
  return static_cast<size_t>(share_blocks(pixels * channels)) * sizeof(double);
}

void table_gradient(const float* g, const uint8_t* x, int64_t pixels, int64_t channels, int64_t g_channels,
                    int64_t g_begin, const Slopes* slopes, float* dx, double* ds, bool joins, void* scratch,
                    cudaStream_t stream) {
  constexpr const char* kName = "table_gradient";
  require_slice(channels, g_channels, g_begin, kName);
  const int64_t n = pixels * channels, blocks = share_blocks(n);
  const bool all = aligned(g, x, dx);
  auto* partial = ds == nullptr ? nullptr : static_cast<double*>(scratch);
  if (n > 0 && (dx != nullptr || ds != nullptr)) {
    const Slice slice(channels, g_channels, g_begin, kEight / 2, all);
    launch_kernel(kName, table_gradient_kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, g, x, n, all, slice,
                  slopes, dx, partial);
  }
  if (ds != nullptr) join_sums(kName, partial, blocks, joins, ds, stream);
}

}  // namespace qat::ops::cuda
