#include "datasets/image_datasets.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/config/config.h"
#include "datasets/coco.h"
#include "datasets/image_files.h"

namespace qat::datasets {
namespace {

struct ImageFolderOptions {
  std::string root;
  std::string train = "train";
  std::string eval = "val";
  std::string on_error = "fail";
};

struct ImageListOptions {
  std::string train, eval;
  int64_t num_classes = 0;
  std::optional<std::string> class_names;
  std::string on_error = "fail";
};

struct CocoOptions {
  std::string train_images, train_annotations, eval_images, eval_annotations;
  bool crop = false;
  std::string on_error = "fail";
};

template <class T>
void describe_on_error(config::Fields<T>& f) {
  f.field("on_error", &T::on_error)
      .doc("an image that cannot be read: stops the run, or the next readable one takes its place")
      .one_of({"fail", "skip"});
}

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::ImageFolderOptions> {
  static void describe(Fields<datasets::ImageFolderOptions>& f) {
    using T = datasets::ImageFolderOptions;
    f.field("root", &T::root).doc("folder of both splits").required();
    f.field("train", &T::train).doc("its folder of training images, with a folder for each class");
    f.field("eval", &T::eval).doc("the same for evaluation, with the same classes");
    datasets::describe_on_error(f);
  }
};

template <>
struct Schema<datasets::ImageListOptions> {
  static void describe(Fields<datasets::ImageListOptions>& f) {
    using T = datasets::ImageListOptions;
    f.field("train", &T::train).doc("file of lines \"path label\", paths from the file's folder").required();
    f.field("eval", &T::eval).doc("the same for evaluation").required();
    f.field("num_classes", &T::num_classes)
        .doc("labels are 0 to num_classes - 1; 0: as many as there are names, or up to the largest training label")
        .minimum(0)
        .maximum(1e6);
    f.field("class_names", &T::class_names).doc("file of one name a line");
    datasets::describe_on_error(f);
  }
};

template <>
struct Schema<datasets::CocoOptions> {
  static void describe(Fields<datasets::CocoOptions>& f) {
    using T = datasets::CocoOptions;
    f.field("train_images", &T::train_images).doc("folder").required();
    f.field("train_annotations", &T::train_annotations).doc("instances_*.json").required();
    f.field("eval_images", &T::eval_images).doc("folder").required();
    f.field("eval_annotations", &T::eval_annotations).doc("instances_*.json").required();
    f.field("crop", &T::crop).doc("shows only the bounding box of the object that gives the label");
    datasets::describe_on_error(f);
  }
};

}  // namespace qat::config

namespace qat::datasets {
namespace {

OnError on_error(const std::string& name) { return name == "skip" ? OnError::kSkip : OnError::kFail; }

DatasetPair make_image_folder(const config::Node& node) {
  const auto options = config::parse<ImageFolderOptions>(node);
  const std::filesystem::path root = options.root;
  std::vector<std::string> classes, eval_classes;
  std::vector<LabelledFile> train = list_folder((root / options.train).string(), classes);
  std::vector<LabelledFile> eval = list_folder((root / options.eval).string(), eval_classes);
  std::vector<std::string> one_sided;
  std::set_symmetric_difference(classes.begin(), classes.end(), eval_classes.begin(), eval_classes.end(),
                                std::back_inserter(one_sided));
  QAT_CHECK_AS(FileError, one_sided.empty(),
               "{}: expected the same classes in {} and {}, found only in one of them: {}", options.root, options.train,
               options.eval, join(one_sided));
  const OnError policy = on_error(options.on_error);
  return {std::make_shared<ImageFiles>(std::move(train), classes, policy),
          std::make_shared<ImageFiles>(std::move(eval), classes, policy)};
}

DatasetPair make_image_list(const config::Node& node) {
  const auto options = config::parse<ImageListOptions>(node);
  std::vector<LabelledFile> train = read_list(options.train), eval = read_list(options.eval);
  std::vector<std::string> names;
  if (options.class_names) names = read_names(*options.class_names);
  int64_t count = options.num_classes;
  if (count == 0 && !names.empty()) count = static_cast<int64_t>(names.size());
  if (count == 0) {
    const auto below = [](const LabelledFile& a, const LabelledFile& b) { return a.label < b.label; };
    count = std::max_element(train.begin(), train.end(), below)->label + 1;
  }
  if (!names.empty() && static_cast<int64_t>(names.size()) != count) {
    throw node.error(fmt::format("expected {} class_names, found {} in {}", count, names.size(), *options.class_names));
  }
  constexpr int64_t kMaxClasses = 1'000'000;
  for (const auto& [list, files] : {std::pair{&options.train, &train}, std::pair{&options.eval, &eval}}) {
    for (const LabelledFile& file : *files) {
      QAT_CHECK_AS(FileError, file.label < count && count <= kMaxClasses, "{}: {} has label {}, expected 0 to {}",
                   *list, file.path, file.label, std::min(count, kMaxClasses) - 1);
    }
  }
  for (int64_t label = static_cast<int64_t>(names.size()); label < count; ++label) {
    names.push_back(std::to_string(label));
  }
  const OnError policy = on_error(options.on_error);
  return {std::make_shared<ImageFiles>(std::move(train), names, policy),
          std::make_shared<ImageFiles>(std::move(eval), names, policy)};
}

DatasetPair make_coco(const config::Node& node) {
  const auto options = config::parse<CocoOptions>(node);
  CocoImages train = read_coco(options.train_annotations, options.train_images, options.crop);
  CocoImages eval = read_coco(options.eval_annotations, options.eval_images, options.crop);
  QAT_CHECK_AS(FileError, train.category_ids == eval.category_ids && train.category_names == eval.category_names,
               "{}: expected the categories of {}", options.eval_annotations, options.train_annotations);
  const OnError policy = on_error(options.on_error);
  return {std::make_shared<ImageFiles>(std::move(train.files), train.category_names, policy),
          std::make_shared<ImageFiles>(std::move(eval.files), eval.category_names, policy)};
}

}  // namespace

void add_image_datasets(Registry<DatasetFactory>& registry) {
  registry.add("image_folder", "image files in a folder for each class (ImageNet's form)",
               {make_image_folder, config::docs<ImageFolderOptions>});
  registry.add("image_list", "image files named by lists of paths and labels",
               {make_image_list, config::docs<ImageListOptions>});
  registry.add("coco", "COCO's images, classified by their largest object", {make_coco, config::docs<CocoOptions>});
}

}  // namespace qat::datasets
