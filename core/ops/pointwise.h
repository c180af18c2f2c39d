// Element-wise operators on codes: add, mul, table functions, relu.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/ops/nibbles.h"
#include "core/ops/types.h"

namespace qat::ops {

/// Scales and zero points of a + b -> y (or a * b -> y).
struct BinaryParams {
  float scale_a = 1, scale_b = 1, scale_y = 1;
  int32_t zero_a = 0, zero_b = 0;
  CodeRange range;  // of y
};

/// ra = fl32(s_a / s_y), rb = fl32(s_b / s_y), f = fl32(z_y - fma(ra, z_a, fl32(rb * z_b)));
/// y = clip(rne(fma(q_a, ra, fma(q_b, rb, f))), lo, hi). Not symmetric: the operands' order is part of the result.
/// inside (optional): lo <= value <= hi before rounding, and value > lo where relu. Scales are finite and positive.
template <class Code>
void add(const Code* a, const Code* b, int64_t n, const BinaryParams& p, Code* y, uint8_t* inside = nullptr,
         bool relu = false);

/// Smallest and largest real value fl32(fl32(s_a (q_a - z_a)) + fl32(s_b (q_b - z_b))) of a sum, n > 0. Scales are finite
/// and positive, zero points are codes.
template <class Code>
std::pair<float, float> add_range(const Code* a, const Code* b, int64_t n, const BinaryParams& p);

/// add() with one operand [batch][channels] broadcast over the pixels of the other [batch][pixels][channels].
/// A broadcast A (N,C,1,1) swaps the two operands in the formula, as the runtime does; a broadcast B does not.
template <class Code>
void add_broadcast(const Code* a, bool broadcast_a, const Code* b, int64_t batch, int64_t pixels, int64_t channels,
                   const BinaryParams& p, Code* y);

/// m = fl32(fl32(s_a * s_b) / s_y); y = clip(rne(fl32(fl32(float((q_a - z_a)(q_b - z_b)) * m) + z_y)), lo, hi).
template <class Code>
void mul(const Code* a, const Code* b, int64_t n, const BinaryParams& p, Code* y);

/// The same with b [batch][channels] broadcast over the pixels of a [batch][pixels][channels]. The formula is
/// symmetric: a caller with a broadcast A exchanges the operands and their parameters.
template <class Code>
void mul_broadcast(const Code* a, const Code* b, int64_t batch, int64_t pixels, int64_t channels, const BinaryParams& p,
                   Code* y);

/// y = max(q, zero_point). inside (optional): q > zero_point.
template <class Code>
void relu(const Code* x, int64_t n, int32_t zero_point, Code* y, uint8_t* inside = nullptr);

/// y[i] = table[x[i] - lowest code of Code].
template <class Code>
void lookup(const Code* x, int64_t n, const int16_t* table, Code* y);

/// LSQ's gradient of the output scale of add(), as ScaleGradient in requantize.h; t is the value before rounding - z_y.
/// Summed as encode_scale_gradient. dx (optional) [n]: inside ? g : 0, the gradient of both operands.
double add_scale_gradient(const float* g, const StoredCodes& a, const StoredCodes& b, const StoredCodes& y,
                          const uint8_t* inside, int64_t n, const BinaryParams& p, float* dx = nullptr);

}  // namespace qat::ops
