// The backward passes of requantize.h.
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/sums.cuh"

namespace qat::ops::cuda {
namespace {

/// g (code - z - t) with t = x / scale where inside.
struct EncodeScaleTerms {
  using Item = Product;
  struct Cursor {
    __device__ Product operator()(int64_t i) const {
      const float centred = static_cast<float>(p.codes[i] - zero_point), t = p.x[i] / scale;
      return {p.g[i], inside(i) ? centred - t : centred};
    }
    const EncodeScaleTerms& p;
    MaskBits inside;
    int32_t zero_point;
    float scale;
  };
  __device__ Cursor start(int64_t, int64_t) const { return {*this, MaskBits(inside, g), *zero_point, *scale}; }
  const float* g;
  const uint8_t* codes;
  const uint8_t* inside;
  const float* x;
  const float* scale;
  const int32_t* zero_point;
};

}  // namespace

void mask_gradient(const float* g, const uint8_t* inside, int64_t n, float* dx, cudaStream_t stream) {
  for_parts("mask_gradient", n, aligned(g, dx), stream, [=] __device__(const Part& part) {
    Eight<float> gradient = load(g, part);
    const unsigned bits = load_mask(inside, part);
#pragma unroll
    for (int e = 0; e < kEight; ++e) gradient.at[e] = (bits >> e) & 1 ? gradient.at[e] : 0.0f;
    store(dx, part, gradient);
  });
}

size_t encode_scale_gradient_scratch(int64_t n) { return products_scratch(n); }

void encode_scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x,
                           const float* scale, const int32_t* zero_point, int64_t n, double factor, float* gradient,
                           void* scratch, cudaStream_t stream) {
  const EncodeScaleTerms terms{g, codes, inside, x, scale, zero_point};
  sum_products("encode_scale_gradient", n, terms, scratch, factor, gradient, stream);
}

}  // namespace qat::ops::cuda
