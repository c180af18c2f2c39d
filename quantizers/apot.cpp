#include "quantizers/apot.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "core/autograd/fake_quantize.h"
#include "core/autograd/node.h"
#include "core/base/error.h"
#include "core/quant/uniform.h"

namespace qat::quantizers {

struct ApotOptions {
  std::optional<double> alpha;
  std::optional<int> base_bits;
  bool normalize = true;
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::ApotOptions> {
  static void describe(Fields<qat::quantizers::ApotOptions>& f) {
    using T = qat::quantizers::ApotOptions;
    f.field("alpha", &T::alpha).doc("first clip level; null: 3 for weights, 8 for activations").above(0);
    f.field("base_bits", &T::base_bits).doc("bits of one term; null: 2; all magnitude bits: powers of two").minimum(1);
    f.field("normalize", &T::normalize).doc("weights: zero mean and unit variance first");
  }
};

namespace qat::quantizers {
namespace {

using at::Tensor;

/// Exponents e of the members 2^-e of each term, beside 0.
std::vector<std::vector<int>> terms_of(int magnitude_bits, std::optional<int> base_bits) {
  if (magnitude_bits == 3 && !base_bits) return {{1, 2, 4}, {3}};
  const int k = base_bits.value_or(magnitude_bits == 1 ? 1 : 2);
  QAT_CHECK(magnitude_bits % k == 0,
            "apot: terms of {} bits do not divide {} magnitude bits: set base_bits to a divisor", k, magnitude_bits);
  QAT_CHECK(k <= 5, "apot: terms of {} bits have powers down to 2^-{}: expected at most 5 bits", k, (1 << k) - 2);
  const int n = magnitude_bits / k;
  std::vector<std::vector<int>> terms(n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < (1 << k) - 1; ++j) terms[i].push_back(i + j * n);
  }
  return terms;
}

std::vector<int64_t> sums_of(const std::vector<std::vector<int>>& terms) {
  int deepest = 0;
  for (const auto& term : terms) deepest = std::max(deepest, *std::max_element(term.begin(), term.end()));
  std::set<int64_t> sums{0};
  for (const auto& term : terms) {
    std::set<int64_t> next = sums;
    for (const int64_t sum : sums) {
      for (const int exponent : term) next.insert(sum + (int64_t{1} << (deepest - exponent)));
    }
    sums = std::move(next);
  }
  return {sums.begin(), sums.end()};
}

struct ApotBackward final : autograd::Backward {
  Tensor position, level;  // x / alpha and its level, [scales, n]
  bool negative = true;    // levels below zero exist
  Tensor slope;            // 1 / std, [1]

  std::string name() const override { return "qat::apot"; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    const Tensor g = grad.reshape(position.sizes());
    const Tensor inside = (position <= 1).logical_and_(position >= (negative ? -1 : 0));
    if (needed[0]) result[0] = (g * inside * slope).reshape(grad.sizes());
    if (needed[1]) {
      const Tensor d = at::where(inside, level - position, level);  // outside: -1, 0 or 1
      result[1] = (g.to(at::kDouble) * d).sum(1).to(at::kFloat);
    }
    return result;
  }
};

}  // namespace

Apot::Apot(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) : Quantizer(spec) {
  const auto o = options.options.as<ApotOptions>();
  normalize_ = o.normalize && spec.is_weight();
  levels_ = sums_of(terms_of(spec.magnitude_bits(), o.base_bits));
  alpha_ = register_parameter("alpha",
                              at::full({spec.scales()}, o.alpha.value_or(spec.is_weight() ? 3.0 : 8.0), at::kFloat));
}

quant::Traits Apot::traits() const {
  int code_bits = 1;
  while ((int64_t{1} << (code_bits - 1)) <= levels_.back()) ++code_bits;
  return {.affine = spec().is_weight() && code_bits <= 8,
          .idempotent = !normalize_,
          .integer_levels = false,
          .code_bits = code_bits,
          .normalizes = normalize_};
}

Tensor Apot::fake_quantize(const Tensor& x) {
  if (x.numel() == 0) return x;
  auto saved = std::make_unique<ApotBackward>();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    Tensor values = x.detach();
    Tensor slope = at::full({1}, 1.0, at::kFloat);
    if (normalize_) {
      const Tensor deviation = values.to(at::kDouble);
      const double mean = deviation.mean().item<double>();
      const double std = std::max((deviation - mean).square().mean().sqrt().item<double>(), 1e-12);
      values = (values - mean) / std;
      slope.fill_(1.0 / std);
    }
    const Tensor alpha = alpha_.detach().view({-1, 1});
    const auto largest = static_cast<double>(levels_.back());
    const Tensor position = rows(values) / alpha;
    // The nearest level: how many midpoints lie below.
    Tensor midpoints = at::empty({static_cast<int64_t>(levels_.size()) - 1}, at::kFloat);
    Tensor table = at::empty({static_cast<int64_t>(levels_.size())}, at::kFloat);
    for (size_t i = 0; i < levels_.size(); ++i) {
      table.mutable_data_ptr<float>()[i] = static_cast<float>(levels_[i]);
      if (i == 0) continue;
      midpoints.mutable_data_ptr<float>()[i - 1] =
          static_cast<float>(static_cast<double>(levels_[i - 1] + levels_[i]) / 2 / largest);
    }
    const Tensor code = table.index({at::bucketize(position.abs().contiguous(), midpoints)}) * position.sign();
    const bool negative = spec().is_weight() || spec().is_signed;
    const Tensor kept = negative ? code : code.clamp_min(0);
    y = (kept * (alpha / largest)).view(x.sizes());
    saved->position = position;
    saved->level = kept / largest;
    saved->negative = negative;
    saved->slope = slope;
  }
  return autograd::connect(y, {x, alpha_}, std::move(saved));
}

quant::QParams Apot::parameters_now() const {
  if (!traits().affine) return Quantizer::parameters_now();
  return {alpha_ / static_cast<double>(levels_.back()), at::zeros({spec().scales()}, at::kInt)};
}

void Apot::project() {
  const at::NoGradGuard no_grad;
  alpha_.clamp_min_(quant::kSmallestScale * static_cast<double>(levels_.back()));
}

}  // namespace qat::quantizers
