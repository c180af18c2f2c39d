// Accumulator -> code, the arithmetic between quantized layers (EXPORTS 1.2, measured against ONNX Runtime), and the
// fused passes of a training step around it.
//
// Matrices are [rows][channels]. Masks hold one bit an element, element i in bit i % 8 of byte i / 8,
// (rows * channels + 7) / 8 bytes, unused bits 0. fl32: one rounding; rne: to nearest, ties to even.
#pragma once

#include <cstdint>

#include "core/ops/nibbles.h"
#include "core/ops/types.h"

namespace qat::ops {

/// The runtime's formula, used frozen and in evaluation:
///   t = fl32(float(acc + bias[c]) * multiplier[c])          (acc + bias wraps modulo 2^32)
///   code = rne(clip(t, lo - z, hi - z)) + z
/// bias may be null. inside (optional): lo - z <= t <= hi - z, closed, and t > 0 where relu.
/// ReLU itself is lo == z in the range; `relu` only decides what the mask holds. NaN gives lo and is outside.
/// Throws qat::Error if lo, hi or z is not a Code. Acc: int32_t, or int16_t with codes of uint8_t.
template <class Code, class Acc>
void requantize(const Acc* acc, int64_t rows, int64_t channels, const int32_t* bias, const float* multiplier,
                CodeRange range, Code* codes, uint8_t* inside = nullptr, bool relu = false);

/// What compact() makes of the accumulators, in the pass of another function.
struct Compaction {
  const int32_t* middle = nullptr;
  const float* gain = nullptr;
  int16_t* kept = nullptr;
};

/// Live batch norm (training): t = fma(float(acc), multiplier[c], offset[c]), then as above. compaction: optional, of
/// int32_t accumulators.
template <class Code, class Acc>
void requantize_affine(const Acc* acc, int64_t rows, int64_t channels, const float* multiplier, const float* offset,
                       CodeRange range, Code* codes, uint8_t* inside = nullptr, bool relu = false,
                       const Compaction* compaction = nullptr);

/// y = fl32(float(acc + bias[c]) * multiplier[c]): a linear layer without output quantizer. bias may be null.
void dequantize_accumulators(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* bias,
                             const float* multiplier, float* y);

/// How a channel's accumulators in [min, max] become int16: middle = min + (max - min) / 2 (integer division); up to a
/// width of 65000 gain = step = 1, which keeps them as they are, else gain = 65000 / (max - min) and step its inverse.
struct CompactNumbers {
  int32_t middle = 0;
  float gain = 1, step = 1;
};
inline CompactNumbers compact_numbers(int32_t min, int32_t max) {
  constexpr double kLevels = 65000;
  const auto width = static_cast<double>(static_cast<int64_t>(max) - min);
  CompactNumbers numbers{static_cast<int32_t>(min + (static_cast<int64_t>(max) - min) / 2), 1.0f, 1.0f};
  if (width <= kLevels) return numbers;
  numbers.gain = static_cast<float>(kLevels / width), numbers.step = static_cast<float>(width / kLevels);
  return numbers;
}

/// Batch norm's input kept for backward as int16: i = rne((acc - middle[c]) * gain[c]), rebuilt as
/// a = middle[c] + i * step[c]. For gradients only; codes never come from it.
void compact(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* middle, const float* gain,
             int16_t* kept);

/// How accumulators were kept: exactly one pointer is set.
/// a(row, c) = int16 ? float(middle[c]) + float(i) * step[c] : float(acc).
struct KeptAccumulators {
  const int16_t* compact = nullptr;
  const int32_t* exact = nullptr;
  const int32_t* middle = nullptr;  // with compact
  const float* step = nullptr;      // with compact
};

/// LSQ's gradient of the output scale, before the gradient scale (ARITHMETIC section 2): with c0 = code - z and
/// t = a * multiplier[c] + offset[c],
///   sum of g * (c0 - t) inside;  g * (lo - z) where t < lo - z;  g * (hi - z) where t > hi - z.
/// Elements outside whose code is neither lo nor hi do not exist; the code tells below from above. The codes are the
/// forward's: rounding the kept accumulators again would put one of a few thousand on the other side of a tie, with an
/// error of a whole step where the rule counts rounding errors.
struct ScaleGradient {
  StoredCodes codes;
  const float* multiplier = nullptr;
  const float* offset = nullptr;  // may be null
  CodeRange range;
  double* sum = nullptr;
};

/// s1[c] = sum of g where inside, s2[c] = sum of g * a where inside, in a fixed order that does not depend on the
/// number of threads. With s2 and accumulators kept as int32: all in double. Otherwise eight terms at a time are summed
/// in float, and their sums in double: int16 has far larger errors, unless it holds the accumulators themselves. inside
/// null: everywhere. kept with no pointer set: s2 is not computed (may be null). scale: optional, with kept
/// accumulators and s2.
void reduce_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                     int64_t channels, double* s1, double* s2, const ScaleGradient* scale = nullptr);

/// dx = (inside ? a_g[c] * g : 0) + b_a[c] * a + c0[c]: batch norm's input gradient.
void batch_norm_gradient(const float* g, const uint8_t* inside, const KeptAccumulators& kept, int64_t rows,
                         int64_t channels, const float* a_g, const float* b_a, const float* c0, float* dx);

/// dx = inside ? g : 0 (n elements).
void mask_gradient(const float* g, const uint8_t* inside, int64_t n, float* dx);

/// The gradient of encode()'s scale, as ScaleGradient with t = x / scale; eight terms at a time are summed in float and
/// their sums in double, in a fixed order.
double encode_scale_gradient(const float* g, const uint8_t* codes, const uint8_t* inside, const float* x, float scale,
                             CodeRange range, int64_t n);

}  // namespace qat::ops
