// Tensors by name <-> safetensors files. Checkpoints and weights are such files.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <map>
#include <string>
#include <vector>

#include "core/base/safetensors.h"

namespace qat::io {

/// In alphabetical order, so that equal states give equal files.
using TensorMap = std::map<std::string, at::Tensor>;

/// A row-major copy in memory of its own. Dtypes: float64, float32, float16, bfloat16, int64, int32, int16, int8,
/// uint8, bool. Throws CheckpointError for a dtype that LibTorch does not have.
at::Tensor to_tensor(const TensorView& view);

/// Tensors as files hold them: row-major on the CPU, with views that live as long as this does. The constructor throws
/// CheckpointError for an undefined tensor or a dtype that safetensors does not have.
class StoredTensors {
 public:
  explicit StoredTensors(const TensorMap& tensors);
  const std::vector<TensorView>& views() const { return views_; }

 private:
  std::vector<at::Tensor> kept_;
  std::vector<TensorView> views_;
};

struct TensorFile {
  TensorMap tensors;
  std::map<std::string, std::string> metadata;
};

/// Writes the file atomically, with a CRC-32 of every tensor and of the metadata. Tensors of any layout are stored
/// row-major; undefined ones are refused. Throws FileError (full disk, no permission: an earlier file stays as it was), or CheckpointError naming a tensor
/// whose dtype safetensors does not have.
void write_tensors(const std::string& path, const TensorFile& file);

/// Throws FileError for anything but a sound safetensors file, and CheckpointError naming what does not have the CRC-32
/// that the file gives; files of others give none.
TensorFile read_tensors(const std::string& path);

/// The parameters and buffers of a module by their dotted names: the tensors themselves, not copies.
TensorMap state_of(const torch::nn::Module& module);

/// Copies `from` into the tensors of `into`, all or nothing. Throws CheckpointError in one line that lists all missing,
/// unexpected and mismatched (shape or dtype) names; `source` names the file.
void copy_state(const TensorMap& into, const TensorMap& from, const std::string& source);

}  // namespace qat::io
