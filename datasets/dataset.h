// Labelled images: what every reader gives.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace qat::datasets {

/// Height, width, channels of one image.
using Shape = std::array<int64_t, 3>;

/// Stands for a side that differs from image to image.
inline constexpr int64_t kVaries = -1;

/// Whether both sides are known.
inline bool is_fixed(const Shape& shape) { return shape[0] != kVaries && shape[1] != kVaries; }

/// An 8-bit image, rows top to bottom, channels interleaved (HWC). Three channels are red, green, blue.
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  std::vector<uint8_t> pixels;

  Shape shape() const { return {height, width, channels}; }
};

/// All zeros.
inline Image blank(const Shape& shape) {
  return {shape[0], shape[1], shape[2], std::vector<uint8_t>(static_cast<size_t>(shape[0] * shape[1] * shape[2]))};
}

struct Sample {
  Image image;
  int64_t label = 0;
};

/// A finite list of labelled images. get() may be called by many threads at once.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;

  /// Sample 0 <= index < size(), always the same for the same index; its label is in [0, num_classes()).
  virtual Sample get(int64_t index) const = 0;

  virtual int64_t num_classes() const = 0;

  /// num_classes() names by label; the numbers themselves where the data has none.
  virtual std::vector<std::string> class_names() const;

  /// Of every image; height and width may be kVaries.
  virtual int64_t height() const = 0;
  virtual int64_t width() const = 0;
  virtual int64_t channels() const = 0;
  Shape shape() const { return {height(), width(), channels()}; }

  /// What messages call a sample: "sample 5", with its file where it has one of its own.
  virtual std::string describe(int64_t index) const;

  /// Files that could not be read so far and were replaced; empty for datasets that never replace.
  virtual std::vector<std::string> damaged() const { return {}; }
};

/// The first `size` samples of a dataset (all, if it has no more).
std::shared_ptr<const Dataset> first_samples(std::shared_ptr<const Dataset> dataset, int64_t size);

/// The two splits of a dataset: what is trained on, and what is measured on.
struct DatasetPair {
  std::shared_ptr<const Dataset> train;
  std::shared_ptr<const Dataset> eval;
};

}  // namespace qat::datasets
