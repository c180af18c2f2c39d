#include "datasets/registry.h"

#include <filesystem>
#include <memory>
#include <string>

#include "core/base/error.h"
#include "core/config/config.h"
#include "datasets/cifar.h"
#include "datasets/idx.h"
#include "datasets/image_datasets.h"
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

struct Cifar10Options {
  std::string root;
  int64_t train_samples = 0;
  int64_t eval_samples = 0;
};

struct Cifar100Options {
  std::string root;
  std::string labels = "fine";
  int64_t train_samples = 0;
  int64_t eval_samples = 0;
};

template <class T>
void describe_limits(config::Fields<T>& f) {
  f.field("train_samples", &T::train_samples).doc("use only the first N; 0: all").minimum(0);
  f.field("eval_samples", &T::eval_samples).doc("use only the first N; 0: all").minimum(0);
}

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::Cifar10Options> {
  static void describe(Fields<datasets::Cifar10Options>& f) {
    using T = datasets::Cifar10Options;
    f.field("root", &T::root)
        .doc("folder of data_batch_1.bin to 5.bin and test_batch.bin, or the one above")
        .required();
    datasets::describe_limits(f);
  }
};

template <>
struct Schema<datasets::Cifar100Options> {
  static void describe(Fields<datasets::Cifar100Options>& f) {
    using T = datasets::Cifar100Options;
    f.field("root", &T::root).doc("folder of train.bin and test.bin, or the one above").required();
    f.field("labels", &T::labels).doc("the 100 classes, or the 20 groups of them").one_of({"fine", "coarse"});
    datasets::describe_limits(f);
  }
};

template <>
struct Schema<datasets::FashionMnistOptions> {
  static void describe(Fields<datasets::FashionMnistOptions>& f) {
    using T = datasets::FashionMnistOptions;
    f.field("root", &T::root).doc("folder of the four IDX files; auto: where Debian's package puts them, or data/");
    datasets::describe_limits(f);
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
    datasets::describe_limits(f);
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
    const std::vector<std::string> names{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                         "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
    return std::make_shared<IdxDataset>(file(prefix + "-images-idx3-ubyte"), file(prefix + "-labels-idx1-ubyte"), 10,
                                        limit, names);
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

// The folder that the files' archive unpacks to, or its parent.
std::filesystem::path cifar_root(const std::string& root, const char* archive_folder) {
  const std::filesystem::path inner = std::filesystem::path(root) / archive_folder;
  std::error_code error;
  return std::filesystem::is_directory(inner, error) ? inner : std::filesystem::path(root);
}

DatasetPair make_cifar10(const config::Node& node) {
  const auto options = config::parse<Cifar10Options>(node);
  const std::filesystem::path root = cifar_root(options.root, "cifar-10-batches-bin");
  const std::string names = (root / "batches.meta.txt").string();
  std::vector<std::string> batches;
  for (int i = 1; i <= 5; ++i) batches.push_back((root / fmt::format("data_batch_{}.bin", i)).string());
  const auto split = [&](const std::vector<std::string>& files, int64_t limit) {
    return std::make_shared<CifarDataset>(files, names, CifarLabels::kTen, limit);
  };
  return {split(batches, options.train_samples), split({(root / "test_batch.bin").string()}, options.eval_samples)};
}

DatasetPair make_cifar100(const config::Node& node) {
  const auto options = config::parse<Cifar100Options>(node);
  const std::filesystem::path root = cifar_root(options.root, "cifar-100-binary");
  const std::string names = (root / (options.labels + "_label_names.txt")).string();
  const CifarLabels labels = options.labels == "fine" ? CifarLabels::kFine : CifarLabels::kCoarse;
  const auto split = [&](const char* file, int64_t limit) {
    return std::make_shared<CifarDataset>(std::vector{(root / file).string()}, names, labels, limit);
  };
  return {split("train.bin", options.train_samples), split("test.bin", options.eval_samples)};
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

template <class Options>
DatasetFactory factory(DatasetPair (*make)(const config::Node&)) {
  return {make, config::docs<Options>};
}

}  // namespace

Registry<DatasetFactory>& registry() {
  static Registry<DatasetFactory> registry = [] {
    Registry<DatasetFactory> r("dataset");
    r.add("cifar10", "60,000 color images of 10 classes, 32x32", factory<Cifar10Options>(make_cifar10));
    r.add("cifar100", "60,000 color images of 100 classes, 32x32", factory<Cifar100Options>(make_cifar100));
    r.add("fashion_mnist", "70,000 grey images of 10 kinds of clothing, 28x28",
          factory<FashionMnistOptions>(make_fashion_mnist));
    r.add("idx", "grey images in MNIST's file format", factory<IdxOptions>(make_idx));
    r.add("synthetic", "generated gratings, learned in a few steps", factory<SyntheticOptions>(make_synthetic));
    add_image_datasets(r);
    return r;
  }();
  return registry;
}

DatasetPair make_dataset(const config::Node& node) {
  const config::Node& name = node.at("name");
  const DatasetFactory& factory = registry().get(name.as<std::string>(), name);
  DatasetPair pair = factory.make(node.without("name"));
  const Shape train = pair.train->shape(), eval = pair.eval->shape();
  if (pair.train->class_names() != pair.eval->class_names() && pair.train->num_classes() == pair.eval->num_classes()) {
    throw node.error("the splits differ: the names of their classes are not the same");
  }
  if (train != eval || pair.train->num_classes() != pair.eval->num_classes()) {
    throw node.error(fmt::format(
        "the splits differ: training images are {}x{}x{} of {} classes, evaluation images {}x{}x{} of {}", train[0],
        train[1], train[2], pair.train->num_classes(), eval[0], eval[1], eval[2], pair.eval->num_classes()));
  }
  return pair;
}

}  // namespace qat::datasets
