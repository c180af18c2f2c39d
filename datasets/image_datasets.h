// The datasets of image files that a config can name: image_folder, image_list, coco.
#pragma once

#include "core/registry/registry.h"
#include "datasets/registry.h"

namespace qat::datasets {

void add_image_datasets(Registry<DatasetFactory>& registry);

}  // namespace qat::datasets
