// The backward passes of requantize.h.
#include "core/ops/cuda/kept.cuh"
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/sums.cuh"

namespace qat::ops::cuda {
namespace {

__device__ bool mask_bit(const uint8_t* mask, int64_t i) {
  return mask == nullptr || ((mask[i / 8] >> (i % 8)) & 1) != 0;
}

struct Gradient {
  float g, a;
};

struct Sums {
  __device__ void add(const Gradient& value) {
    s1 += value.g;
    s2 += static_cast<double>(value.g) * static_cast<double>(value.a);  // the product is exact
  }
  __device__ void join(const Sums& other) {
    s1 += other.s1;
    s2 += other.s2;
  }
  double s1 = 0;
  double s2 = 0;
};

template <Keeping kKeeping>
__device__ Eight<float> load_kept(const KeptAccumulators& kept, const Part& part, const PartChannels& channel) {
  Eight<float> a = {};
  if constexpr (kKeeping == Keeping::kCompact) {
    const Eight<int16_t> values = load(kept.compact, part);
    const Eight<int32_t> middle = channel.load(kept.middle);
    const Eight<float> step = channel.load(kept.step);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      a.at[k] = static_cast<float>(middle.at[k]) + static_cast<float>(values.at[k]) * step.at[k];
    }
  } else if constexpr (kKeeping == Keeping::kExact) {
    const Eight<int32_t> values = load(kept.exact, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) a.at[k] = static_cast<float>(values.at[k]);
  }
  return a;
}

template <Keeping kKeeping>
void reduce(const float* g, const uint8_t* inside, const KeptAccumulators& kept, const Chunks& chunks, double* s1,
            double* s2, void* scratch, cudaStream_t stream) {
  const KeptAccumulators k = kept;
  sum_channels<Sums>(
      "reduce_gradient", chunks,
      [=] __device__(int64_t i, int64_t c) {
        return Gradient{mask_bit(inside, i) ? g[i] : 0.0f, kept_value<kKeeping>(k, i, c)};
      },
      [=] __device__(int64_t c, const Sums& sums) {
        s1[c] = sums.s1;
        if (kKeeping != Keeping::kNothing) s2[c] = sums.s2;
      },
      scratch, stream);
}

/// dx = (inside ? slope * g : 0) + (inner * a + constant).
struct AffineGradient {
  const float* slope;
  const float* inner;
  const float* constant;
};

template <Keeping kKeeping>
void affine(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t n, int64_t channels,
            const AffineGradient& p, float* dx, cudaStream_t stream) {
  const KeptAccumulators k = kept;
  const AffineGradient constants = p;
  const bool vectors = aligned(g, p.slope, p.inner, p.constant, dx) && aligned(kept.compact, kept.exact) &&
                       aligned(kept.middle, kept.step);
  for_parts("batch_norm_gradient", n, vectors, stream, [=] __device__(const Part& part) {
    const PartChannels channel(part, channels);
    const Eight<float> gradient = load(g, part), a = load_kept<kKeeping>(k, part, channel);
    const Eight<float> slope = channel.load(constants.slope), inner = channel.load(constants.inner);
    const Eight<float> constant = channel.load(constants.constant);
    const unsigned bits = load_mask(inside, part);
    Eight<float> result;
#pragma unroll
    for (int e = 0; e < kEight; ++e) {
      const float masked = (bits >> e) & 1 ? slope.at[e] * gradient.at[e] : 0.0f;
      result.at[e] = masked + (inner.at[e] * a.at[e] + constant.at[e]);
    }
    store(dx, part, result);
  });
}

/// t = a * multiplier + offset.
struct Affine {
  const float* multiplier;
  const float* offset;  // may be null
};

template <Keeping kKeeping>
void sum_scale(const float* g, const uint8_t* codes, const uint8_t* inside, const KeptAccumulators& kept,
               const Affine& p, const int32_t* zero_point, int64_t rows, int64_t channels, double* ds, void* scratch,
               cudaStream_t stream) {
  const KeptAccumulators k = kept;
  const Affine affine = p;
  const int64_t n = rows * channels, chunk = n == 0 ? 1 : Chunks(rows, channels).chunk;
  const auto term = [=] __device__(int64_t i) {
    float value = static_cast<float>(codes[i] - *zero_point);
    const int64_t c = remainder(i, channels);
    const float a = kept_value<kKeeping>(k, i, c), m = affine.multiplier[c];
    const float t = affine.offset == nullptr ? a * m : fmaf(a, m, affine.offset[c]);
    if (mask_bit(inside, i)) value -= t;
    return Term{g[i], value};
  };
  sum_terms<kStep, false>("scale_gradient", n, chunk, term, static_cast<double*>(scratch), ds, stream);
}

}  // namespace

size_t reduce_gradient_scratch(int64_t rows, int64_t channels) {
  if (rows * channels == 0) return 0;
  const Chunks chunks(rows, channels);
  return static_cast<size_t>(chunks.count * chunks.period) * sizeof(Sums);
}

void reduce_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                     int64_t channels, double* s1, double* s2, void* scratch, cudaStream_t stream) {
  if (channels == 0) return;
  with_keeping("reduce_gradient", kept, [&](auto keeping) {
    reduce<keeping>(g, inside, kept, Chunks(rows, channels), s1, s2, scratch, stream);
  });
}

void batch_norm_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                         int64_t channels, const float* a_g, const float* b_a, const float* c0, float* dx,
                         cudaStream_t stream) {
  with_keeping("batch_norm_gradient", kept, [&](auto keeping) {
    affine<keeping>(g, inside, kept, rows * channels, channels, {a_g, b_a, c0}, dx, stream);
  });
}

void mask_gradient(const float* g, const uint8_t* inside, int64_t n, float* dx, cudaStream_t stream) {
  for_parts("mask_gradient", n, aligned(g, dx), stream, [=] __device__(const Part& part) {
    Eight<float> gradient = load(g, part);
    const unsigned bits = load_mask(inside, part);
#pragma unroll
    for (int e = 0; e < kEight; ++e) gradient.at[e] = (bits >> e) & 1 ? gradient.at[e] : 0.0f;
    store(dx, part, gradient);
  });
}

size_t scale_gradient_scratch(int64_t rows, int64_t channels) {
  if (rows * channels == 0) return 0;
  return static_cast<size_t>(Chunks(rows, channels).count * kStep) * sizeof(double);
}

void scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const KeptAccumulators& kept,
                    const float* multiplier, const float* offset, const int32_t* zero_point, int64_t rows,
                    int64_t channels, double* ds, void* scratch, cudaStream_t stream) {
  require(rows * channels == 0 || kept.compact != nullptr || kept.exact != nullptr, "scale_gradient",
          "needs the kept accumulators");
  with_keeping("scale_gradient", kept, [&](auto keeping) {
    sum_scale<keeping>(g, codes, inside, kept, {multiplier, offset}, zero_point, rows, channels, ds, scratch, stream);
  });
}

void encode_scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x,
                           const float* scale, const int32_t* zero_point, int64_t n, double* ds, void* scratch,
                           cudaStream_t stream) {
  const auto term = [=] __device__(int64_t i) {
    float value = static_cast<float>(codes[i] - *zero_point);
    if (mask_bit(inside, i)) value -= x[i] / *scale;
    return Term{g[i], value};
  };
  sum_terms<kStep, false>("encode_scale_gradient", n, chunk_of(kStep), term, static_cast<double*>(scratch), ds, stream);
}

}  // namespace qat::ops::cuda
