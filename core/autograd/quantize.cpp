#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "core/autograd/conv_backward.h"
#include "core/autograd/functions.h"
#include "core/autograd/node.h"
#include "core/autograd/watched.h"
#include "core/base/error.h"
#include "core/base/pass_timer.h"
#include "core/ops/encode.h"
#include "core/ops/requantize.h"
#include "core/ops/weight_codes.h"

namespace qat::autograd {
namespace {

using at::Tensor;

struct EncodeBackward final : Backward {
  Tensor inside;
  bool learn = false;
  Watched x;
  KeptCodes kept;
  float scale = 1;
  ops::CodeRange range;
  double gradient_scale = 1;

  std::string name() const override { return "qat::encode"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const float* g = grad.const_data_ptr<float>();
    const uint8_t* bits = inside.const_data_ptr<uint8_t>();
    if (needed[0]) {
      result[0] = empty_kernel_layout(grad.sizes(), at::kFloat);
      ops::mask_gradient(g, bits, grad.numel(), result[0].mutable_data_ptr<float>());
    }
    if (learn && needed[1]) {
      const Tensor codes = kept.codes();
      const double ds = ops::encode_scale_gradient(g, codes.const_data_ptr<uint8_t>(), bits,
                                                   x.get(name()).const_data_ptr<float>(), scale, range, grad.numel());
      result[1] = at::empty({1}, at::kFloat).fill_(ds * gradient_scale);
    }
    return result;
  }
};

int64_t depth_of(const Tensor& values, int64_t rows) { return rows == 0 ? 0 : values.numel() / rows; }

/// The weight itself is kept (it is a parameter); its codes and masks are made again.
struct WeightBackward final : Backward, RemakesCodes {
  Watched kept;
  Tensor scale;
  int32_t lo = 0, hi = 0;
  GradientRule rule = GradientRule::kStraightThrough;
  double gradient_scale = 1;
  bool clipped = true;

  std::string name() const override { return "qat::quantize_weight"; }

  Tensor codes() const override {
    const PassTimer timer("codes of weights, again");
    const Tensor values = kernel_layout(kept.get(name()));
    const int64_t rows = values.size(0);
    const Tensor per_row = scale.repeat_interleave(rows / scale.numel());
    Tensor codes = empty_kernel_layout(values.sizes(), at::kChar);
    ops::encode_weights(values.const_data_ptr<float>(), rows, depth_of(values, rows), per_row.const_data_ptr<float>(),
                        lo, hi, codes.mutable_data_ptr<int8_t>());
    return codes;
  }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    const PassTimer timer("gradients of weights' quantizers");
    std::vector<Tensor> result(needed.size());
    // The observed range covers the data: the rounded code decides, so that the largest weight, which may lie a last
    // bit above hi, learns too.
    const bool by_code = rule == GradientRule::kStraightThrough,
               learn = needed[1] && rule == GradientRule::kLearnedStep;
    if (by_code && !clipped) {
      result[0] = grad;
      return result;
    }
    const Tensor weight = kernel_layout(kept.get(name()));
    const int64_t scales = scale.numel();
    std::vector<double> ds(learn ? scales : 0);
    if (needed[0]) result[0] = empty_kernel_layout(weight.sizes(), at::kFloat);
    ops::encode_weights_gradient(weight.const_data_ptr<float>(), grad.const_data_ptr<float>(), scales,
                                 depth_of(weight, scales), scale.const_data_ptr<float>(), lo, hi, by_code,
                                 needed[0] ? result[0].mutable_data_ptr<float>() : nullptr,
                                 learn ? ds.data() : nullptr);
    if (learn) {
      result[1] = at::empty({scales}, at::kFloat);
      for (int64_t i = 0; i < scales; ++i) {
        result[1].mutable_data_ptr<float>()[i] = static_cast<float>(ds[i] * gradient_scale);
      }
    }
    return result;
  }
};

}  // namespace

