#include "core/ops/pointwise.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/avg_pool2d_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "core/autograd/functions.h"
#include "core/autograd/node.h"
#include "core/base/error.h"
#include "core/base/pass_timer.h"
#include "core/ops/pool.h"
#include "core/ops/requantize.h"

namespace qat::autograd {
namespace {

using at::Tensor;

Tensor masked(const Tensor& grad, const Tensor& inside) {
  Tensor result = empty_kernel_layout(grad.sizes(), at::kFloat);
  ops::mask_gradient(grad.const_data_ptr<float>(), inside.const_data_ptr<uint8_t>(), grad.numel(),
                     result.mutable_data_ptr<float>());
  return result;
}

const uint8_t* codes_of(const Tensor& t) { return t.const_data_ptr<uint8_t>(); }

void observe_values(const OutputQuantizer& output, const Tensor& values) {
  const auto [lo, hi] = at::aminmax(values);
  output.observe(lo.item<float>(), hi.item<float>());
}

/// ops::average_pool() counts a window's pixels behind the padding too, which LibTorch does not.
std::optional<int64_t> divisor_of(const Pool2d& pool) {
  return pool.count_include_pad ? std::optional(pool.kernel[0] * pool.kernel[1]) : std::nullopt;
}

Tensor real_values(const QuantizedTensor& x) {
  const at::NoGradGuard no_grad;
  return x.dequantize();
}

struct AddBackward final : Backward {
  Tensor inside;
  KeptCodes a, b, y;  // only where the scale learns
  ops::BinaryParams params;
  bool learn = false;
  double gradient_scale = 1;

  std::string name() const override { return "qat::add"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    const PassTimer timer("gradients of adds");
    std::vector<Tensor> result(needed.size());
    const bool learning = learn && needed[2];
    Tensor dx;
    if (needed[0] || needed[1]) {
      dx = learning ? empty_kernel_layout(grad.sizes(), at::kFloat) : masked(grad, inside);
      if (needed[0]) result[0] = dx;
      if (needed[1]) result[1] = dx;
    }
    if (learning) {
      const double ds =
          ops::add_scale_gradient(grad.const_data_ptr<float>(), a.stored(), b.stored(), y.stored(), codes_of(inside),
                                  grad.numel(), params, dx.defined() ? dx.mutable_data_ptr<float>() : nullptr);
      result[2] = at::empty({1}, at::kFloat).fill_(ds * gradient_scale);
    }
    return result;
  }
};

/// The operands' codes are theirs anyway; the mask is made again from them, with the forward's arithmetic.
struct MulBackward final : Backward {
  KeptCodes a, b, y;
  ops::BinaryParams params;
  bool learn = false;
  double gradient_scale = 1;

  std::string name() const override { return "qat::mul"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const Tensor qa = (a.codes().to(at::kInt) - params.zero_a).to(at::kFloat),
                 qb = (b.codes().to(at::kInt) - params.zero_b).to(at::kFloat);
    const float product = params.scale_a * params.scale_b;
    const Tensor t = qa * qb * (product / params.scale_y);
    const Tensor rounded_from = t + params.range.zero_point;
    const Tensor inside = (rounded_from >= params.range.lo).logical_and_(rounded_from <= params.range.hi);
    const Tensor g = grad * inside;
    if (needed[0]) result[0] = kernel_layout(g * qb * params.scale_b);
    if (needed[1]) {
      const Tensor db = g * qa * params.scale_a;
      result[1] = kernel_layout(b.sizes() == a.sizes() ? db : db.sum({2, 3}, true));
    }
    if (learn && needed[2]) {
      const Tensor c = (y.codes().to(at::kInt) - params.range.zero_point).to(at::kFloat);
      const Tensor slope = at::where(inside, c - t, c);
      result[2] = ((grad * slope).sum(at::kDouble) * gradient_scale).to(at::kFloat).view({1});
    }
    return result;
  }
};

struct MaskBackward final : Backward {
  Tensor inside;
  std::string name() const override { return "qat::relu"; }
  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>&) override { return {masked(grad, inside)}; }
};

struct MaxPoolBackward final : Backward {
  ops::PoolGeometry geometry;
  Tensor winner;
  std::string name() const override { return "qat::max_pool2d"; }
  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>&) override {
    const PassTimer timer("gradients of pools");
    Tensor dx = empty_kernel_layout({geometry.batch, geometry.channels, geometry.in_h, geometry.in_w}, at::kFloat);
    ops::max_pool_gradient(geometry, grad.const_data_ptr<float>(),
                           reinterpret_cast<const uint16_t*>(winner.const_data_ptr<int16_t>()),
                           dx.mutable_data_ptr<float>());
    return {dx};
  }
};

