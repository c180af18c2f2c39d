// fold(): the only place where the frozen numbers of a layer are made; called by the frozen forward every step, by
// evaluation and by lowering, so that all three use the same integers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat::ops {

/// A convolution or linear layer with weight codes [channels][depth] of scale s_w, followed (optionally) by batch norm.
struct FoldInput {
  int64_t channels = 0;
  int64_t depth = 0;
  const int8_t* codes = nullptr;        // quantized raw weights, symmetric
  const float* weight_scale = nullptr;  // [channels]
  const float* conv_bias = nullptr;     // [channels] or null
  const float* gamma = nullptr;         // batch norm: all five or none
  const float* beta = nullptr;
  const float* running_mean = nullptr;  // of the convolution's output, its bias included
  const float* running_var = nullptr;
  double eps = 0.0;
  bool gain_in_codes = false;  // the weight was multiplied by k before it was quantized
  float input_scale = 1.0f;    // s_x
};

struct Folded {
  std::vector<int8_t> codes;  // c: sign flipped where gamma < 0, rescaled where the scale was raised to its floor
  std::vector<float> scale;   // s = fl32(s_w * |k|), at least the floor
  std::vector<int32_t> bias;  // B = rne(b / fl32(s_x * s)), saturated to int32
  std::vector<double> k;      // gamma / sqrt(var + eps), with its sign; 1 without batch norm
  int64_t raised = 0;         // channels whose scale was raised to the floor
};

/// Double inside, one rounding per fl32:
///   k = gamma / sqrt(var + eps);  b = beta + (conv_bias - mean) * k
///   c = codes (k < 0: -codes);  s = fl32(s_w * |k|)
///   floor = fl32(max(|b| / (s_x * 2^30), 2^-100 / s_x));  s < floor: c = rne(c * s / floor), s = floor
///   B = int32(rne(b / fl32(s_x * s)))
/// With gain_in_codes the codes stay as they are and s = s_w, but for the floor.
/// Throws qat::Error if a scale, statistic or bias is not finite or a scale is not positive; `layer` names it.
Folded fold(const FoldInput& in, const std::string& layer);

/// m[c] = fl32(fl32(s_x * s[c]) / s_y).
std::vector<float> multipliers(const std::vector<float>& scale, float input_scale, float output_scale);

}  // namespace qat::ops
