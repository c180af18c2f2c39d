// What the engine computes for some images, as files that any program can compare its own results with.
#pragma once

#include <string>

#include "core/engine/engine.h"
#include "core/integer/integer_model.h"

namespace qat::exporter {

/// Writes into `folder` (made where missing) .npy files in NCHW order with the batch first, and index.json:
///   {"samples": n,
///    "input": {"name", "file"},                                    float32, after preprocessing; or pixels
///    "tensors": [{"name", "file", "scale", "zero_point"}, ...],    codes, named as in the ONNX files
///    "outputs": [{"name", "file"}, ...]}                           float32
/// `images` is an NHWC batch for the model's only input. Throws Error or FileError.
void write_golden(const integer::IntegerModel& model, const engine::Value& images, const std::string& folder);

}  // namespace qat::exporter