struct DropoutBackward final : Backward {
  Tensor keep;  // bool
  double scale = 1;
  std::string name() const override { return "qat::dropout"; }
  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>&) override {
    return {kernel_layout(grad * keep * scale)};
  }
};

/// The movement's own derivative, from LibTorch: run once more on a handle.
struct MoveBackward final : Backward {
  Move move;
  std::vector<int64_t> sizes;
  std::string name() const override { return "qat::move"; }
  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>&) override {
    const at::AutoGradMode record(true);
    const Tensor x = make_handle(sizes).requires_grad_(true);
    return {kernel_layout(torch::autograd::grad({move(x)}, {x}, {grad})[0])};
  }
};

/// Average pools: the masked gradient is spread evenly; a learned scale needs the pooled values again.
struct AveragePoolBackward final : Backward {
  std::vector<int64_t> sizes;  // of the input
  Pool2d pool;
  bool global = false;
  Tensor inside;
  bool learn = false;
  KeptCodes kept_x, kept_y;
  float x_scale = 1, y_scale = 1;
  int32_t x_zero = 0;
  ops::CodeRange y_range;
  double gradient_scale = 1;

  std::string name() const override { return "qat::avg_pool2d"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    if (needed[0]) {
      const Tensor g = masked(grad, inside);
      if (global) {
        result[0] = empty_kernel_layout(sizes, at::kFloat);
        result[0].copy_((g / static_cast<double>(sizes[2] * sizes[3])).expand(sizes));
      } else {
        const Tensor shape = empty_kernel_layout(sizes, at::kFloat);
        result[0] = kernel_layout(at::avg_pool2d_backward(g, shape, pool.kernel, pool.stride, pool.padding,
                                                          pool.ceil_mode, pool.count_include_pad, divisor_of(pool)));
      }
    }
    if (learn && needed[1]) result[1] = at::empty({1}, at::kFloat).fill_(scale_gradient(grad) * gradient_scale);
    return result;
  }

  double scale_gradient(const Tensor& grad) const;
};

ops::PoolGeometry geometry_of(const QuantizedTensor& x, const Pool2d& pool) {
  QAT_CHECK(x.sizes().size() == 4, "a 2-d pool needs [N, C, H, W], found {} dimensions", x.sizes().size());
  ops::PoolGeometry g;
  g.batch = x.sizes()[0], g.channels = x.sizes()[1], g.in_h = x.sizes()[2], g.in_w = x.sizes()[3];
  g.kernel_h = pool.kernel[0], g.kernel_w = pool.kernel[1];
  g.stride_h = pool.stride[0], g.stride_w = pool.stride[1];
  g.pad_top = g.pad_bottom = pool.padding[0], g.pad_left = g.pad_right = pool.padding[1];
  g.dilation_h = pool.dilation[0], g.dilation_w = pool.dilation[1];
  g.ceil_mode = pool.ceil_mode;
  QAT_CHECK(g.out_h() > 0 && g.out_w() > 0, "a {}x{} input is too small for a {}x{} pool", g.in_h, g.in_w, g.kernel_h,
            g.kernel_w);
  return g;
}

/// Pooled real values, before rounding; for ranges and scale gradients only.
Tensor pooled_values(const Tensor& values, const Pool2d& pool, bool global) {
  if (global) return at::mean(values, {2, 3}, true);
  return kernel_layout(at::avg_pool2d(values, pool.kernel, pool.stride, pool.padding, pool.ceil_mode,
                                      pool.count_include_pad, divisor_of(pool)));
}

