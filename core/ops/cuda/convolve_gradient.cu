#include "core/ops/cuda/bfloat16.cuh"
#include "core/ops/cuda/convolve_gradient.h"
#include "core/ops/cuda/convolve_gradient_kernels.h"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/kept.cuh"

namespace qat::ops::cuda {
namespace {

using kernels::ConvShape;

void check(const char* kernel, const ConvGeometry& g) {
  kernels::check(kernel, g);
  constexpr int64_t kLimit = int64_t{1} << 30;
  require(g.stride_h < kLimit && g.stride_w < kLimit, kernel, "the strides are too large for the GPU's kernels");
  // Pixels that a stride leaves out count here, too.
  require(g.batch < kLimit / (g.in_h * g.in_w), kernel, "the input has too many pixels for the GPU's kernels");
}

/// What a channel's gradients need.
struct GradientNumbers {
  Eight<float> slope, inner, constant, scale;
  KeptNumbers kept;
};

/// dy * scale_w of elements that may begin anywhere.
template <Keeping kKeeping, bool kAffine>
struct ScaledGradient {
  __device__ GradientNumbers numbers(const PartChannels& channel) const {
    GradientNumbers n = {};
    if constexpr (kAffine) {
      n.slope = channel.load(dy.slope), n.inner = channel.load(dy.inner), n.constant = channel.load(dy.constant);
      n.kept = load_numbers<kKeeping>(dy.kept, channel);
    }
    n.scale = channel.load(scale_w);
    return n;
  }

