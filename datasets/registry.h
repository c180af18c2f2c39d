// The datasets that a config can name.
#pragma once

#include <functional>
#include <string>

#include "core/config/node.h"
#include "core/registry/registry.h"
#include "datasets/dataset.h"

namespace qat::datasets {

struct DatasetFactory {
  /// Both splits from a dataset's options (the config's map without `name`).
  std::function<DatasetPair(const config::Node& options)> make;
  /// A Markdown table of the options.
  std::function<std::string()> docs;
};

/// Built in: cifar10, cifar100, coco, fashion_mnist, idx, image_folder, image_list, synthetic.
Registry<DatasetFactory>& registry();

/// Both splits of `{name: ..., options}`. Throws ConfigError for an unknown name or option, impossible sizes, or splits
/// that differ in shape or classes, and FileError for files that cannot be read.
DatasetPair make_dataset(const config::Node& node);

}  // namespace qat::datasets
