// What a reader of suspicious files may allocate, as a function of the file's size.
#pragma once

#include <cstdint>

#include "core/base/error.h"

namespace qat::archive {

/// Everything that a reader builds from a file is charged here before it is allocated, so that a short file cannot
/// declare much memory, nor (since every step charges something) keep a reader busy for long.
class Budget {
 public:
  /// 16 MiB and 8 bytes for each byte of the file: real checkpoints need less than twice their size.
  explicit Budget(uint64_t file_bytes) : limit_((uint64_t{16} << 20) + 8 * file_bytes), left_(limit_) {}

  /// Throws Error when the sum of all charges exceeds the limit.
  void charge(uint64_t bytes) {
    QAT_CHECK(bytes <= left_, "its contents would need more than {} bytes of memory, too much for a file of this size",
              limit_);
    left_ -= bytes;
  }

 private:
  uint64_t limit_;
  uint64_t left_;
};

}  // namespace qat::archive
