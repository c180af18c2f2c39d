// Weights files of other systems and of ours -> tensors by name, and back.
#pragma once

#include <string>

#include "core/io/checkpoint.h"

namespace qat::io {

/// The tensors of one network from a .pth file (either format of torch.save) or a .safetensors file, by the names that
/// archive::WeightsFile::state_dict finds. float16 and bfloat16 become float32, which holds their values; other dtypes
/// stay. Nothing in the file is executed. Throws FileError for anything but a sound file with one network's tensors.
TensorMap read_weights(const std::string& path);

/// Writes a .pth file (PyTorch's torch.load(weights_only=True) reads it) or a .safetensors file, by the path's ending,
/// atomically. Throws FileError, also for another ending, and CheckpointError like write_tensors.
void write_weights(const std::string& path, const TensorMap& tensors);

}  // namespace qat::io
