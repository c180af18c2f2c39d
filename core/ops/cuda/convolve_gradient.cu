#include "core/ops/cuda/bfloat16.cuh"
#include "core/ops/cuda/convolve_gradient.h"
#include "core/ops/cuda/convolve_gradient_kernels.h"
#include "core/ops/cuda/eights.cuh"

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

/// Eight channels of the padded operand: rows of them may start anywhere in dy.
__device__ Eight<float> scaled(const float* dy, const float* scale, int64_t out_c, int64_t row, int64_t channel,
                               bool vectors) {
  const int64_t left = out_c - channel;
  const Part part{0, left < kEight ? static_cast<int>(left) : kEight, vectors};
  Eight<float> values = load(dy + row * out_c + channel, part);
  const Eight<float> scales = load(scale + channel, part);
#pragma unroll
  for (int k = 0; k < kEight; ++k) values.at[k] *= scales.at[k];  // zeros behind the last channel
  return values;
}

}  // namespace

size_t gradient_operand_bytes(const ConvGeometry& g, GradientPrecision precision) {
  check("gradient_operand", g);
  const auto rows = static_cast<size_t>(g.rows());
  if (!kernels::is_dense(g)) return rows * static_cast<size_t>(g.out_c) * sizeof(float);
  return rows * static_cast<size_t>(kernels::planes(precision) * kernels::padded_channels(g.out_c)) * sizeof(Bfloat16);
}

void gradient_operand(const ConvGeometry& g, GradientPrecision precision, const float* dy, const float* scale_w,
                      void* operand, cudaStream_t stream) {
  check("gradient_operand", g);
  const int64_t out_c = g.out_c;
  if (!kernels::is_dense(g)) {
    auto* to = static_cast<float*>(operand);
    const bool vectors = aligned(dy, scale_w, to);
    for_parts("gradient_operand", g.rows() * out_c, vectors, stream, [=] __device__(const Part& part) {
      Eight<float> values = load(dy, part);
      const Eight<float> scales = PartChannels(part, out_c).load(scale_w);
#pragma unroll
      for (int k = 0; k < kEight; ++k) values.at[k] *= scales.at[k];
      store(to, part, values);
    });
    return;
  }
  const int64_t padded = kernels::padded_channels(out_c), plane = g.rows() * padded;
  const bool vectors = aligned(dy, scale_w) && out_c % kEight == 0, both = precision == GradientPrecision::kFloat;
  auto* to = static_cast<Bfloat16*>(operand);
  for_parts("gradient_operand", plane, true, stream, [=] __device__(const Part& part) {
    const int64_t row = quotient(part.begin, padded);
    const Eight<float> values = scaled(dy, scale_w, out_c, row, part.begin - row * padded, vectors);
    Eight<Bfloat16> high, low;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      high.at[k] = to_bfloat16(values.at[k]);
      low.at[k] = to_bfloat16(values.at[k] - to_float(high.at[k]));
    }
    store(to, part, high);
    if (both) store(to + plane, part, low);
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
