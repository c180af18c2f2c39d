#include <utility>

#include "core/ops/cuda/broadcast.cuh"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/cuda/sums.cuh"

namespace qat::ops::cuda {
namespace {

/// value = fma(q_a, ra, fma(q_b, rb, f)); every thread makes the constants, so that no kernel has to run before.
struct Add {
  __device__ explicit Add(const BinaryParams& p)
      : ra(*p.scale_a / *p.scale_y),
        rb(*p.scale_b / *p.scale_y),
        zero_y(static_cast<float>(*p.range.zero_point)),
        lo(static_cast<float>(p.range.lo)),
        hi(static_cast<float>(p.range.hi)) {
    const float fixed_b = rb * static_cast<float>(*p.zero_b);
    f = zero_y - fmaf(ra, static_cast<float>(*p.zero_a), fixed_b);
  }
  __device__ float value(uint8_t a, uint8_t b) const {
    return fmaf(static_cast<float>(a), ra, fmaf(static_cast<float>(b), rb, f));
  }
  __device__ uint8_t code(float v) const { return static_cast<uint8_t>(__float2int_rn(clip(v, lo, hi))); }

  float ra, rb, f, zero_y, lo, hi;
};

struct Mul {
  __device__ explicit Mul(const BinaryParams& p)
      : zero_a(*p.zero_a),
        zero_b(*p.zero_b),
        zero_y(static_cast<float>(*p.range.zero_point)),
        lo(static_cast<float>(p.range.lo)),
        hi(static_cast<float>(p.range.hi)) {
    const float product = *p.scale_a * *p.scale_b;
    m = product / *p.scale_y;
  }
  __device__ uint8_t code(uint8_t a, uint8_t b) const {
    const float scaled = static_cast<float>((a - zero_a) * (b - zero_b)) * m;
    return static_cast<uint8_t>(__float2int_rn(clip(scaled + zero_y, lo, hi)));
  }

  int32_t zero_a, zero_b;
  float m, zero_y, lo, hi;
};

/// g (y - value), where outside g (y - z).
struct AddScaleTerms {
  using Item = Product;
  struct Cursor {
    __device__ Product operator()(int64_t i) const {
      const float v = add.value(p.a[i], p.b[i]), t = inside(i) ? v : add.zero_y;
      return {p.g[i], static_cast<float>(p.y[i]) - t};
    }
    const AddScaleTerms& p;
    MaskBits inside;
    Add add;
  };
  __device__ Cursor start(int64_t, int64_t) const { return {*this, MaskBits(inside, g), Add(params)}; }
  const float* g;
  const uint8_t* a;
  const uint8_t* b;
  const uint8_t* y;
  const uint8_t* inside;
  BinaryParams params;
};

template <class Operator>
__device__ Eight<uint8_t> mapped(const Operator& op, const Eight<uint8_t>& a, const Eight<uint8_t>& b) {
  Eight<uint8_t> result;
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    if constexpr (requires { op.value(a.at[k], b.at[k]); }) {
      result.at[k] = op.code(op.value(a.at[k], b.at[k]));
    } else {
      result.at[k] = op.code(a.at[k], b.at[k]);
    }
  }
  return result;
}

}  // namespace

void add(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& params, uint8_t* y, uint8_t* inside,
         bool relu, cudaStream_t stream) {
  require_codes(params.range, "add");
  const BinaryParams p = params;
  for_parts("add", n, aligned(a, b, y), stream, [=] __device__(const Part& part) {
    const Add add(p);
    const Eight<uint8_t> left = load(a, part), right = load(b, part);
    Eight<uint8_t> result;
    unsigned bits = 0;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const float v = add.value(left.at[k], right.at[k]);
      result.at[k] = add.code(v);
      bits |= static_cast<unsigned>(v >= add.lo && v <= add.hi && (!relu || v > add.lo)) << k;
    }
    store(y, part, result);
    store_mask(inside, part, bits);
  });
}

void add_broadcast(const uint8_t* a, bool broadcast_a, const uint8_t* b, int64_t batch, int64_t pixels,
                   int64_t channels, const BinaryParams& params, uint8_t* y, cudaStream_t stream) {
  require_codes(params.range, "add_broadcast");
  BinaryParams p = params;
  if (broadcast_a) {
    std::swap(a, b);
    std::swap(p.scale_a, p.scale_b);
    std::swap(p.zero_a, p.zero_b);
  }
  const uint8_t* big = a;
  const uint8_t* small = b;
  for_parts("add_broadcast", batch * pixels * channels, aligned(big, y), stream, [=] __device__(const Part& part) {
    store(y, part, mapped(Add(p), load(big, part), Broadcast{pixels, channels}.load(small, part)));
  });
}

void mul(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& params, uint8_t* y, cudaStream_t stream) {
  require_codes(params.range, "mul");
  const BinaryParams p = params;
  for_parts("mul", n, aligned(a, b, y), stream,
            [=] __device__(const Part& part) { store(y, part, mapped(Mul(p), load(a, part), load(b, part))); });
}

void mul_broadcast(const uint8_t* a, const uint8_t* b, int64_t batch, int64_t pixels, int64_t channels,
                   const BinaryParams& params, uint8_t* y, cudaStream_t stream) {
  require_codes(params.range, "mul_broadcast");
  const BinaryParams p = params;
  for_parts("mul_broadcast", batch * pixels * channels, aligned(a, y), stream, [=] __device__(const Part& part) {
    store(y, part, mapped(Mul(p), load(a, part), Broadcast{pixels, channels}.load(b, part)));
  });
}

void relu(const uint8_t* x, int64_t n, const int32_t* zero_point, uint8_t* y, uint8_t* inside, cudaStream_t stream) {
  for_parts("relu", n, aligned(x, y), stream, [=] __device__(const Part& part) {
    const auto zero = static_cast<uint8_t>(*zero_point);
    Eight<uint8_t> codes = load(x, part);
    unsigned bits = 0;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const bool positive = codes.at[k] > zero;
      bits |= static_cast<unsigned>(positive) << k;
      codes.at[k] = positive ? codes.at[k] : zero;
    }
    store(y, part, codes);
    store_mask(inside, part, bits);
  });
}

void lookup(const uint8_t* x, int64_t n, const int16_t* table, uint8_t* y, cudaStream_t stream) {
  for_parts("lookup", n, aligned(x, y), stream, [=] __device__(const Part& part) {
    Eight<uint8_t> codes = load(x, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) codes.at[k] = static_cast<uint8_t>(table[codes.at[k]]);
    store(y, part, codes);
  });
}

size_t add_scale_gradient_scratch(int64_t n) { return products_scratch(n); }

void add_scale_gradient(const float* g, const uint8_t* a, const uint8_t* b, const uint8_t* y, const uint8_t* inside,
                        int64_t n, const BinaryParams& params, double factor, float* gradient, void* scratch,
                        cudaStream_t stream) {
  sum_products("add_scale_gradient", n, AddScaleTerms{g, a, b, y, inside, params}, scratch, factor, gradient, stream);
}

}  // namespace qat::ops::cuda
