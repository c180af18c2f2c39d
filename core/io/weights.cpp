#include "core/io/weights.h"

#include "core/archive/pth.h"
#include "core/archive/weights.h"
#include "core/base/files.h"
#include "core/base/safetensors.h"

namespace qat::io {

TensorMap read_weights(const std::string& path) {
  const archive::WeightsFile file = archive::WeightsFile::open(path);
  TensorMap tensors;
  for (const TensorView& view : file.state_dict()) {
    at::Tensor tensor = to_tensor(view);
    const bool widen = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
    tensors.emplace(view.name, widen ? tensor.to(at::kFloat) : tensor);
  }
  return tensors;
}

void write_weights(const std::string& path, const TensorMap& tensors) {
  const StoredTensors stored(tensors);
  if (path.ends_with(".pth")) {
    write_file_atomic(path, archive::write_pth(stored.views()));
  } else {
    QAT_CHECK_AS(FileError, path.ends_with(".safetensors"), "{}: expected a path that ends in .pth or .safetensors",
                 path);
    write_file_atomic(path, write_safetensors(stored.views(), {}));
  }
}

}  // namespace qat::io
