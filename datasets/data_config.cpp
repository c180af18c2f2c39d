#include "datasets/data_config.h"

#include "datasets/registry.h"

void qat::config::Schema<qat::datasets::DataConfig>::describe(Fields<datasets::DataConfig>& f) {
  using T = datasets::DataConfig;
  f.field("dataset", &T::dataset).doc("{name: ..., options}; names: qat list datasets").required();
  f.field("batch_size", &T::batch_size).doc("images in a batch").minimum(1).maximum(65536);
  f.field("workers", &T::workers)
      .doc("threads that prepare batches ahead; results do not depend on it")
      .minimum(0)
      .maximum(256);
  f.field("train", &T::train).doc("transforms of the training images, in order; then normalize, then random_erasing");
  f.field("eval", &T::eval).doc("transforms of the evaluation images, in order; normalize last");
}

namespace qat::datasets {

DatasetPair make_datasets(const DataConfig& config) { return make_dataset(config.dataset); }

TransformPair make_transforms(const DataConfig& config, const DatasetPair& datasets) {
  TransformPair pair{Transforms(config.train, datasets.train->shape()),
                     Transforms(config.eval, datasets.eval->shape())};
  const Shape shape = pair.eval.output_shape(datasets.eval->shape());
  if (!is_fixed(shape) || !is_fixed(pair.train.output_shape(datasets.train->shape()))) {
    throw config.dataset.error(
        "the images differ in size: both `train` and `eval` need a transform that gives one size, such as "
        "{random_resized_crop: {size: 224}} or {center_crop: {size: 224}}");
  }
  const int64_t channels = shape[2];
  if (pair.train.output_shape(datasets.train->shape())[2] != channels) {
    throw config.dataset.error("training and evaluation images differ in channels behind their transforms");
  }
  if (pair.train.mean(channels) != pair.eval.mean(channels) || pair.train.std(channels) != pair.eval.std(channels)) {
    const config::Node& where = config.eval.empty() ? config.train.back() : config.eval.back();
    throw where.error("training and evaluation must normalize alike; give both the same normalize step");
  }
  return pair;
}

LoaderOptions train_options(const DataConfig& config, const DatasetPair& datasets, uint64_t seed) {
  if (config.batch_size > datasets.train->size()) {
    throw config.dataset.error(
        fmt::format("expected at least one batch of {} training samples, found {}; lower batch_size", config.batch_size,
                    datasets.train->size()));
  }
  return {.batch_size = config.batch_size, .workers = config.workers, .shuffle = true, .drop_last = true, .seed = seed};
}

LoaderOptions eval_options(const DataConfig& config) {
  return {.batch_size = config.batch_size, .workers = config.workers};
}

}  // namespace qat::datasets