  __device__ Eight<float> values(const Part& part, const GradientNumbers& n) const {
    Eight<float> result = load(dy.g, part);
    const unsigned bits = mask(part);
    if constexpr (kAffine) {
      const Eight<float> a = load_kept<kKeeping>(dy.kept, part, n.kept);
#pragma unroll
      for (int k = 0; k < kEight; ++k) {
        const float masked = (bits >> k) & 1 ? n.slope.at[k] * result.at[k] : 0.0f;
        result.at[k] = masked + (n.inner.at[k] * a.at[k] + n.constant.at[k]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kEight; ++k) result.at[k] = (bits >> k) & 1 ? result.at[k] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kEight; ++k) result.at[k] *= n.scale.at[k];
    return result;
  }

  __device__ unsigned mask(const Part& part) const {
    if (dy.inside == nullptr || part.begin % kEight == 0) return load_mask(dy.inside, part);
    unsigned bits = 0;
    for (int k = 0; k < part.count; ++k) {
      const int64_t i = part.begin + k;
      bits |= static_cast<unsigned>(dy.inside[i / kEight] >> (i % kEight) & 1) << k;
    }
    return bits;
  }

  ProductGradient dy;
  const float* scale_w;
};

/// Eight values as the nearest bfloat16, and as those of what they leave.
struct Planes {
  __device__ explicit Planes(const Eight<float>& values) {
#pragma unroll
    for (int k = 0; k < kEight; k += 2) {
      const float first = values.at[k], second = values.at[k + 1];
      high.at[k / 2] = to_bfloat16s(first, second);
      low.at[k / 2] = to_bfloat16s(first - __uint_as_float(high.at[k / 2] << 16),
                                   second - __uint_as_float(high.at[k / 2] & 0xffff0000u));
    }
  }
  struct alignas(16) Eights {
    uint32_t at[kEight / 2];
  };
  Eights high, low;
};

/// operand: 16-byte places of the padded plane.
__device__ void store_planes(const Eight<float>& values, Bfloat16* operand, int64_t place, int64_t plane, bool both) {
  const Planes planes(values);
  *reinterpret_cast<Planes::Eights*>(operand + place) = planes.high;
  if (both) *reinterpret_cast<Planes::Eights*>(operand + plane + place) = planes.low;
}

template <class Gradient>
void make_operand(const ConvGeometry& g, GradientPrecision precision, const Gradient& gradient, bool vectors,
                  void* operand, cudaStream_t stream) {
  constexpr const char* kName = "gradient_operand";
  const int64_t out_c = g.out_c, padded = kernels::padded_channels(out_c), plane = g.rows() * padded;
  const auto numbers = [=] __device__(const PartChannels& channel) { return gradient.numbers(channel); };
  if (!kernels::is_dense(g)) {
    auto* to = static_cast<float*>(operand);
    for_rows(kName, g.rows(), out_c, vectors, stream, numbers,
             [=] __device__(const Part& part, const GradientNumbers& n) { store(to, part, gradient.values(part, n)); });
    return;
  }
  const bool both = precision == GradientPrecision::kFloat;
  auto* to = static_cast<Bfloat16*>(operand);
  if (vectors && padded == out_c) {
    for_rows(kName, g.rows(), out_c, true, stream, numbers, [=] __device__(const Part& part, const GradientNumbers& n) {
      store_planes(gradient.values(part, n), to, part.begin, plane, both);
    });
    return;
  }
  for_parts(kName, plane, true, stream, [=] __device__(const Part& part) {
    const int64_t row = quotient(part.begin, padded), channel = part.begin - row * padded, left = out_c - channel;
    const Part from{row * out_c + channel, left < kEight ? static_cast<int>(left) : kEight, false};
    Eight<float> values = gradient.values(from, gradient.numbers(PartChannels(from, out_c)));
#pragma unroll
    for (int k = 0; k < kEight; ++k) values.at[k] = k < from.count ? values.at[k] : 0.0f;
    store_planes(values, to, part.begin, plane, both);
  });
}

}  // namespace

size_t gradient_operand_bytes(const ConvGeometry& g, GradientPrecision precision) {
  check("gradient_operand", g);
  const auto rows = static_cast<size_t>(g.rows());
  if (!kernels::is_dense(g)) return rows * static_cast<size_t>(g.out_c) * sizeof(float);
  return rows * static_cast<size_t>(kernels::planes(precision) * kernels::padded_channels(g.out_c)) * sizeof(Bfloat16);
}

void gradient_operand(const ConvGeometry& g, GradientPrecision precision, const ProductGradient& dy,
                      const float* scale_w, void* operand, cudaStream_t stream) {
  check("gradient_operand", g);
  const bool affine = dy.slope != nullptr;
  require(affine == (dy.inner != nullptr) && affine == (dy.constant != nullptr), "gradient_operand",
          "slope, inner and constant come together");
  const bool vectors = aligned(dy.g, scale_w, dy.slope, dy.inner, dy.constant) &&
                       aligned(dy.kept.compact, dy.kept.exact, dy.kept.middle, dy.kept.step, operand);
  if (!affine) {
    make_operand(g, precision, ScaledGradient<Keeping::kNothing, false>{dy, scale_w}, vectors, operand, stream);
    return;
  }
  with_keeping("gradient_operand", dy.kept, [&](auto keeping) {
    make_operand(g, precision, ScaledGradient<keeping, true>{dy, scale_w}, vectors, operand, stream);
  });
}

size_t input_gradient_scratch(const ConvGeometry& g, GradientPrecision) {
  check("input_gradient", g);
  return kernels::is_dense(g) ? kernels::input_gradient_dense_scratch(ConvShape(g)) : 0;
}

void input_gradient(const ConvGeometry& g, GradientPrecision precision, const void* operand, const int8_t* w, bool add,
                    float* dx, void* scratch, cudaStream_t stream) {
  check("input_gradient", g);
  if (g.batch == 0) return;
  const ConvShape shape(g);
  if (kernels::is_dense(g)) {
    kernels::input_gradient_dense(shape, precision, operand, w, add, dx, scratch, stream);
  } else {
    kernels::input_gradient_grouped(shape, static_cast<const float*>(operand), w, add, dx, stream);
  }
}

size_t weight_gradient_scratch(const ConvGeometry& g, GradientPrecision) {
  check("weight_gradient", g);
  return kernels::is_dense(g) ? kernels::weight_gradient_dense_scratch(ConvShape(g))
                              : kernels::weight_gradient_grouped_scratch(ConvShape(g));
}

void weight_gradient(const ConvGeometry& g, GradientPrecision precision, const uint8_t* x, const int32_t* zero_point,
                     const void* operand, const float* factor, float* dw, void* scratch, cudaStream_t stream) {
  check("weight_gradient", g);
  if (g.batch == 0) {
    cudaMemsetAsync(dw, 0, static_cast<size_t>(g.out_c * g.depth()) * sizeof(float), stream);
    return;
  }
  const ConvShape shape(g);
  if (kernels::is_dense(g)) {
    kernels::weight_gradient_dense(shape, precision, x, zero_point, operand, factor, dw, scratch, stream);
  } else {
    kernels::weight_gradient_grouped(shape, x, zero_point, static_cast<const float*>(operand), factor, dw, scratch,
                                     stream);
  }
}

}  // namespace qat::ops::cuda
