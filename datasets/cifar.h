// CIFAR-10 and CIFAR-100 in their binary form (https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/dataset.h"

namespace qat::datasets {

enum class CifarLabels {
  kTen,     ///< records of CIFAR-10: label, pixels
  kFine,    ///< records of CIFAR-100: coarse label, fine label, pixels; the 100 fine labels
  kCoarse,  ///< the same records; the 20 coarse labels
};

/// 32x32 RGB images of record files. A record's pixels are 1024 red, 1024 green, 1024 blue bytes, each row by row.
class CifarDataset final : public Dataset {
 public:
  /// Reads the record files in order, and class names, one a line, from `names` if that file exists; `limit` > 0 keeps
  /// the first samples. Throws FileError: missing, no whole number of records, a label out of range, a file of names
  /// with too few of them.
  CifarDataset(const std::vector<std::string>& files, const std::string& names, CifarLabels labels, int64_t limit = 0);

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  Sample get(int64_t index) const override;
  int64_t num_classes() const override { return num_classes_; }
  std::vector<std::string> class_names() const override;
  int64_t height() const override { return 32; }
  int64_t width() const override { return 32; }
  int64_t channels() const override { return 3; }

 private:
  int64_t num_classes_;
  std::vector<std::string> class_names_;  // empty: not known
  std::string pixels_;                    // 3072 bytes a sample, as in the files
  std::vector<uint8_t> labels_;
};

}  // namespace qat::datasets