double AveragePoolBackward::scale_gradient(const Tensor& grad) const {
  const QuantizedTensor x(kept_x.codes(), x_scale, {0, 255, x_zero}, make_handle(kept_x.sizes()));
  const Tensor values = kernel_layout(pooled_values(real_values(x), pool, global));
  const Tensor y_codes = kept_y.codes();
  return ops::encode_scale_gradient(grad.const_data_ptr<float>(), codes_of(y_codes), codes_of(inside),
                                    values.const_data_ptr<float>(), y_scale, y_range, grad.numel());
}

/// sizes: of the random mask, which is broadcast.
QuantizedTensor drop(const QuantizedTensor& x, double p, at::IntArrayRef sizes) {
  QAT_CHECK(p >= 0.0 && p < 1.0, "expected a dropout probability in [0, 1), found {}", p);
  auto saved = std::make_unique<DropoutBackward>();
  saved->keep = empty_kernel_layout(sizes, at::kFloat).bernoulli_(1.0 - p).to(at::kBool);
  saved->scale = 1.0 / (1.0 - p);
  Tensor codes = x.codes().masked_fill(saved->keep.logical_not(), x.zero_point());
  const float scale = static_cast<float>(x.scale() / (1.0 - p));
  Tensor handle = make_handle(codes.sizes());
  return {codes, scale, x.range(), connect(handle, {x.handle()}, std::move(saved))};
}

QuantizedTensor finish(std::unique_ptr<AveragePoolBackward> saved, const QuantizedTensor& x, Tensor codes,
                       const OutputQuantizer& output, const std::vector<Tensor>& inputs) {
  saved->sizes = x.sizes().vec();
  saved->learn = output.learns();
  saved->gradient_scale = output.gradient_scale_of(codes);
  saved->y_range = output.range();
  saved->y_scale = output.scale_value();
  KeptCodes kept;
  if (saved->learn && needs_gradient(inputs)) {
    saved->kept_x = x.kept(), saved->kept_y = kept = KeptCodes(codes, saved->y_range);
    saved->x_scale = x.scale(), saved->x_zero = x.zero_point();
  }
  Tensor handle = make_handle(codes.sizes());
  return {codes, output.scale_value(), output.range(), connect(handle, inputs, std::move(saved)), kept};
}

}  // namespace

QuantizedTensor add(const QuantizedTensor& a, const QuantizedTensor& b, const OutputQuantizer& output, bool relu) {
  QAT_CHECK(a.sizes() == b.sizes(), "a quantized add needs operands of the same sizes");
  const PassTimer timer("adds");
  std::vector<Tensor> inputs{a.handle(), b.handle()};
  const bool learn = output.learns();
  if (learn) inputs.push_back(output.scale);
  const bool record = needs_gradient(inputs);
  auto saved = std::make_unique<AddBackward>();
  ops::BinaryParams& p = saved->params;
  p.scale_a = a.scale(), p.scale_b = b.scale();
  p.zero_a = a.zero_point(), p.zero_b = b.zero_point();
  if (output.observe && a.codes().numel() > 0) {
    const auto [lo, hi] = ops::add_range(codes_of(a.codes()), codes_of(b.codes()), a.codes().numel(), p);
    output.observe(relu ? std::max(lo, 0.0f) : lo, relu ? std::max(hi, 0.0f) : hi);
  }
  p.scale_y = output.scale_value();
  p.range = output.range();
  QAT_CHECK(!relu || p.range.lo == p.range.zero_point, "a fused ReLU needs an output range that starts at zero");
  Tensor codes = empty_kernel_layout(a.sizes(), at::kByte);
  if (record) saved->inside = mask_bits(codes.numel());
  ops::add(codes_of(a.codes()), codes_of(b.codes()), codes.numel(), p, codes.mutable_data_ptr<uint8_t>(),
           record ? saved->inside.mutable_data_ptr<uint8_t>() : nullptr, relu);
  saved->learn = learn;
  saved->gradient_scale = output.gradient_scale_of(codes);
  const ops::CodeRange range = p.range;
  KeptCodes kept;
  if (record && learn) saved->a = a.kept(), saved->b = b.kept(), saved->y = kept = KeptCodes(codes, range);
  Tensor handle = make_handle(codes.sizes());
  return {codes, p.scale_y, range, connect(handle, inputs, std::move(saved)), kept};
}

