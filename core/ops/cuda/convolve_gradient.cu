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

/// dy * scale_w of elements that may begin anywhere.
template <Keeping kKeeping, bool kAffine>
struct ScaledGradient {
  __device__ Eight<float> operator()(const Part& part, const PartChannels& channel) const {
    Eight<float> result = load(dy.g, part);
    const unsigned bits = mask(part);
    if constexpr (kAffine) {
      const Eight<float> a = load_kept<kKeeping>(dy.kept, part, channel), slope = channel.load(dy.slope);
      const Eight<float> inner = channel.load(dy.inner), constant = channel.load(dy.constant);
#pragma unroll
      for (int k = 0; k < kEight; ++k) {
        const float masked = (bits >> k) & 1 ? slope.at[k] * result.at[k] : 0.0f;
        result.at[k] = masked + (inner.at[k] * a.at[k] + constant.at[k]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kEight; ++k) result.at[k] = (bits >> k) & 1 ? result.at[k] : 0.0f;
    }
    const Eight<float> scale = channel.load(scale_w);
#pragma unroll
    for (int k = 0; k < kEight; ++k) result.at[k] *= scale.at[k];
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

template <class Gradient>
void make_operand(const ConvGeometry& g, GradientPrecision precision, const Gradient& gradient, bool vectors,
                  void* operand, cudaStream_t stream) {
  const int64_t out_c = g.out_c;
  if (!kernels::is_dense(g)) {
    auto* to = static_cast<float*>(operand);
    for_parts("gradient_operand", g.rows() * out_c, vectors, stream,
              [=] __device__(const Part& part) { store(to, part, gradient(part, PartChannels(part, out_c))); });
    return;
  }
  const int64_t padded = kernels::padded_channels(out_c), plane = g.rows() * padded;
  const bool whole = vectors && padded == out_c, both = precision == GradientPrecision::kFloat;
  auto* to = static_cast<Bfloat16*>(operand);
  for_parts("gradient_operand", plane, true, stream, [=] __device__(const Part& part) {
    const int64_t row = quotient(part.begin, padded), channel = part.begin - row * padded, left = out_c - channel;
    const Part from{row * out_c + channel, left < kEight ? static_cast<int>(left) : kEight, whole};
    const Eight<float> values = gradient(from, PartChannels(from, out_c));
    Eight<Bfloat16> high, low;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const float value = k < from.count ? values.at[k] : 0.0f;
      high.at[k] = to_bfloat16(value);
      low.at[k] = to_bfloat16(value - to_float(high.at[k]));
    }
    store(to, part, high);
    if (both) store(to + plane, part, low);
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
