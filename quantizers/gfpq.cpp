#include "quantizers/gfpq.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/autograd/fake_quantize.h"
#include "core/base/error.h"

namespace qat::quantizers {
namespace {

constexpr double kSmallestMaximum = 1e-15;
constexpr int64_t kAllZero = std::numeric_limits<int64_t>::min();
/// A level that was rounded to float32 must not floor to the one below: 2^-24 relative is 1.4e-6 of 1/16 octave.
constexpr double kTolerance = 4e-6;

struct Format {
  int64_t per_octave, last;  // codes an octave, largest q
};

Format format_of(int bits) { return bits == 8 ? Format{16, 127} : Format{2048, 32767}; }

/// Sign of the level and q; 0 for zero.
struct Level {
  int sign = 0;
  int64_t q = 0;
};

Level level_of(double x, int64_t z, const Format& f) {
  const auto per = static_cast<double>(f.per_octave);
  const auto code = [&](double magnitude, int64_t first) {
    const double position = std::nearbyint(per * std::log2(magnitude)) - static_cast<double>(z);
    return static_cast<int64_t>(std::clamp(position, static_cast<double>(first), static_cast<double>(f.last)));
  };
  if (x >= std::exp2(static_cast<double>(z) / per - 1)) return {1, code(x, 0)};
  if (x < -std::exp2(static_cast<double>(z + 1) / per - 1)) return {-1, code(-x, 1)};
  return {};
}

}  // namespace

Gfpq::Gfpq(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : Quantizer(spec),
      largest_(register_buffer("largest", at::zeros({1}, at::kDouble))),
      z_(register_buffer("z", at::full({1}, kAllZero, at::kLong))) {
  options.options.as<quant::NoOptions>();
  QAT_CHECK(spec.bits == 8 || spec.bits == 16, "gfpq has 8 or 16 bits, found {}", spec.bits);
}

quant::Traits Gfpq::traits() const { return {.affine = false, .integer_levels = false, .code_bits = spec().bits}; }

void Gfpq::set_largest(double largest) {
  QAT_CHECK(std::isfinite(largest), "values to quantize are not finite: the network diverges");
  largest_.fill_(largest);
  int64_t z = kAllZero;
  if (largest >= kSmallestMaximum) {
    z = spec().bits == 8
            ? static_cast<int64_t>(std::floor(16 * std::log2(largest) + kTolerance)) - 127
            : 16 * (static_cast<int64_t>(std::floor(128 * std::log2(largest) + 8 * kTolerance)) + 1) - 32768;
  }
  z_.fill_(z);
}

void Gfpq::refresh(const at::Tensor& weight) {
  set_largest(weight.numel() == 0 ? 0.0 : weight.detach().abs().max().item<double>());
}

void Gfpq::observe(const at::Tensor& values) {
  if (spec().is_weight()) return refresh(values);
  if (values.numel() != 0) observe_range(0, values.detach().abs().max().item<double>());
}

void Gfpq::observe_range(double min, double max) {
  set_largest(std::max({largest_.item<double>(), std::abs(min), std::abs(max)}));
}

std::optional<int64_t> Gfpq::offset() const {
  const int64_t z = *z_.const_data_ptr<int64_t>();
  return z == kAllZero ? std::nullopt : std::optional(z);
}

at::Tensor Gfpq::codes(const at::Tensor& x) const {
  const at::Tensor values = x.detach().contiguous();
  const Format f = format_of(spec().bits);
  const std::optional<int64_t> z = offset();
  at::Tensor result = at::full(x.sizes(), f.last + 1, at::kInt);
  auto* out = result.mutable_data_ptr<int32_t>();
  const float* in = values.const_data_ptr<float>();
  for (int64_t i = 0; z && i < values.numel(); ++i) {
    const Level level = level_of(in[i], *z, f);
    if (level.sign != 0) out[i] = static_cast<int32_t>(level.sign > 0 ? level.q : f.last + 1 + level.q);
  }
  return result;
}

at::Tensor Gfpq::fake_quantize(const at::Tensor& x) {
  const at::Tensor values = x.detach().contiguous();
  const Format f = format_of(spec().bits);
  const std::optional<int64_t> z = offset();
  at::Tensor y = at::zeros(x.sizes(), at::kFloat);
  auto* out = y.mutable_data_ptr<float>();
  const float* in = values.const_data_ptr<float>();
  for (int64_t i = 0; z && i < values.numel(); ++i) {
    const Level level = level_of(in[i], *z, f);
    if (level.sign != 0) {
      out[i] = static_cast<float>(level.sign *
                                  std::exp2(static_cast<double>(*z + level.q) / static_cast<double>(f.per_octave)));
    }
  }
  return autograd::straight_through(y, x);
}

}  // namespace qat::quantizers
