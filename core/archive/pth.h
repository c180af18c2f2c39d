// Files of PyTorch's torch.save: the zip format and the one before it (PyTorch 1.5 and older), and writing the first.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/safetensors.h"

namespace qat::archive {

/// The tensors of a .pth file; views stay valid as long as it (or a file moved from it) lives.
class PthFile {
 public:
  /// Reading is looking at data: nothing is executed, constructed by name or written. Sizes, strides and offsets are
  /// checked against the bytes present before anything is allocated, and the CRC-32 of every record that is used.
  /// Memory: the file, and at most 16 MiB + 8 times its size. Throws FileError "path: cause" for everything else than
  /// a sound file of tensors in dicts, lists and tuples.
  static PthFile open(const std::string& path);

  /// The same from bytes in memory; `source` names them in errors.
  static PthFile parse(std::string bytes, const std::string& source);

  /// In the file's order, contiguous row-major. Names are the keys on the way to the tensor with '/' between them, list
  /// places as numbers: "model/conv1.weight", "optimizer/state/0/exp_avg". A tied tensor comes once for each name. What
  /// is no tensor is left out, and so are dict entries whose key is neither text nor a number.
  const std::vector<TensorView>& tensors() const { return tensors_; }

 private:
  friend class PthReader;
  std::unique_ptr<std::string> bytes_;  // on the heap: views survive a move
  std::vector<std::unique_ptr<std::byte[]>> copies_;
  std::vector<TensorView> tensors_;
};

/// The bytes of a .pth file (zip format) that holds an OrderedDict of these tensors: torch.load(weights_only=True)
/// reads it. Equal input, equal bytes. Throws Error for a duplicate name, an unknown dtype, a size that does not fit
/// shape and dtype, or 4 GiB and more.
std::string write_pth(std::span<const TensorView> tensors);

}  // namespace qat::archive
