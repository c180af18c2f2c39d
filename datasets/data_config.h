// The `data:` section of an experiment: a dataset, its transforms, and how it is loaded.
#pragma once

#include <cstdint>
#include <vector>

#include "core/config/config.h"
#include "datasets/dataset.h"
#include "datasets/loader.h"
#include "datasets/transforms.h"

namespace qat::datasets {

struct DataConfig {
  config::Node dataset;  ///< name and options of a registered dataset (datasets/registry.h)
  int64_t batch_size = 128;
  int64_t workers = 2;
  std::vector<config::Node> train;  ///< transforms of the training split
  std::vector<config::Node> eval;   ///< transforms of the evaluation split
};

/// Both splits of config.dataset. Throws as make_dataset does.
DatasetPair make_datasets(const DataConfig& config);

struct TransformPair {
  Transforms train;
  Transforms eval;
};

/// The pipelines of both splits. Throws ConfigError as Transforms does, if one leaves images at different sizes, and if
/// the two normalize differently: a network has one preprocessing.
TransformPair make_transforms(const DataConfig& config, const DatasetPair& datasets);

/// Shuffled batches, all of batch_size: batch norm's statistics would suffer from a small last one. Throws ConfigError
/// if the training split is smaller than one batch.
LoaderOptions train_options(const DataConfig& config, const DatasetPair& datasets, uint64_t seed);

/// Every sample once, in the dataset's order.
LoaderOptions eval_options(const DataConfig& config);

}  // namespace qat::datasets

template <>
struct qat::config::Schema<qat::datasets::DataConfig> {
  static void describe(Fields<datasets::DataConfig>& f);
};
