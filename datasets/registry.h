// The datasets that a config can name.
#pragma once

#include <functional>

#include "core/config/node.h"
#include "core/registry/registry.h"
#include "datasets/dataset.h"

namespace qat::datasets {

/// Makes both splits from a dataset's options (the config's map without `name`).
using DatasetFactory = std::function<DatasetPair(const config::Node& options)>;

/// Built in: fashion_mnist, idx, synthetic.
Registry<DatasetFactory>& registry();

/// Both splits of `{name: ..., options}`. Throws ConfigError for an unknown name or option, impossible sizes, or splits
/// that differ in shape or classes, and FileError for files that cannot be read.
DatasetPair make_dataset(const config::Node& node);

}  // namespace qat::datasets
