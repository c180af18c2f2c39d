// COCO's instance annotations (https://cocodataset.org/#format-data) as a classification problem.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/image_files.h"

namespace qat::datasets {

struct CocoImages {
  std::vector<LabelledFile> files;
  std::vector<int64_t> category_ids;
  std::vector<std::string> category_names;  ///< of the same length
};

/// One entry for each image that has an annotation, in the order of the images' ids. The label is the category of the
/// annotation with the largest bounding box (the first in the file of equal ones; iscrowd groups and boxes without area
/// do not count), as its place among all categories by id. With `crop`, only that box is shown. Files are looked for in
/// `folder`. Throws FileError, starting with the path: not JSON, a field that is missing or has another type, an
/// unknown id, an id twice, a file name that leaves the folder, no annotated image.
CocoImages read_coco(const std::string& annotations, const std::string& folder, bool crop);

}  // namespace qat::datasets
