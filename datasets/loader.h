// Batches of a dataset, prepared ahead by worker threads, in an order that depends only on (seed, epoch).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "datasets/dataset.h"
#include "datasets/transforms.h"

namespace qat::datasets {

struct LoaderOptions {
  int64_t batch_size = 128;  ///< at least 1
  int64_t workers = 0;       ///< threads that prepare batches; 0: the thread that calls next()
  bool shuffle = false;      ///< the order of epoch e is the permutation of (seed, e); otherwise 0, 1, 2, ...
  bool drop_last = false;    ///< leave out a last batch that is smaller than batch_size
  uint64_t seed = 0;         ///< of the order and of the transforms
  int64_t prefetch = 4;      ///< batches kept ready or in work ahead of next(), at least 1; used with workers
};

struct Batch {
  int64_t size = 0;             ///< N
  std::vector<float> images;    ///< [N, H, W, C]
  std::vector<int64_t> labels;  ///< [N]
};

/// Batches are the same bits for any number of workers, and for an epoch that is entered in its middle: the random
/// numbers of a sample are a function of (seed, epoch, sample index) alone.
///
/// One thread owns the loader and calls its methods. Destruction in the middle of an epoch waits for the batches in
/// work.
class Loader {
 public:
  /// Throws qat::Error for options out of range, an empty dataset, or transforms that do not fit its images or leave
  /// them at different sizes.
  Loader(std::shared_ptr<const Dataset> dataset, Transforms transforms, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Batches in one epoch; 0 if drop_last leaves none.
  int64_t batches() const;

  /// Samples in one epoch.
  int64_t samples() const;

  /// Height, width, channels of a batch's images.
  Shape shape() const;

  /// Starts epoch `epoch` at batch 0 <= first_batch <= batches(), without reading the samples before it. An epoch in
  /// progress is abandoned.
  void start_epoch(uint64_t epoch, int64_t first_batch = 0);

  /// The next batch of the epoch, or false at its end (and before the first start_epoch). `out`'s memory is reused.
  /// Rethrows what the dataset threw for this batch, or what a transform threw with the sample's name; the epoch is
  /// over then.
  bool next(Batch& out);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qat::datasets
