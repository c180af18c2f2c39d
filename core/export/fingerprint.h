// What a file's tensors must be on an input that everybody can make: a check of a runtime without our program.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/engine/engine.h"
#include "core/integer/integer_model.h"

namespace qat::exporter {

/// One sample for each input of the model. Element j (in NCHW order) of input i, which is quantized with scale s, zero
/// point z and range [lo, hi], is float32(s * (lo - 1 - z + u * (hi - lo + 2))), computed in double, with
/// u = (split_mix64(split_mix64(i), j) >> 11) * 2^-53 (core/base/random.h): uniform, a little beyond the range. Pixels
/// are floor(256 * u).
std::vector<engine::Value> fixed_inputs(const integer::IntegerModel& model);

/// For each tensor but the inputs, in the model's order: its name in ONNX files and the SHA-256 of what the engine
/// computes for fixed_inputs(): the bytes of its codes, or of its little-endian float32 values, in NCHW order.
std::vector<std::pair<std::string, std::string>> fingerprint(const integer::IntegerModel& model);

}  // namespace qat::exporter
