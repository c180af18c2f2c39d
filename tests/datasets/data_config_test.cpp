#include "datasets/data_config.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "core/base/error.h"
#include "datasets/registry.h"
#include "tests/datasets/files.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

config::Node load(const std::string& yaml) { return config::load_text(yaml, "test.yaml").root(); }
DataConfig parse(const std::string& yaml) { return config::parse<DataConfig>(load(yaml)); }

std::string complaint(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError";
}

const std::string kSmall = "dataset: {name: synthetic, train_samples: 20, eval_samples: 7, height: 8, width: 8}\n";

TEST(RegistryTest, BuiltInNames) {
  EXPECT_THAT(registry().names(), ElementsAre("cifar10", "cifar100", "coco", "fashion_mnist", "idx", "image_folder",
                                              "image_list", "synthetic"));
}

TEST(RegistryTest, UnknownNamesAndOptionsHaveTheirPlace) {
  EXPECT_THAT(complaint([] { make_dataset(load("{name: fashion_mnst}")); }), HasSubstr("did you mean 'fashion_mnist'"));
  EXPECT_THAT(complaint([] { make_dataset(load("{name: fashion_mnst}")); }), StartsWith("test.yaml:1:"));
  EXPECT_THAT(complaint([] { make_dataset(load("{name: synthetic, hight: 3}")); }), HasSubstr("'height'"));
  EXPECT_THAT(complaint([] { make_dataset(load("{root: auto}")); }), HasSubstr("name"));
  EXPECT_THAT(complaint([] { make_dataset(load("{name: idx}")); }), HasSubstr("train_images"));
  EXPECT_THAT(complaint([] { make_dataset(load("{name: synthetic, train_samples: 0}")); }), HasSubstr("train_samples"));
  EXPECT_THAT(complaint([] { make_dataset(load("{name: synthetic, num_classes: 900}")); }),
              HasSubstr("at least 43 pixels a side, found 28x28"));
  EXPECT_THROW(make_dataset(load("{name: fashion_mnist, root: /nonexistent}")), FileError);
}

TEST(RegistryTest, IdxTakesFourPathsAndLimits) {
  const std::string images = write_bytes(temp_path("images"), idx_bytes({3, 1, 2}, {1, 2, 3, 4, 5, 6}));
  const std::string labels = write_gzip(temp_path("labels.gz"), idx_bytes({3}, {0, 1, 2}));
  const std::string paths =
      "train_images: " + images + ", train_labels: " + labels + ", eval_images: " + images + ", eval_labels: " + labels;
  const DatasetPair pair = make_dataset(load("{name: idx, num_classes: 3, eval_samples: 2, " + paths + "}"));
  EXPECT_EQ(pair.train->size(), 3);
  EXPECT_EQ(pair.eval->size(), 2);
  EXPECT_EQ(pair.train->num_classes(), 3);
  EXPECT_THAT(pair.train->get(2).image.pixels, ElementsAre(5, 6));
}

TEST(RegistryTest, IdxRefusesSplitsOfDifferentShapes) {
  const std::string narrow = write_bytes(temp_path("narrow"), idx_bytes({1, 1, 2}, {1, 2}));
  const std::string wide = write_bytes(temp_path("wide"), idx_bytes({1, 1, 3}, {1, 2, 3}));
  const std::string labels = write_bytes(temp_path("labels"), idx_bytes({1}, {0}));
  const config::Node node = load("{name: idx, train_images: " + narrow + ", train_labels: " + labels +
                                 ", eval_images: " + wide + ", eval_labels: " + labels + "}");
  EXPECT_THAT(complaint([&] { make_dataset(node); }), HasSubstr("the splits differ"));
}

TEST(RegistryTest, FashionMnistFindsPlainAndPackedFiles) {
  const std::filesystem::path root = temp_path("fashion");
  std::filesystem::create_directories(root);
  write_gzip(root / "train-images-idx3-ubyte.gz", idx_bytes({2, 1, 1}, {5, 6}));
  write_gzip(root / "train-labels-idx1-ubyte.gz", idx_bytes({2}, {9, 0}));
  write_bytes(root / "t10k-images-idx3-ubyte", idx_bytes({1, 1, 1}, {7}));
  const config::Node node = load("{name: fashion_mnist, train_samples: 1, root: '" + root.string() + "'}");
  try {
    make_dataset(node);
    FAIL() << "expected a FileError for the missing labels";
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr("t10k-labels-idx1-ubyte"));
  }
  write_bytes(root / "t10k-labels-idx1-ubyte", idx_bytes({1}, {3}));
  const DatasetPair pair = make_dataset(node);
  EXPECT_EQ(pair.train->size(), 1);
  EXPECT_EQ(pair.train->get(0).label, 9);
  EXPECT_EQ(pair.eval->get(0).label, 3);
  EXPECT_EQ(pair.eval->num_classes(), 10);
  EXPECT_EQ(pair.eval->class_names().at(9), "Ankle boot");
}