ops::CodeRange OutputQuantizer::range() const {
  return {.lo = lo, .hi = hi, .zero_point = *zero_point.const_data_ptr<int32_t>()};
}

float OutputQuantizer::scale_value() const { return *scale.const_data_ptr<float>(); }

double OutputQuantizer::gradient_scale_of(const Tensor& codes) const {
  return gradient_scale ? gradient_scale(codes.numel() / std::max<int64_t>(codes.size(0), 1)) : 1.0;
}

QuantizedTensor encode(const Tensor& x, const OutputQuantizer& output) {
  QAT_CHECK(x.scalar_type() == at::kFloat, "expected float32 values to quantize, found {}",
            c10::toString(x.scalar_type()));
  const bool learn = output.learns();
  std::vector<Tensor> inputs{x};
  if (learn) inputs.push_back(output.scale);
  const bool record = needs_gradient(inputs);

  auto saved = std::make_unique<EncodeBackward>();
  Tensor codes = empty_kernel_layout(x.sizes(), at::kByte);
  KeptCodes kept;
  {
    const at::NoGradGuard no_grad;
    const PassTimer timer("codes of values");
    const Tensor values = kernel_layout(x.detach());
    if (output.observe) {
      const auto [lo, hi] = at::aminmax(values);
      output.observe(lo.item<float>(), hi.item<float>());
    }
    saved->range = output.range();
    saved->scale = output.scale_value();
    if (record) saved->inside = at::empty({(codes.numel() + 7) / 8}, at::kByte);
    ops::encode(values.const_data_ptr<float>(), values.numel(), saved->scale, saved->range,
                codes.mutable_data_ptr<uint8_t>(), record ? saved->inside.mutable_data_ptr<uint8_t>() : nullptr);
    if (record && learn) saved->x = Watched(values), saved->kept = kept = KeptCodes(codes, saved->range);
  }
  saved->learn = learn;
  saved->gradient_scale = output.gradient_scale_of(codes);
  const ops::CodeRange range = saved->range;
  const float scale = saved->scale;
  Tensor handle = make_handle(codes.sizes());
  return {codes, scale, range, connect(handle, inputs, std::move(saved)), kept};
}

QuantizedWeight quantize_weight(const Tensor& weight, const Tensor& scale, int32_t lo, int32_t hi, GradientRule rule,
                                double gradient_scale) {
  const int64_t channels = weight.size(0);
  QAT_CHECK(scale.numel() > 0 && channels % scale.numel() == 0, "{} scales do not divide a weight's {} output channels",
            scale.numel(), channels);
  QuantizedWeight result;
  bool clipped = true;
  {
    const PassTimer timer("codes of weights");
    const at::NoGradGuard no_grad;
    const Tensor values = kernel_layout(weight.detach());
    result.scale = scale.detach().repeat_interleave(channels / scale.numel());
    result.codes = empty_kernel_layout(weight.sizes(), at::kChar);
    clipped =
        ops::encode_weights(values.const_data_ptr<float>(), channels, depth_of(values, channels),
                            result.scale.const_data_ptr<float>(), lo, hi, result.codes.mutable_data_ptr<int8_t>());
  }
  auto saved = std::make_unique<WeightBackward>();
  if (needs_gradient({weight, scale})) saved->kept = Watched(weight.detach());
  saved->scale = scale.detach().clone();
  saved->lo = lo, saved->hi = hi;
  saved->rule = rule, saved->gradient_scale = gradient_scale;
  saved->clipped = clipped;
  result.handle = connect(make_handle(weight.sizes()), {weight, scale}, std::move(saved));
  return result;
}

Tensor dequantize(const QuantizedWeight& weight) {
  Tensor values;
  {
    const at::NoGradGuard no_grad;
    std::vector<int64_t> rows(weight.codes.dim(), 1);
    rows[0] = weight.scale.numel();
    values = weight.codes.to(at::kFloat) * weight.scale.view(rows);
  }
  return connect(values, {weight.handle}, std::make_unique<PassThrough>());
}

}  // namespace qat::autograd
