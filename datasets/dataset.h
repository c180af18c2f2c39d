// Labelled images, and the registry of the datasets that a config can name.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace qat::datasets {

/// Height, width, channels of one image.
using Shape = std::array<int64_t, 3>;

/// An 8-bit image, rows top to bottom, channels interleaved (HWC).
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  std::vector<uint8_t> pixels;
};

struct Sample {
  Image image;
  int64_t label = 0;
};

/// A finite list of labelled images of one shape. Immutable after construction: get() may be called by many threads.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;

  /// Sample 0 <= index < size(), always the same for the same index; its label is in [0, num_classes()).
  virtual Sample get(int64_t index) const = 0;

  virtual int64_t num_classes() const = 0;
  virtual int64_t height() const = 0;
  virtual int64_t width() const = 0;
  virtual int64_t channels() const = 0;

  Shape shape() const { return {height(), width(), channels()}; }
};

/// The two splits of a dataset: what is trained on, and what is measured on.
struct DatasetPair {
  std::shared_ptr<const Dataset> train;
  std::shared_ptr<const Dataset> eval;
};

}  // namespace qat::datasets
