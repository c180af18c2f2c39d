#include "core/autograd/fake_quantize.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

#include <vector>

#include "core/autograd/node.h"
#include "core/autograd/watched.h"
#include "core/base/error.h"

namespace qat::autograd {
namespace {

using at::Tensor;

/// Values are this far from their level at most, in steps, when scale * integer was rounded to float32.
constexpr double kOnGrid = 1e-2;

ops::Grid kernel_grid(const Tensor& x, const AffineGrid& grid) {
  ops::Grid k{
      .lo = grid.lo, .hi = grid.hi, .rounding = grid.rounding, .seed = grid.seed, .reciprocal = grid.reciprocal};
  k.channels = grid.scale.numel();
  k.inner = x.numel();
  if (k.channels > 1) {
    const int64_t size = x.size(grid.axis);
    QAT_CHECK(size % k.channels == 0, "{} scales do not divide the {} slices of axis {}", k.channels, size, grid.axis);
    for (int64_t d = 0; d < grid.axis; ++d) k.outer *= x.size(d);
    k.inner = k.outer == 0 ? 0 : x.numel() / (k.outer * k.channels);
  }
  k.scale = grid.scale.const_data_ptr<float>();
  k.zero_point = grid.zero_point.const_data_ptr<int32_t>();
  return k;
}

/// Rows of axis 0 are contiguous in the kernels' own layout too.
Tensor row_layout(const Tensor& x, const AffineGrid& grid) {
  return grid.scale.numel() == 1 || grid.axis == 0 ? kernel_layout(x) : x.contiguous();
}

Tensor sums_tensor(const std::vector<double>& sums, double factor) {
  Tensor result = at::empty({static_cast<int64_t>(sums.size())}, at::kFloat);
  auto* out = result.mutable_data_ptr<float>();
  for (size_t i = 0; i < sums.size(); ++i) out[i] = static_cast<float>(sums[i] * factor);
  return result;
}

struct FakeQuantizeBackward final : Backward {
  Watched x;
  AffineGrid grid;  // scale and zero point: copies without history

  std::string name() const override { return "qat::fake_quantize"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const Tensor& values = x.get(name());
    const Tensor g = row_layout(grad, grid);
    const ops::Grid k = kernel_grid(values, grid);
    std::vector<double> dscale(k.channels), doffset(k.channels);
    Tensor dx;
    if (needed[0]) dx = at::empty_like(g);
    ops::fake_quantize_gradient(values.const_data_ptr<float>(), g.const_data_ptr<float>(), k, grid.gradient,
                                needed[0] ? dx.mutable_data_ptr<float>() : nullptr, dscale.data(), doffset.data());
    result[0] = dx;
    if (needed[1]) result[1] = sums_tensor(dscale, grid.gradient_scale);
    if (needed.size() > 2 && needed[2]) result[2] = sums_tensor(doffset, grid.gradient_scale);
    return result;
  }
};

struct StraightThrough final : Backward {
  Tensor factor;
  std::string name() const override { return "qat::straight_through"; }
  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>&) override {
    return {factor.defined() ? grad * factor : grad};
  }
};

}  // namespace

Tensor straight_through(const Tensor& values, const Tensor& x, const Tensor& factor) {
  auto saved = std::make_unique<StraightThrough>();
  saved->factor = factor;
  return connect(values, {x}, std::move(saved));
}

Tensor fake_quantize(const Tensor& x, const AffineGrid& grid) {
  QAT_CHECK(x.scalar_type() == at::kFloat, "expected float32 values to quantize, found {}",
            c10::toString(x.scalar_type()));
  std::vector<Tensor> inputs{x, grid.scale};
  if (grid.offset.defined()) inputs.push_back(grid.offset);
  auto saved = std::make_unique<FakeQuantizeBackward>();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    const Tensor values = row_layout(x.detach(), grid);
    y = at::empty_like(values);
    ops::fake_quantize(values.const_data_ptr<float>(), kernel_grid(values, grid), y.mutable_data_ptr<float>());
    saved->x = Watched(values);
    saved->grid = grid;
    saved->grid.scale = grid.scale.detach().clone();
    saved->grid.zero_point = grid.zero_point.clone();
    saved->grid.offset = Tensor();
  }
  return connect(y, inputs, std::move(saved));
}

QuantizedWeight weight_codes(const Tensor& values, const Tensor& scale) {
  QuantizedWeight result;
  {
    const at::NoGradGuard no_grad;
    const int64_t rows = values.size(0), n = scale.numel();
    QAT_CHECK(n > 0 && rows % n == 0, "{} scales do not divide the {} rows of a weight", n, rows);
    result.scale = scale.detach().repeat_interleave(rows / n);
    std::vector<int64_t> sizes(values.dim(), 1);
    sizes[0] = rows;
    const Tensor t = kernel_layout(values.detach()) / result.scale.view(sizes), codes = t.round();
    const double off = values.numel() == 0 ? 0.0 : (t - codes).abs().max().item<double>();
    QAT_CHECK(off <= kOnGrid, "a quantized weight is {} steps away from its grid", off);
    QAT_CHECK(values.numel() == 0 || codes.abs().max().item<double>() <= 127,
              "a quantized weight has the code {}, beyond int8's [-127, 127]", codes.abs().max().item<double>());
    result.codes = codes.to(at::kChar);
  }
  result.handle = connect(make_handle(values.sizes()), {values}, std::make_unique<PassThrough>());
  return result;
}

QuantizedTensor activation_codes(const Tensor& values, float scale, ops::CodeRange range) {
  Tensor codes;
  {
    const at::NoGradGuard no_grad;
    codes = (kernel_layout(values.detach()) / scale).round_().add_(range.zero_point);
    QAT_CHECK(codes.numel() == 0 || (codes.min().item<double>() >= range.lo && codes.max().item<double>() <= range.hi),
              "a quantized value lies outside the codes [{}, {}]", range.lo, range.hi);
    codes = codes.to(at::kByte);
  }
  return with_gradient({codes, scale, range, make_handle(codes.sizes())}, values);
}

QuantizedTensor with_gradient(const QuantizedTensor& codes, const Tensor& values) {
  return {codes.codes(), codes.scale(), codes.range(),
          connect(make_handle(codes.sizes()), {values}, std::make_unique<PassThrough>())};
}

}  // namespace qat::autograd
