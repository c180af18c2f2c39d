// MNIST's IDX files (http://yann.lecun.com/exdb/mnist, section "file formats"), plain or gzip-compressed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/dataset.h"

namespace qat::datasets {

/// An array of unsigned bytes: big-endian header {0, 0, 8, rank, dims...}, then the values in row-major order.
struct IdxArray {
  std::vector<int64_t> dims;
  std::vector<uint8_t> values;
};

/// Reads an IDX file of unsigned bytes with `rank` dimensions; gzip is recognised by its magic, not by the name.
/// Memory grows with the bytes really present, never with what the header declares. At most 4 GiB of values.
/// Throws FileError, starting with the path: missing, not IDX, other type or rank, truncated, trailing bytes, damaged
/// gzip.
IdxArray read_idx(const std::string& path, int64_t rank);

/// Grey images [N, H, W] with labels [N].
class IdxDataset : public Dataset {
 public:
  /// Reads both files; `limit` > 0 keeps the first `limit` samples. Throws FileError as read_idx does, and if the two
  /// files' counts differ, there is no sample, or a label is not below num_classes.
  /// `class_names`: one for each class, or none.
  IdxDataset(const std::string& images, const std::string& labels, int64_t num_classes, int64_t limit = 0,
             std::vector<std::string> class_names = {});

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  Sample get(int64_t index) const override;
  int64_t num_classes() const override { return num_classes_; }
  std::vector<std::string> class_names() const override;
  int64_t height() const override { return height_; }
  int64_t width() const override { return width_; }
  int64_t channels() const override { return 1; }

 private:
  int64_t num_classes_;
  std::vector<std::string> class_names_;
  int64_t height_ = 0;
  int64_t width_ = 0;
  std::vector<uint8_t> pixels_;
  std::vector<uint8_t> labels_;
};

/// The folder of Fashion-MNIST's four files: `root` itself, or for "auto" the first that exists of
/// /usr/share/datasets/fashion-mnist (Debian's dataset-fashion-mnist) and data/fashion-mnist.
/// Throws FileError that says how to get it.
std::string find_fashion_mnist(const std::string& root);

}  // namespace qat::datasets