QuantizedTensor mul(const QuantizedTensor& x, const QuantizedTensor& y, const OutputQuantizer& output) {
  // The formula is symmetric: a broadcast operand comes second.
  const bool exchange = x.codes().numel() < y.codes().numel();
  const QuantizedTensor &a = exchange ? y : x, &b = exchange ? x : y;
  const int64_t batch = a.sizes()[0], channels = a.sizes().size() > 1 ? a.sizes()[1] : 1;
  const bool broadcast = a.sizes() != b.sizes();
  QAT_CHECK(!broadcast || (b.codes().numel() == batch * channels && b.sizes()[0] == batch && b.sizes()[1] == channels),
            "a quantized mul needs operands of the same sizes, or one [N, C, 1, 1]");
  std::vector<Tensor> inputs{a.handle(), b.handle()};
  if (output.learns()) inputs.push_back(output.scale);
  if (output.observe) observe_values(output, real_values(a) * real_values(b));

  auto saved = std::make_unique<MulBackward>();
  ops::BinaryParams& p = saved->params;
  p.scale_a = a.scale(), p.scale_b = b.scale(), p.scale_y = output.scale_value();
  p.zero_a = a.zero_point(), p.zero_b = b.zero_point();
  p.range = output.range();
  Tensor codes = empty_kernel_layout(a.sizes(), at::kByte);
  if (broadcast) {
    const int64_t pixels = batch * channels == 0 ? 0 : codes.numel() / (batch * channels);
    ops::mul_broadcast(codes_of(a.codes()), codes_of(b.codes()), batch, pixels, channels, p,
                       codes.mutable_data_ptr<uint8_t>());
  } else {
    ops::mul(codes_of(a.codes()), codes_of(b.codes()), codes.numel(), p, codes.mutable_data_ptr<uint8_t>());
  }
  const ops::CodeRange range = p.range;
  saved->learn = output.learns();
  KeptCodes kept;
  if (needs_gradient(inputs)) saved->a = a.kept(), saved->b = b.kept();
  if (needs_gradient(inputs) && saved->learn) saved->y = kept = KeptCodes(codes, range);
  saved->gradient_scale = output.gradient_scale_of(codes);
  const float scale = p.scale_y;
  Tensor handle = make_handle(codes.sizes());
  return {codes, scale, range, connect(handle, inputs, std::move(saved)), kept};
}

QuantizedTensor relu(const QuantizedTensor& x) {
  const bool record = needs_gradient({x.handle()});
  auto saved = std::make_unique<MaskBackward>();
  Tensor codes = empty_kernel_layout(x.sizes(), at::kByte);
  if (record) saved->inside = mask_bits(codes.numel());
  ops::relu(codes_of(x.codes()), codes.numel(), x.zero_point(), codes.mutable_data_ptr<uint8_t>(),
            record ? saved->inside.mutable_data_ptr<uint8_t>() : nullptr);
  Tensor handle = make_handle(codes.sizes());
  return {codes, x.scale(), x.range(), connect(handle, {x.handle()}, std::move(saved))};
}

QuantizedTensor max_pool2d(const QuantizedTensor& x, const Pool2d& pool) {
  const PassTimer timer("pools");
  const ops::PoolGeometry g = geometry_of(x, pool);
  QAT_CHECK(g.kernel_h * g.kernel_w <= 65536, "a max pool window of {}x{} is too large", g.kernel_h, g.kernel_w);
  const bool record = needs_gradient({x.handle()});
  auto saved = std::make_unique<MaxPoolBackward>();
  saved->geometry = g;
  Tensor codes = empty_kernel_layout({g.batch, g.channels, g.out_h(), g.out_w()}, at::kByte);
  if (record) saved->winner = at::empty({codes.numel()}, at::kShort);
  ops::max_pool(g, codes_of(x.codes()), codes.mutable_data_ptr<uint8_t>(),
                record ? reinterpret_cast<uint16_t*>(saved->winner.mutable_data_ptr<int16_t>()) : nullptr);
  Tensor handle = make_handle(codes.sizes());
  return {codes, x.scale(), x.range(), connect(handle, {x.handle()}, std::move(saved))};
}

