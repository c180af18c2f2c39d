#include "quantizers/n2uq.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/autograd/fake_quantize.h"
#include "core/autograd/node.h"
#include "core/autograd/watched.h"
#include "core/quant/uniform.h"

namespace qat::quantizers {
namespace {

using at::Tensor;

/// An interval this small against the step would make gradients explode.
constexpr double kNarrowest = 1e-3;

/// How many of some ascending thresholds lie below a value, by a table of what equal cells of their range begin with.
class Thresholds {
 public:
  explicit Thresholds(std::vector<float> ascending) : thresholds_(std::move(ascending)) {
    thresholds_.push_back(std::numeric_limits<float>::infinity());
    first_ = thresholds_.front();
    const double width = static_cast<double>(thresholds_[size() - 1]) - first_;
    cells_per_unit_ = width > 0 ? static_cast<float>(static_cast<double>(kCells * size()) / width) : 0.0f;
    // The cell of a threshold is found as that of a value is: no value of a later cell lies below it.
    begin_.assign(kCells * size() + 1, 0);
    for (size_t i = 0; i < size(); ++i) ++begin_[cell(thresholds_[i])];
    size_t before = 0;
    for (size_t& begin : begin_) before += std::exchange(begin, before);
  }

  /// NaN: all of them.
  int64_t below(float x) const {
    if (!(x <= thresholds_[size() - 1])) return static_cast<int64_t>(size());
    size_t i = begin_[cell(x)];
    while (thresholds_[i] < x) ++i;
    return static_cast<int64_t>(i);
  }

 private:
  static constexpr size_t kCells = 8;  // a threshold
  size_t size() const { return thresholds_.size() - 1; }
  size_t cell(float x) const {
    const float at = (x - first_) * cells_per_unit_;
    return at > 0 ? std::min(static_cast<size_t>(at), begin_.size() - 1) : 0;
  }

  std::vector<float> thresholds_;  // and infinity
  float first_ = 0, cells_per_unit_ = 0;
  std::vector<size_t> begin_;  // thresholds in earlier cells
};

struct N2uqBackward final : autograd::Backward {
  autograd::Watched x;
  Tensor codes;                        // float32: q - z
  std::vector<double> starts, widths;  // d_i, a_i
  double scale = 1;
  double gradient_scale = 1;
  int32_t zero_point = 0;

