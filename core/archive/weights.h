// One way to read weights, whatever the file's format.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "core/archive/pth.h"
#include "core/base/safetensors.h"

namespace qat::archive {

/// A .pth or .safetensors file; which of them is seen from its bytes. Views stay valid as long as it lives or a file
/// moved from it does.
class WeightsFile {
 public:
  /// Throws FileError "path: cause" for everything else than a sound file.
  static WeightsFile open(const std::string& path);

  /// The same from bytes in memory; `source` names them in errors.
  static WeightsFile parse(std::string bytes, const std::string& source);

  /// Everything in the file, by the stored names.
  const std::vector<TensorView>& tensors() const;

  /// The tensors of one network by their own names. In a training checkpoint they are those directly below
  /// "state_dict", "model_state_dict", "model" or "net"; else those at the top, or below the only key that has any.
  /// A prefix "module." that all names have (nn.DataParallel) is dropped. Throws FileError when no one place is meant.
  std::vector<TensorView> state_dict() const;

 private:
  WeightsFile(std::variant<SafetensorsFile, PthFile> file, std::string source)
      : file_(std::move(file)), source_(std::move(source)) {}
  std::variant<SafetensorsFile, PthFile> file_;
  std::string source_;
};

}  // namespace qat::archive
