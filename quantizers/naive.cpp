#include "quantizers/naive.h"

#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>

#include "quantizers/minmax.h"

namespace qat::quantizers {

Naive::Naive(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : UniformQuantizer(spec, {.round = "toward_zero", .clip = false}, quant::GradientRule::kStraightThrough),
      scale_(register_buffer("scale", at::zeros({spec.scales()}, at::kFloat))),
      zero_point_(register_buffer("zero_point", at::zeros({spec.scales()}, at::kInt))) {
  options.options.as<quant::NoOptions>();
}

void Naive::refresh(const at::Tensor& weight) {
  scale_.copy_(at::maximum(scale_, largest_scale(rows(weight), spec().hi())));
}

quant::QParams Naive::parameters_now() const { return {scale_, zero_point_}; }

}  // namespace qat::quantizers
