#include "core/quant/uniform.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace qat::quant {

UniformQuantizer::UniformQuantizer(const QuantSpec& spec, const UniformOptions& options, GradientRule rule)
    : Quantizer(spec), options_(options), rule_(rule), rounding_(ops::rounding_from(options.round)) {
  QAT_CHECK(spec.is_weight() || rounding_ == ops::Rounding::kHalfEven,
            "round: {}: the target rounds activations half to even; other modes are for weights", options.round);
}

Traits UniformQuantizer::traits() const {
  Traits t{.code_bits = spec().bits};
  // A level may lie a last bit beside its integer after x / s: only rounding to nearest brings it back.
  t.idempotent = rounding_ != ops::Rounding::kFloor && rounding_ != ops::Rounding::kCeil &&
                 rounding_ != ops::Rounding::kTowardZero && rounding_ != ops::Rounding::kStochastic;
  return t;
}

std::optional<GradientRule> UniformQuantizer::rule() const {
  const bool plain = options_.ewgs == 0 && options_.clip && rounding_ == ops::Rounding::kHalfEven;
  return plain ? std::optional(rule_) : std::nullopt;
}

autograd::AffineGrid UniformQuantizer::grid(const at::Tensor& x) const {
  const QParams params = qparams();
  autograd::AffineGrid grid{.scale = params.scale,
                            .zero_point = params.zero_point,
                            .offset = {},
                            .lo = spec().lo(),
                            .hi = spec().hi(),
                            .rounding = rounding_};
  if (rounding_ == ops::Rounding::kStochastic) {
    if (is_training()) {
      grid.seed = static_cast<uint64_t>(at::empty({1}, at::kLong).random_().item<int64_t>());
    } else {
      grid.rounding = ops::Rounding::kHalfEven;
    }
  }
  using Mask = ops::GridGradient::Mask;
  grid.gradient.ewgs = options_.ewgs;
  grid.gradient.mask = !options_.clip ? Mask::kNone : rule_ == GradientRule::kLearnedStep ? Mask::kValue : Mask::kCode;
  const int64_t sharing = spec().is_weight() ? spec().scales() : x.dim() == 0 ? 1 : x.size(0);
  grid.gradient_scale = gradient_scale(x.numel() / std::max<int64_t>(sharing, 1));
  return grid;
}

at::Tensor UniformQuantizer::fake_quantize(const at::Tensor& x) { return autograd::fake_quantize(x, grid(x)); }

ScaleZero choose_params(Scheme scheme, double min, double max, int32_t lo, int32_t hi, int32_t zero_point) {
  min = std::min(min, 0.0);
  max = std::max(max, 0.0);
  const double largest = std::max(-min, max), width = static_cast<double>(hi) - lo;
  if (scheme == Scheme::kTorchFused) {
    if (min == 0 || max == 0) return choose_params(Scheme::kTorchAffine, min, max, lo, hi, zero_point);
    const int32_t half = (hi - lo) / 2;
    return {.scale = std::max({-min / (half + 1), max / half, kSmallestScale}), .zero_point = lo + half + 1};
  }
  ScaleZero result{.scale = (max - min) / width, .zero_point = zero_point};
  if (scheme == Scheme::kSymmetric) result.scale = largest / (hi - zero_point);
  if (scheme == Scheme::kTorchSymmetric) result.scale = largest / (width / 2);
  const bool is_ours = scheme == Scheme::kSymmetric || scheme == Scheme::kAffine;
  if (is_ours && result.scale == 0) return {.scale = kScaleOfZeros, .zero_point = zero_point};
  result.scale = std::max(result.scale, kSmallestScale);
  if (scheme == Scheme::kAffine) {
    const double below = std::clamp(2 * std::nearbyint(-min / result.scale / 2), 0.0, width - 1);
    result.scale = std::max({result.scale, -min / (below + 0.5), max / (width - below + 0.5)});
    result.zero_point = lo + static_cast<int32_t>(below);
  } else if (scheme == Scheme::kTorchAffine) {
    result.zero_point = static_cast<int32_t>(std::clamp(lo - std::nearbyint(min / result.scale), 1.0 * lo, 1.0 * hi));
  }
  return result;
}

}  // namespace qat::quant