TEST(RegistryTest, RealFashionMnist) {
  if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist")) {
    GTEST_SKIP() << "Debian's dataset-fashion-mnist is not installed";
  }
  const DatasetPair pair = make_dataset(load("{name: fashion_mnist, root: auto}"));
  EXPECT_EQ(pair.train->size(), 60000);
  EXPECT_EQ(pair.eval->size(), 10000);
  EXPECT_EQ(pair.train->shape(), (Shape{28, 28, 1}));
  EXPECT_EQ(pair.train->get(0).label, 9);  // an ankle boot
  int64_t sum = 0, squares = 0;
  std::vector<int64_t> counts(10);
  for (int64_t i = 0; i < 60000; ++i) {
    const Sample sample = pair.train->get(i);
    ++counts[static_cast<size_t>(sample.label)];
    for (const int64_t pixel : sample.image.pixels) {
      sum += pixel;
      squares += pixel * pixel;
    }
  }
  EXPECT_THAT(counts, testing::Each(6000));
  const double n = 60000.0 * 28 * 28;
  const double mean = static_cast<double>(sum) / n;
  EXPECT_NEAR(mean / 255, 0.2860, 1e-3);
  EXPECT_NEAR(std::sqrt(static_cast<double>(squares) / n - mean * mean) / 255, 0.3530, 1e-3);
}

TEST(DataConfigTest, ParsesTheSectionAndLoads) {
  const DataConfig config = parse(kSmall +
                                  "batch_size: 6\n"
                                  "workers: 1\n"
                                  "train: [{random_crop: {size: 8, padding: 2}}, horizontal_flip, "
                                  "{normalize: {mean: [0.5], std: [0.25]}}]\n"
                                  "eval: [{normalize: {mean: [0.5], std: [0.25]}}]\n");
  const DatasetPair datasets = make_datasets(config);
  const TransformPair transforms = make_transforms(config, datasets);
  EXPECT_THAT(transforms.eval.mean(1), ElementsAre(0.5F));

  const LoaderOptions train = train_options(config, datasets, 11);
  EXPECT_EQ(train.batch_size, 6);
  EXPECT_EQ(train.workers, 1);
  EXPECT_EQ(train.seed, 11U);
  EXPECT_TRUE(train.shuffle);
  Loader train_loader(datasets.train, transforms.train, train);
  EXPECT_EQ(train_loader.batches(), 3);  // of 20 samples
  EXPECT_EQ(train_loader.shape(), (Shape{8, 8, 1}));

  Loader eval_loader(datasets.eval, transforms.eval, eval_options(config));
  EXPECT_EQ(eval_loader.samples(), 7);
  eval_loader.start_epoch(0);
  Batch batch;
  ASSERT_TRUE(eval_loader.next(batch));
  EXPECT_THAT(batch.labels, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(batch.images[0], (static_cast<float>(datasets.eval->get(0).image.pixels[0]) / 255.0F - 0.5F) / 0.25F);
}

TEST(DataConfigTest, Defaults) {
  const DataConfig config = parse(kSmall);
  EXPECT_EQ(config.batch_size, 128);
  EXPECT_EQ(config.workers, 2);
  EXPECT_TRUE(config.train.empty());
  EXPECT_TRUE(config.eval.empty());
  EXPECT_FALSE(eval_options(config).shuffle);
}

TEST(DataConfigTest, Errors) {
  EXPECT_THAT(complaint([] { parse("batch_size: 8"); }), HasSubstr("dataset"));
  EXPECT_THAT(complaint([] { parse(kSmall + "batch_size: 0"); }), HasSubstr("test.yaml:2:"));
  EXPECT_THAT(complaint([] { parse(kSmall + "worker: 1"); }), HasSubstr("'workers'"));

  const DataConfig large = parse(kSmall + "batch_size: 21");
  EXPECT_THAT(complaint([&] { train_options(large, make_datasets(large), 0); }),
              HasSubstr("at least one batch of 21 training samples, found 20"));

  const DataConfig unlike = parse(kSmall + "train: [{normalize: {mean: [0.5], std: [0.25]}}]");
  EXPECT_THAT(complaint([&] { make_transforms(unlike, make_datasets(unlike)); }), HasSubstr("must normalize alike"));

  const DataConfig wide = parse(kSmall + "eval: [{random_crop: {size: 9}}]");
  EXPECT_THAT(complaint([&] { make_transforms(wide, make_datasets(wide)); }), StartsWith("test.yaml:2:"));
}

}  // namespace
}  // namespace qat::datasets