  std::string name() const override { return "qat::n2uq"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const Tensor values = x.get(name()).contiguous(), g = grad.contiguous();
    Tensor dx = at::zeros(values.sizes(), at::kFloat);
    const auto n = static_cast<int64_t>(widths.size());
    std::vector<double> da(n, 0.0), before(n, 0.0);  // before[i]: what reaches every interval below i
    const float *v = values.const_data_ptr<float>(), *dy = g.const_data_ptr<float>();
    auto* out = dx.mutable_data_ptr<float>();
    const float* q = codes.const_data_ptr<float>();
    const double end = starts.back() + widths.back();
    std::vector<double> inverses(widths.size());
    for (int64_t i = 0; i < n; ++i) inverses[i] = 1.0 / widths[i];
    for (int64_t k = 0; k < values.numel(); ++k) {
      if (!(v[k] >= starts[0] && v[k] <= end)) continue;
      // Code q begins in the middle of interval q - 1 and ends in that of interval q.
      int64_t i = std::min<int64_t>(static_cast<int64_t>(q[k]) + zero_point, n - 1);
      if (v[k] < starts[i]) --i;
      const double slope = dy[k] * scale * inverses[i];
      out[k] = static_cast<float>(slope);
      da[i] -= slope * (v[k] - starts[i]) * inverses[i];
      before[i] -= slope;
    }
    double above = 0;
    for (int64_t i = n - 1; i >= 0; --i) {
      da[i] += above;
      above += before[i];
    }
    if (needed[0]) result[0] = dx;
    if (needed[1]) {
      result[1] = at::zeros({n}, at::kFloat);
      for (int64_t i = 0; i < n; ++i) result[1].mutable_data_ptr<float>()[i] = static_cast<float>(da[i] * gradient_scale);
    }
    if (needed[2]) result[2] = ((grad.to(at::kDouble) * codes).sum() * gradient_scale).view({1}).to(at::kFloat);
    return result;
  }
};

}  // namespace

N2uq::N2uq(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) : Quantizer(spec) {
  options.options.as<quant::NoOptions>();
  if (spec.is_weight()) {
    scale_ = register_buffer("scale", at::ones({spec.scales()}, at::kFloat));
    return;
  }
  intervals_ = register_parameter("intervals", at::ones({spec.hi()}, at::kFloat));
  scale_ = register_parameter("scale", at::ones({1}, at::kFloat));
  start_ = register_buffer("start", at::zeros({1}, at::kFloat));
  observer_ = register_module("observer", quant::observers().get(options.observer)({spec, options.observer_options}));
}

void N2uq::observe(const Tensor& values) {
  if (observer_) return observer_->observe(values);
  refresh(values);
}

void N2uq::refresh(const Tensor& weight) {
  if (observer_ || weight.numel() == 0) return;
  const at::NoGradGuard no_grad;
  // (2^b - 1) / 2^(b-1) * mean|w| in steps of 1 / (2^b - 1)
  scale_.copy_((rows(weight.detach()).to(at::kDouble).abs().mean(1) / std::exp2(spec().bits - 1))
                   .clamp_min(quant::kSmallestScale));
}

Tensor N2uq::quantize_weights(const Tensor& w) const {
  const double n = std::exp2(spec().bits) - 1;
  const Tensor t = rows(w.detach()) / (scale_ * n).view({-1, 1});
  const Tensor codes = ((t.clamp(-1, 1) + 1) / 2 * n).round() * 2 - n;
  return autograd::straight_through((codes * scale_.view({-1, 1})).view(w.sizes()), w);
}

void N2uq::initialize_parameters() {
  if (!observer_) return;
  const auto [min, max] = observer_->range();
  const quant::ScaleZero p = quant::choose_params(quant::Scheme::kSymmetric, spec().is_signed ? min : 0.0, max,
                                                  spec().lo(), spec().hi(), spec().symmetric_zero_point());
  const at::NoGradGuard no_grad;
  scale_.fill_(p.scale);
  intervals_.fill_(p.scale);
  start_.fill_(-p.scale * p.zero_point);
}

Tensor N2uq::fake_quantize(const Tensor& x) {
  if (spec().is_weight()) return x.numel() == 0 ? x : quantize_weights(x);
  auto saved = std::make_unique<N2uqBackward>();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    const auto n = intervals_.numel();
    const float* a = intervals_.const_data_ptr<float>();
    std::vector<float> middles(n);
    double begin = start_.item<float>();
    for (int64_t i = 0; i < n; ++i) {
      saved->starts.push_back(begin);
      saved->widths.push_back(a[i]);
      middles[i] = static_cast<float>(begin + a[i] / 2.0);
      begin += a[i];
    }
    saved->x = autograd::Watched(x.detach());
    saved->scale = scale_.item<float>();
    saved->gradient_scale = gradient_scale(x.numel() / std::max<int64_t>(x.size(0), 1));
    saved->zero_point = spec().symmetric_zero_point();
    const Tensor values = x.detach().contiguous();
    saved->codes = at::empty(values.sizes(), at::kFloat);
    const Thresholds thresholds(std::move(middles));
    const float* from = values.const_data_ptr<float>();
    auto* to = saved->codes.mutable_data_ptr<float>();
    at::parallel_for(0, values.numel(), 1 << 14, [&](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; ++k) {
        to[k] = static_cast<float>(thresholds.below(from[k]) - saved->zero_point);
      }
    });
    y = saved->codes * scale_;
  }
  return autograd::connect(y, {x, intervals_, scale_}, std::move(saved));
}

double N2uq::gradient_scale(int64_t elements) const {
  return 1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(elements, 1)) * spec().positive_levels());
}

quant::QParams N2uq::parameters_now() const {
  return {scale_, at::full({scale_.numel()}, spec().symmetric_zero_point(), at::kInt)};
}

void N2uq::project() {
  if (spec().is_weight()) return;
  const at::NoGradGuard no_grad;
  scale_.clamp_min_(quant::kSmallestScale);
  intervals_.clamp_min_(std::max(kNarrowest * scale_.item<double>(), quant::kSmallestScale * kNarrowest));
}

}  // namespace qat::quantizers
