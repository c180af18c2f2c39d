#include "datasets/registry.h"

#include <filesystem>
#include <memory>
#include <string>

#include "core/base/error.h"
#include "core/config/config.h"
#include "datasets/idx.h"
#include "datasets/synthetic.h"

namespace qat::datasets {
namespace {

struct FashionMnistOptions {
  std::string root = "auto";
  int64_t train_samples = 0;
  int64_t eval_samples = 0;
};

struct IdxOptions {
  std::string train_images, train_labels, eval_images, eval_labels;
  int64_t num_classes = 10;
  int64_t train_samples = 0;
  int64_t eval_samples = 0;
};

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::FashionMnistOptions> {
  static void describe(Fields<datasets::FashionMnistOptions>& f) {
    using T = datasets::FashionMnistOptions;
    f.field("root", &T::root).doc("folder of the four IDX files; auto: where Debian's package puts them, or data/");
    f.field("train_samples", &T::train_samples).doc("use only the first N; 0: all").minimum(0);
    f.field("eval_samples", &T::eval_samples).doc("use only the first N; 0: all").minimum(0);
  }
};

template <>
struct Schema<datasets::IdxOptions> {
  static void describe(Fields<datasets::IdxOptions>& f) {
    using T = datasets::IdxOptions;
    f.field("train_images", &T::train_images).doc("IDX file [N, H, W], plain or gzip").required();
    f.field("train_labels", &T::train_labels).doc("IDX file [N], plain or gzip").required();
    f.field("eval_images", &T::eval_images).doc("IDX file [N, H, W], plain or gzip").required();
    f.field("eval_labels", &T::eval_labels).doc("IDX file [N], plain or gzip").required();
    f.field("num_classes", &T::num_classes).doc("labels are 0 to num_classes - 1").minimum(1).maximum(256);
    f.field("train_samples", &T::train_samples).doc("use only the first N; 0: all").minimum(0);
    f.field("eval_samples", &T::eval_samples).doc("use only the first N; 0: all").minimum(0);
  }
};

template <>
struct Schema<datasets::SyntheticOptions> {
  static void describe(Fields<datasets::SyntheticOptions>& f) {
    using T = datasets::SyntheticOptions;
    f.field("num_classes", &T::num_classes).doc("each has its own grating").minimum(2).maximum(1000);
    f.field("channels", &T::channels).doc("of an image").minimum(1).maximum(64);
    f.field("height", &T::height).doc("in pixels").minimum(1).maximum(4096);
    f.field("width", &T::width).doc("in pixels").minimum(1).maximum(4096);
    f.field("train_samples", &T::train_samples).doc("images to train on").minimum(1);
    f.field("eval_samples", &T::eval_samples).doc("images to measure on").minimum(1);
    f.field("seed", &T::seed).doc("of the images");
  }
};

}  // namespace qat::config

namespace qat::datasets {
namespace {

DatasetPair make_fashion_mnist(const config::Node& node) {
  const auto options = config::parse<FashionMnistOptions>(node);
  const std::filesystem::path root = find_fashion_mnist(options.root);
  const auto file = [&](const std::string& name) {
    std::error_code error;
    return (root / (std::filesystem::exists(root / name, error) ? name : name + ".gz")).string();
  };
  const auto split = [&](const std::string& prefix, int64_t limit) {
    return std::make_shared<IdxDataset>(file(prefix + "-images-idx3-ubyte"), file(prefix + "-labels-idx1-ubyte"), 10,
                                        limit);
  };
  return {split("train", options.train_samples), split("t10k", options.eval_samples)};
}

DatasetPair make_idx(const config::Node& node) {
  const auto options = config::parse<IdxOptions>(node);
  return {std::make_shared<IdxDataset>(options.train_images, options.train_labels, options.num_classes,
                                       options.train_samples),
          std::make_shared<IdxDataset>(options.eval_images, options.eval_labels, options.num_classes,
                                       options.eval_samples)};
}

DatasetPair make_synthetic(const config::Node& node) {
  const auto options = config::parse<SyntheticOptions>(node);
  using Split = SyntheticDataset::Split;
  try {
    return {std::make_shared<SyntheticDataset>(options, Split::kTrain),
            std::make_shared<SyntheticDataset>(options, Split::kEval)};
  } catch (const Error& error) {
    throw node.error(error.what());
  }
}

}  // namespace

Registry<DatasetFactory>& registry() {
  static Registry<DatasetFactory> registry = [] {
    Registry<DatasetFactory> r("dataset");
    r.add("fashion_mnist", "70,000 grey images of 10 kinds of clothing, 28x28", make_fashion_mnist);
    r.add("idx", "grey images in MNIST's file format", make_idx);
    r.add("synthetic", "generated gratings, learned in a few steps", make_synthetic);
    return r;
  }();
  return registry;
}

DatasetPair make_dataset(const config::Node& node) {
  const config::Node& name = node.at("name");
  const DatasetFactory& factory = registry().get(name.as<std::string>(), name);
  DatasetPair pair = factory(node.without("name"));
  const Shape train = pair.train->shape(), eval = pair.eval->shape();
  if (train != eval || pair.train->num_classes() != pair.eval->num_classes()) {
    throw node.error(fmt::format(
        "the splits differ: training images are {}x{}x{} of {} classes, evaluation images {}x{}x{} of {}", train[0],
        train[1], train[2], pair.train->num_classes(), eval[0], eval[1], eval[2], pair.eval->num_classes()));
  }
  return pair;
}

}  // namespace qat::datasets