QuantizedTensor dropout(const QuantizedTensor& x, double p) { return drop(x, p, x.sizes()); }

QuantizedTensor drop_samples(const QuantizedTensor& x, double p) {
  std::vector<int64_t> sizes(x.sizes().size(), 1);
  sizes[0] = x.sizes()[0];
  return drop(x, p, sizes);
}

QuantizedTensor move(const QuantizedTensor& x, const Move& move) {
  auto saved = std::make_unique<MoveBackward>();
  saved->move = move;
  saved->sizes = x.sizes().vec();
  Tensor codes;
  {
    const at::NoGradGuard no_grad;
    codes = kernel_layout(move(x.codes()));
  }
  Tensor handle = make_handle(codes.sizes());
  return {codes, x.scale(), x.range(), connect(handle, {x.handle()}, std::move(saved))};
}

QuantizedTensor avg_pool2d(const QuantizedTensor& x, const Pool2d& pool, const OutputQuantizer& output) {
  const ops::PoolGeometry g = geometry_of(x, pool);
  QAT_CHECK(g.dilation_h == 1 && g.dilation_w == 1, "an average pool has no dilation");
  std::vector<Tensor> inputs{x.handle()};
  if (output.learns()) inputs.push_back(output.scale);
  const bool record = needs_gradient(inputs);
  if (output.observe && g.batch * g.channels > 0) {
    const auto [lo, hi] = ops::average_range(g, pool.count_include_pad, codes_of(x.codes()), x.scale(), x.zero_point());
    output.observe(lo, hi);
  }
  auto saved = std::make_unique<AveragePoolBackward>();
  saved->pool = pool;
  Tensor codes = empty_kernel_layout({g.batch, g.channels, g.out_h(), g.out_w()}, at::kByte);
  if (record) saved->inside = mask_bits(codes.numel());
  ops::average_pool(g, pool.count_include_pad, codes_of(x.codes()), x.scale(), x.zero_point(), output.scale_value(),
                    output.range(), codes.mutable_data_ptr<uint8_t>(),
                    record ? saved->inside.mutable_data_ptr<uint8_t>() : nullptr);
  return finish(std::move(saved), x, codes, output, inputs);
}

QuantizedTensor global_avg_pool2d(const QuantizedTensor& x, const OutputQuantizer& output) {
  QAT_CHECK(x.sizes().size() == 4, "a global average pool needs [N, C, H, W], found {} dimensions", x.sizes().size());
  const int64_t batch = x.sizes()[0], channels = x.sizes()[1], pixels = x.sizes()[2] * x.sizes()[3];
  std::vector<Tensor> inputs{x.handle()};
  if (output.learns()) inputs.push_back(output.scale);
  const bool record = needs_gradient(inputs);
  if (output.observe && batch * channels > 0) {
    const auto [lo, hi] =
        ops::global_average_range(codes_of(x.codes()), batch, pixels, channels, x.scale(), x.zero_point());
    output.observe(lo, hi);
  }
  auto saved = std::make_unique<AveragePoolBackward>();
  saved->global = true;
  Tensor codes = empty_kernel_layout({batch, channels, 1, 1}, at::kByte);
  if (record) saved->inside = mask_bits(codes.numel());
  ops::global_average_pool(codes_of(x.codes()), batch, pixels, channels, x.scale(), x.zero_point(),
                           output.scale_value(), output.range(), codes.mutable_data_ptr<uint8_t>(), nullptr,
                           record ? saved->inside.mutable_data_ptr<uint8_t>() : nullptr);
  return finish(std::move(saved), x, codes, output, inputs);
}

}  // namespace qat::autograd
