// The backward passes of requantize.h.
#include "core/ops/cuda/kept.cuh"
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/sums.cuh"

namespace qat::ops::cuda {
namespace {

/// A gradient's element where inside, and its accumulator, which as int16 is the integer itself.
struct Pair {
  float g, a;
};
/// The gradient anywhere, and its code without the zero point, besides.
struct Quad {
  float g, a, all, code;
};
template <bool kScale>
using GradientItem = std::conditional_t<kScale, Quad, Pair>;

/// Sums of g, of g * a and of g * code.
struct Totals {
  static __device__ Totals none() { return {0.0, 0.0, 0.0}; }
  __device__ void join(const Totals& other) {
    g += other.g;
    product += other.product;
    error += other.error;
  }
  double g, product, error;
};

/// Of accumulators that were kept exactly: in double.
template <bool kScale>
struct ExactSums {
  using Result = Totals;
  static __device__ ExactSums none() { return {Totals::none()}; }
  __device__ void add(const GradientItem<kScale>& value) {
    const double g = value.g;
    totals.g += g;
    totals.product = fma(g, static_cast<double>(value.a), totals.product);  // the product is exact
    if constexpr (kScale) {
      totals.error = fma(static_cast<double>(value.all), static_cast<double>(value.code), totals.error);
    }
  }
  __device__ Totals result() const { return totals; }
  Totals totals;
};

/// Of all others: groups of rows in float.
template <bool kScale>
struct GroupedSums {
  using Result = Totals;
  static __device__ GroupedSums none() { return {Totals::none(), 0.0f, 0.0f, 0.0f}; }
  __device__ void add(const GradientItem<kScale>& value) {
    g += value.g;
    product = fmaf(value.g, value.a, product);
    if constexpr (kScale) error = fmaf(value.all, value.code, error);
  }
  __device__ void end_group() {
    totals.g += g;
    totals.product += product;
    totals.error += error;
    g = product = error = 0.0f;
  }
  __device__ Totals result() const { return totals; }
  Totals totals;
  float g, product, error;
};

/// Gradients where inside, and accumulators, of one channel.
template <Keeping kKeeping, bool kScale>
struct Gradients {
  using Item = GradientItem<kScale>;
  struct Cursor {
    __device__ Item operator()(int64_t i) const {
      const float all = p.g[i], g = inside(i) ? all : 0.0f;
      float a = 0.0f;
      if constexpr (kKeeping == Keeping::kCompact) a = static_cast<float>(p.kept.compact[i]);
      if constexpr (kKeeping == Keeping::kExact) a = static_cast<float>(p.kept.exact[i]);
      if constexpr (kScale) {
        return {g, a, all, static_cast<float>(p.codes[i] - zero_point)};
      } else {
        return {g, a};
      }
    }
    const Gradients& p;
    MaskBits inside;
    int32_t zero_point;
  };
  __device__ Cursor start(int64_t, int64_t) const { return {*this, MaskBits(inside, g), kScale ? *zero_point : 0}; }
  const float* g;
  const uint8_t* inside;
  KeptAccumulators kept;
  const uint8_t* codes;       // with kScale
  const int32_t* zero_point;  // with kScale
};

template <Keeping kKeeping, bool kScale>
void reduce(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows, int64_t channels,
            double* s1, double* s2, const ScaleGradient& scale, void* scratch, cudaStream_t stream) {
  using Sums = std::conditional_t<kKeeping == Keeping::kExact, ExactSums<kScale>, GroupedSums<kScale>>;
  // Behind the partial sums: what each channel gives to the scale's gradient.
  auto* errors = reinterpret_cast<Total*>(static_cast<char*>(scratch) + channel_scratch<Sums>(rows, channels));
  const KeptAccumulators k = kept;
  const ScaleGradient s = scale;
  sum_channels<Sums>(
      "reduce_gradient", rows, channels, Gradients<kKeeping, kScale>{g, inside, kept, s.codes, s.zero_point},
      [=] __device__(int64_t c, const Totals& sums) {
        double product = sums.product;
        if (kKeeping == Keeping::kCompact) {
          product = k.middle[c] * sums.g + static_cast<double>(k.step[c]) * sums.product;
        }
        s1[c] = sums.g;
        if (kKeeping != Keeping::kNothing) s2[c] = product;
        if (kScale) {
          const double offset = s.offset == nullptr ? 0.0 : s.offset[c];
          errors[c].total = sums.error - (s.multiplier[c] * product + offset * sums.g);
        }
      },
      scratch, stream);
  if constexpr (kScale) {
    launch_kernel("reduce_gradient", sum_chain, 1, kThreads, 0, stream, errors, channels, s.sum);
  }
}

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

size_t reduce_gradient_scratch(int64_t rows, int64_t channels) {
  return channel_scratch<ExactSums<true>>(rows, channels) + static_cast<size_t>(channels) * sizeof(Total);
}

void reduce_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                     int64_t channels, double* s1, double* s2, const ScaleGradient* scale, void* scratch,
                     cudaStream_t stream) {
  require_consistent("reduce_gradient", kept);
  require(scale == nullptr || kept.compact != nullptr || kept.exact != nullptr, "reduce_gradient",
          "the gradient of a scale needs the kept accumulators");
  require(scale == nullptr || s2 != nullptr, "reduce_gradient", "the gradient of a scale needs the sums of products");
  with_keeping("reduce_gradient", s2 == nullptr ? KeptAccumulators{} : kept, [&](auto keeping) {
    if (scale == nullptr) {
      reduce<keeping, false>(g, inside, kept, rows, channels, s1, s2, {}, scratch, stream);
    } else if constexpr (keeping != Keeping::kNothing) {
      reduce<keeping, true>(g, inside, kept, rows, channels, s1, s2, *scale, scratch, stream);
    }
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

size_t encode_scale_gradient_scratch(int64_t n) { return products_scratch(n); }

void encode_scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x,
                           const float* scale, const int32_t* zero_point, int64_t n, double* ds, void* scratch,
                           cudaStream_t stream) {
  const EncodeScaleTerms terms{g, codes, inside, x, scale, zero_point};
  sum_products("encode_scale_gradient", n, terms, scratch, ds, stream);
}

}  // namespace qat::ops::cuda
