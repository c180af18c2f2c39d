// The file of an IntegerModel: one safetensors file that holds all of it.
//
// Tensors, in the order of the nodes: <node>.weight (I8 or U8; where 1, 2 or 4 bits hold all of its codes, U8 of one
// dimension with the codes packed, and the node's "packed_weight" has {type, shape, bits, lowest, step}: a code is
// lowest
// + step * index, indices lie in bytes from the low bits up), <node>.weight_scale (F32), <node>.weight_zero_point
// (I32), <node>.bias (I32, where there is one), <node>.multiplier (F32; follows from the scales), <node>.table (I16).
// Metadata "qat.model": one JSON object {format, target, overflow, tensors, nodes, inputs, outputs, preprocessing};
// tensors are referred to by name, attributes that have their default are left out, scales are decimals that give back
// the same float32.
#pragma once

#include <string>

#include "core/integer/integer_model.h"

namespace qat::integer {

inline constexpr int kModelFormat = 3;  // 2: without overflow and pixels; 1: without packed weights; both still read

/// The bytes of the file: equal models, equal bytes. Throws Error if the model does not pass check() or a name is not
/// UTF-8.
std::string save_model(const IntegerModel& model);

/// The model in `bytes`; `source` names them in errors. Throws FileError for anything that save_model could not have
/// meant: damaged containers, missing or surplus tensors, multipliers that differ from what the scales give, models
/// that do not pass check(). Allocates no more than a small multiple of the bytes.
IntegerModel load_model(std::string bytes, const std::string& source);

/// The same from a file.
IntegerModel open_model(const std::string& path);

/// One JSON object {mean, std, transforms, classes}, as all formats hold it. Throws Error if a name is not UTF-8.
std::string preprocessing_text(const Preprocessing& preprocessing);
/// The way back. Throws Error.
Preprocessing parse_preprocessing(const std::string& text);

}  // namespace qat::integer
