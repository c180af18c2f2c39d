// The backward passes of requantize.h.
#include "core/ops/cuda/kept.cuh"
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/sums.cuh"

namespace qat::ops::cuda {
namespace {

/// A gradient's element and its accumulator.
struct Pair {
  float g, a;
};

struct Sums {
  static __device__ Sums none() { return {0.0, 0.0}; }
  __device__ void add(const Pair& value) {
    const double g = value.g;
    s1 += g;
    s2 = fma(g, static_cast<double>(value.a), s2);  // the product is exact
  }
  __device__ void join(const Sums& other) {
    s1 += other.s1;
    s2 += other.s2;
  }
  double s1, s2;
};

/// Gradients where inside, and accumulators, of one channel.
template <Keeping kKeeping>
struct Gradients {
  using Item = Pair;
  struct Cursor {
    __device__ Pair operator()(int64_t i) const {
      const float value = g[i];
      return {inside(i) ? value : 0.0f, channel(kept, i)};
    }
    const float* g;
    MaskBits inside;
    KeptAccumulators kept;
    KeptChannel<kKeeping> channel;
  };
  __device__ Cursor start(int64_t i, int64_t) const {
    return {g, MaskBits(inside, g), kept, KeptChannel<kKeeping>(kept, remainder(i, channels))};
  }
  const float* g;
  const uint8_t* inside;
  KeptAccumulators kept;
  int64_t channels;
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
void reduce(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows, int64_t channels,
            double* s1, double* s2, void* scratch, cudaStream_t stream) {
  sum_channels<Sums>(
      "reduce_gradient", rows, channels, Gradients<kKeeping>{g, inside, kept, channels},
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

/// g (code - z - t) with t = a * multiplier + offset where inside.
template <Keeping kKeeping>
struct ScaleTerms {
  using Item = double;
  /// One channel's constants. No offset adds a zero, which changes no difference.
  struct Channel {
    __device__ Channel(const ScaleTerms& p, int64_t c)
        : kept(p.kept, c), multiplier(p.multiplier[c]), offset(p.offset == nullptr ? 0.0f : p.offset[c]) {}
    KeptChannel<kKeeping> kept;
    float multiplier, offset;
  };
  struct Cursor {
    __device__ double operator()(int64_t i) {
      const float t = fmaf(channel.kept(p.kept, i), channel.multiplier, channel.offset);
      const float centred = static_cast<float>(p.codes[i] - zero_point);
      const double term = static_cast<double>(p.g[i]) * static_cast<double>(inside(i) ? centred - t : centred);
      if (step != 0) {
        c += step;
        if (c >= p.channels) c -= p.channels;
        channel = Channel(p, c);
      }
      return term;
    }
    const ScaleTerms& p;
    MaskBits inside;
    int32_t zero_point;
    int64_t c, step;  // channel, and channels to the next element
    Channel channel;
  };
  __device__ Cursor start(int64_t i, int64_t step) const {
    const int64_t c = remainder(i, channels);
    return {*this, MaskBits(inside, g), *zero_point, c, remainder(step, channels), Channel(*this, c)};
  }
  const float* g;
  const uint8_t* codes;
  const uint8_t* inside;
  KeptAccumulators kept;
  const float* multiplier;
  const float* offset;  // may be null
  const int32_t* zero_point;
  int64_t channels;
};

/// The same with t = x / scale.
struct EncodeScaleTerms {
  using Item = double;
  struct Cursor {
    __device__ double operator()(int64_t i) const {
      const float centred = static_cast<float>(p.codes[i] - zero_point), t = p.x[i] / scale;
      return static_cast<double>(p.g[i]) * static_cast<double>(inside(i) ? centred - t : centred);
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

size_t reduce_gradient_scratch(int64_t rows, int64_t channels) { return channel_scratch<Sums>(rows, channels); }

void reduce_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                     int64_t channels, double* s1, double* s2, void* scratch, cudaStream_t stream) {
  with_keeping("reduce_gradient", kept,
               [&](auto keeping) { reduce<keeping>(g, inside, kept, rows, channels, s1, s2, scratch, stream); });
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
  return static_cast<size_t>(channel_columns(rows, channels).chunks() * kStep) * sizeof(Total);
}

void scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const KeptAccumulators& kept,
                    const float* multiplier, const float* offset, const int32_t* zero_point, int64_t rows,
                    int64_t channels, double* ds, void* scratch, cudaStream_t stream) {
  require(rows * channels == 0 || kept.compact != nullptr || kept.exact != nullptr, "scale_gradient",
          "needs the kept accumulators");
  const int64_t n = rows * channels, chunk = n == 0 ? 1 : channel_columns(rows, channels).chunk;
  with_keeping("scale_gradient", kept, [&](auto keeping) {
    const ScaleTerms<keeping> terms{g, codes, inside, kept, multiplier, offset, zero_point, channels};
    sum_terms<kStep, false>("scale_gradient", n, chunk, terms, scratch, ds, stream);
  });
}

void encode_scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x,
                           const float* scale, const int32_t* zero_point, int64_t n, double* ds, void* scratch,
                           cudaStream_t stream) {
  const EncodeScaleTerms terms{g, codes, inside, x, scale, zero_point};
  sum_terms<kStep, false>("encode_scale_gradient", n, chunk_of(kStep), terms, scratch, ds, stream);
}

}  // namespace qat::ops::cuda
