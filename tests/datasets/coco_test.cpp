#include "datasets/coco.h"

#include <gmock/gmock.h>

#include "core/base/error.h"
#include "tests/datasets/files.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Categories out of order; image 20 has two objects of which the second is larger; 10 has two equal ones; 30 none but a
// crowd; 5 a box without area and one with.
const std::string kAnnotations = R"({
  "info": {"year": 2017, "nested": [[[[[[1]]]]]]}, "licenses": [{"id": 1}],
  "categories": [{"id": 44, "name": "cup", "supercategory": "kitchen"}, {"id": 2, "name": "bicycle"}],
  "images": [{"id": 20, "file_name": "b.jpg", "width": 9, "height": 9}, {"id": 10, "file_name": "sub/a.jpg"},
             {"id": 30, "file_name": "c.jpg"}, {"id": 40, "file_name": "d.jpg"}, {"id": 5, "file_name": "e.jpg"}],
  "annotations": [
    {"id": 1, "image_id": 20, "category_id": 44, "bbox": [0, 0, 2, 2], "iscrowd": 0, "segmentation": [[1, 2, 3]]},
    {"id": 2, "image_id": 20, "category_id": 2, "bbox": [1.5, 2, 3, 4.25], "iscrowd": 0},
    {"id": 3, "image_id": 20, "category_id": 44, "bbox": [0, 0, 100, 100], "iscrowd": 1, "segmentation": {"counts": [1]}},
    {"id": 4, "image_id": 10, "category_id": 44, "bbox": [0, 0, 2, 3]},
    {"id": 5, "image_id": 10, "category_id": 2, "bbox": [0, 0, 3, 2]},
    {"id": 6, "image_id": 30, "category_id": 2, "bbox": [0, 0, 3, 2], "iscrowd": 1},
    {"id": 7, "image_id": 5, "category_id": 2, "bbox": [0, 0, 0, 8]},
    {"id": 8, "image_id": 5, "category_id": 44, "bbox": [1, 1, 1, 1]}]})";

CocoImages read(const std::string& text, bool crop = false) {
  return read_coco(write_text(temp_path("instances.json"), text), "images", crop);
}

// The annotations with one piece replaced.
std::string with(const std::string& from, const std::string& to) {
  std::string text = kAnnotations;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string complaint(const std::string& text) {
  return file_complaint([&] { read(text); });
}

TEST(Coco, LabelsImagesByTheirLargestObject) {
  const CocoImages coco = read(kAnnotations);
  EXPECT_THAT(coco.category_ids, ElementsAre(2, 44));
  EXPECT_THAT(coco.category_names, ElementsAre("bicycle", "cup"));
  std::vector<std::string> paths;
  std::vector<int64_t> labels;
  for (const LabelledFile& file : coco.files) {
    paths.push_back(file.path);
    labels.push_back(file.label);
    EXPECT_FALSE(file.crop);
  }
  EXPECT_THAT(paths, ElementsAre("images/e.jpg", "images/sub/a.jpg", "images/b.jpg"));
  EXPECT_THAT(labels, ElementsAre(1, 1, 0));
}

TEST(Coco, CropsToTheBox) {
  const std::optional<Box> box = read(kAnnotations, true).files.at(2).crop;
  ASSERT_TRUE(box);
  EXPECT_EQ(box->left, 1.5);
  EXPECT_EQ(box->top, 2);
  EXPECT_EQ(box->right, 4.5);
  EXPECT_EQ(box->bottom, 6.25);
}

TEST(Coco, BrokenAnnotationsAreRefused) {
  EXPECT_THAT(complaint("{"), HasSubstr("expected COCO's annotations, found no JSON map"));
  EXPECT_THAT(complaint("[1]"), HasSubstr("found no JSON map"));
  EXPECT_THAT(complaint("{}"), HasSubstr("expected a list 'categories'"));
  EXPECT_THAT(complaint(with("\"name\": \"bicycle\"", "\"name\": 3")),
              HasSubstr("categories[1]: expected a string 'name'"));
  EXPECT_THAT(complaint(with("\"id\": 2, \"name\"", "\"id\": 44, \"name\"")),
              HasSubstr("categories[1]: its id is there"));
  EXPECT_THAT(complaint(with("\"id\": 20", "\"id\": 20.5")), HasSubstr("images[0]: expected an integer 'id'"));
  EXPECT_THAT(complaint(with("\"id\": 20", "\"id\": 18446744073709551615")), HasSubstr("expected an integer 'id'"));
  EXPECT_THAT(complaint(with("\"id\": 10, \"file", "\"id\": 20, \"file")),
              HasSubstr("images[1]: its id is there twice"));
  EXPECT_THAT(complaint(with("sub/a.jpg", "sub/../../a.jpg")), HasSubstr("leaves the folder of the images"));
  EXPECT_THAT(complaint(with("sub/a.jpg", "/etc/a.jpg")), HasSubstr("leaves the folder of the images"));
  EXPECT_THAT(complaint(with("\"image_id\": 10", "\"image_id\": 11")),
              HasSubstr("annotations[3]: there is no image with the id 11"));
  EXPECT_THAT(complaint(with("\"category_id\": 2", "\"category_id\": 3")),
              HasSubstr("annotations[1]: there is no category with the id 3"));
  for (const char* box :
       {"[1.5, 2, 3]", "[1, 2, 3, \"4\"]", "[1, 2, 3, 1e300]", "[1, 2, -3, 4]", "7", "[[1], 2, 3, 4]"}) {
    EXPECT_THAT(complaint(with("[1.5, 2, 3, 4.25]", box)), HasSubstr("annotations[1]: expected 'bbox'")) << box;
  }
  EXPECT_THAT(complaint(R"({"categories": [], "images": [], "annotations": []})"), HasSubstr("at least one image"));
}

TEST(Coco, DeepNestingIsDropped) {
  const std::string deep(200000, '[');
  EXPECT_THAT(complaint("{\"images\": " + deep), HasSubstr("found no JSON map"));
  const std::string closed = deep + std::string(deep.size(), ']');
  EXPECT_THAT(complaint("{\"categories\": [], \"images\": " + closed + ", \"annotations\": []}"),
              HasSubstr("images[0]: expected a map"));
}

}  // namespace
}  // namespace qat::datasets
