// Generated images that a small network learns in a few steps: for tests, benchmarks and trials without data.
#pragma once

#include <cstdint>

#include "datasets/dataset.h"

namespace qat::datasets {

struct SyntheticOptions {
  int64_t num_classes = 10;
  int64_t channels = 1;
  int64_t height = 28;
  int64_t width = 28;
  int64_t train_samples = 4096;
  int64_t eval_samples = 1024;
  int64_t seed = 0;
};

/// Image `index` belongs to class index % num_classes and shows that class's grating (its own direction and number of
/// periods over the image) with a phase jitter of +-1/8 period, an amplitude of 36 to 72 around 128, and uniform noise
/// of +-32. Pixels are a function of (seed, split, index), the same on every machine.
class SyntheticDataset : public Dataset {
 public:
  enum class Split { kTrain, kEval };

  /// Throws qat::Error for sizes below 1, fewer than 2 classes, or images too small to tell the classes' gratings apart
  /// (10 classes need 5x5 pixels, 100 classes 15x15).
  SyntheticDataset(const SyntheticOptions& options, Split split);

  int64_t size() const override { return size_; }
  Sample get(int64_t index) const override;
  int64_t num_classes() const override { return options_.num_classes; }
  int64_t height() const override { return options_.height; }
  int64_t width() const override { return options_.width; }
  int64_t channels() const override { return options_.channels; }

 private:
  SyntheticOptions options_;
  int64_t size_;
  uint64_t key_;
};

}  // namespace qat::datasets
