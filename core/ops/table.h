// Functions of one code as tables of 256 codes: y = Q(f(DQ(q))), with DQ and Q of encode.h.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/ops/types.h"

namespace qat::ops {

/// table[i] = Q(f(DQ(lowest + i))), lowest being the lowest code of Code (0 or -128). Apply it with lookup().
template <class Code>
std::vector<int16_t> function_table(float scale_x, int32_t zero_x, float scale_y, CodeRange range,
                                    const std::function<float(float)>& f);

/// An input of a concatenation: Q(DQ(q)), a copy (clipped to the range) where scale and zero point are the output's.
template <class Code>
std::vector<int16_t> concat_table(float scale_x, int32_t zero_x, float scale_y, CodeRange range);

/// Made in double, rounded once to float32.
float sigmoid(float v);
float silu(float v);         // v * sigmoid(v)
float hardsigmoid(float v);  // clip(v + 3, 0, 6) / 6
float hardswish(float v);    // v * clip(v + 3, 0, 6) / 6

/// v < 0: fl32(v * alpha).
float leaky_relu(float v, float alpha);

}  // namespace qat::ops
