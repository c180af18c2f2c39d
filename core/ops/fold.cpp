#include "core/ops/fold.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"

namespace qat::ops {
namespace {

int32_t saturate_int32(double value) {
  return static_cast<int32_t>(std::clamp(value, static_cast<double>(std::numeric_limits<int32_t>::min()),
                                         static_cast<double>(std::numeric_limits<int32_t>::max())));
}

/// k and b of one channel, checked.
struct Affine {
  double k = 1.0;
  double b = 0.0;
};

Affine affine_of(const FoldInput& in, int64_t c, const std::string& layer) {
  const auto finite = [&](const float* values, const char* name) -> double {
    if (values == nullptr) return 0.0;
    QAT_CHECK(std::isfinite(values[c]), "{}: {} of channel {} is {}; expected a finite number (training diverged?)",
              layer, name, c, values[c]);
    return values[c];
  };
  const double conv_bias = finite(in.conv_bias, "the bias");
  if (in.gamma == nullptr) return {1.0, conv_bias};
  const double gamma = finite(in.gamma, "gamma");
  const double beta = finite(in.beta, "beta");
  const double mean = finite(in.running_mean, "the running mean");
  const double var = finite(in.running_var, "the running variance") + in.eps;
  QAT_CHECK(var > 0.0, "{}: running variance + eps of channel {} is {}; expected a positive number", layer, c, var);
  const double k = gamma / std::sqrt(var);
  return {k, beta + (conv_bias - mean) * k};
}

}  // namespace

Folded fold(const FoldInput& in, const std::string& layer) {
  QAT_CHECK(in.channels >= 0 && in.depth >= 0, "{}: {} channels of depth {}; expected none negative", layer,
            in.channels, in.depth);
  QAT_CHECK(in.channels * in.depth == 0 || in.codes != nullptr, "{}: no weight codes were given", layer);
  QAT_CHECK(in.channels == 0 || in.weight_scale != nullptr, "{}: no weight scales were given", layer);
  const bool batch_norm = in.gamma != nullptr;
  QAT_CHECK((in.beta != nullptr) == batch_norm && (in.running_mean != nullptr) == batch_norm &&
                (in.running_var != nullptr) == batch_norm,
            "{}: batch norm needs gamma, beta, running mean and running variance, all or none", layer);
  QAT_CHECK(std::isfinite(in.eps), "{}: eps is {}; expected a finite number", layer, in.eps);
  QAT_CHECK(std::isfinite(in.input_scale) && in.input_scale > 0,
            "{}: the input scale is {}; expected a positive finite number", layer, in.input_scale);

  Folded out;
  out.codes.resize(static_cast<size_t>(in.channels * in.depth));
  out.scale.resize(static_cast<size_t>(in.channels));
  out.bias.resize(static_cast<size_t>(in.channels));
  out.k.resize(static_cast<size_t>(in.channels));
  const double s_x = in.input_scale;
  for (int64_t c = 0; c < in.channels; ++c) {
    const float weight_scale = in.weight_scale[c];
    QAT_CHECK(std::isfinite(weight_scale) && weight_scale > 0,
              "{}: the weight scale of channel {} is {}; expected a positive finite number", layer, c, weight_scale);
    const auto [k, b] = affine_of(in, c, layer);
    float scale = in.gain_in_codes ? weight_scale : static_cast<float>(weight_scale * std::abs(k));
    const bool flip = k < 0 && !in.gain_in_codes;
    // Below the floor the bias would not fit int32, and beta would be lost where gamma is tiny or zero.
    const auto floor = static_cast<float>(std::max(std::abs(b) / (s_x * 0x1p30), 0x1p-100 / s_x));
    const double unraised = scale;
    const bool raise = scale < floor;
    if (raise) {
      scale = floor;
      ++out.raised;
    }
    const auto bias_scale = static_cast<float>(s_x * scale);
    QAT_CHECK(std::isfinite(bias_scale) && std::isfinite(scale) && bias_scale > 0,
              "{}: channel {} folds to scale {} (bias {}, gamma / sigma {}, input scale {}), which float32 cannot hold",
              layer, c, scale, b, k, s_x);
    const int8_t* codes = in.codes + c * in.depth;
    int8_t* folded = out.codes.data() + c * in.depth;
    if (!flip && !raise) std::copy_n(codes, in.depth, folded);
    for (int64_t i = 0; (flip || raise) && i < in.depth; ++i) {
      const int code = flip ? -codes[i] : codes[i];
      QAT_CHECK(code <= 127, "{}: weight code -128 of channel {} has no negative; expected codes in [-127, 127]", layer,
                c);
      folded[i] = static_cast<int8_t>(raise ? std::nearbyint(code * unraised / floor) : code);
    }
    out.scale[c] = scale;
    out.bias[c] = saturate_int32(std::nearbyint(b / bias_scale));
    out.k[c] = k;
  }
  return out;
}

std::vector<float> multipliers(const std::vector<float>& scale, float input_scale, float output_scale) {
  std::vector<float> m(scale.size());
  std::transform(scale.begin(), scale.end(), m.begin(), [&](float s) {
    const float bias_scale = input_scale * s;
    return bias_scale / output_scale;
  });
  return m;
}

}  // namespace qat::ops
