#include "datasets/image_files.h"

#include <gmock/gmock.h>

#include <opencv2/imgcodecs.hpp>

#include "core/base/error.h"
#include "datasets/data_config.h"
#include "datasets/registry.h"
#include "tests/datasets/files.h"
#include "tests/datasets/pictures.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

namespace fs = std::filesystem;

std::vector<int> first_pixel(const Dataset& data, int64_t index) {
  const Sample sample = data.get(index);
  return {sample.image.pixels[0], sample.image.pixels[1], sample.image.pixels[2]};
}

config::Node load(const std::string& yaml) { return config::load_text(yaml, "test.yaml").root(); }

// Two classes; the folder's order differs from the names' order by case, depth and extension.
fs::path make_folder() {
  const fs::path root = temp_folder("folder");
  write_picture(root / "train/cat/b.png", 4, 6, 10, 0, 0);
  write_picture(root / "train/cat/a.JPG", 5, 5, 200, 0, 0);
  write_picture(root / "train/cat/z/0.bmp", 2, 2, 12, 0, 0);
  write_text((root / "train/cat/notes.txt").string(), "no image");
  write_picture(root / "train/Dog/x.webp", 3, 3, 0, 0, 90);
  write_picture(root / "val/cat/1.png", 4, 4, 1, 2, 3);
  write_picture(root / "val/Dog/1.png", 4, 4, 4, 5, 6);
  return root;
}

TEST(ImageFolder, OrdersAsTorchvision) {
  const fs::path root = make_folder();
  const DatasetPair pair = make_dataset(load("{name: image_folder, root: '" + root.string() + "'}"));
  EXPECT_THAT(pair.train->class_names(), ElementsAre("Dog", "cat"));  // by bytes: capitals first
  ASSERT_EQ(pair.train->size(), 4);
  std::vector<int64_t> labels;
  std::vector<std::string> names;
  for (int64_t i = 0; i < 4; ++i) {
    labels.push_back(pair.train->get(i).label);
    names.push_back(pair.train->describe(i));
  }
  EXPECT_THAT(labels, ElementsAre(0, 1, 1, 1));
  const std::string train = (root / "train").string();
  EXPECT_THAT(names, ElementsAre("sample 0 (" + train + "/Dog/x.webp)", "sample 1 (" + train + "/cat/a.JPG)",
                                 "sample 2 (" + train + "/cat/b.png)", "sample 3 (" + train + "/cat/z/0.bmp)"));
  EXPECT_EQ(pair.train->shape(), (Shape{kVaries, kVaries, 3}));
  EXPECT_EQ(pair.train->get(2).image.shape(), (Shape{4, 6, 3}));
  EXPECT_THAT(first_pixel(*pair.train, 2), ElementsAre(10, 0, 0));
  EXPECT_THAT(first_pixel(*pair.eval, 0), ElementsAre(4, 5, 6));
}

TEST(ImageFolder, Errors) {
  const auto complaint = [](const fs::path& root) {
    return file_complaint([&] { make_dataset(load("{name: image_folder, root: '" + root.string() + "'}")); });
  };
  EXPECT_THAT(complaint("/nonexistent"), HasSubstr("/nonexistent/train: cannot list the folder: No such file"));
  const fs::path empty = temp_folder("empty");
  fs::create_directories(empty / "train");
  EXPECT_THAT(complaint(empty), HasSubstr("train: expected a folder for each class, found none"));
  fs::create_directories(empty / "train/cat");
  EXPECT_THAT(complaint(empty), HasSubstr("train/cat: expected images of the class, found none"));
  const fs::path unlike = make_folder();
  write_picture(unlike / "val/bird/1.png", 1, 1, 0, 0, 0);
  EXPECT_THAT(complaint(unlike),
              HasSubstr("expected the same classes in train and val, found only in one of them: bird"));
}

TEST(ImageFolder, NeedsATransformThatGivesOneSize) {
  const std::string dataset = "dataset: {name: image_folder, root: '" + make_folder().string() + "'}\n";
  const auto transforms = [&](const std::string& steps) {
    const auto config = config::parse<DataConfig>(load(dataset + steps));
    return make_transforms(config, make_datasets(config));
  };
  EXPECT_THROW(transforms("eval: [{resize: {size: 8}}]"), ConfigError);
  EXPECT_THROW(transforms("train: [{random_resized_crop: {size: 8}}]"), ConfigError);
  EXPECT_NO_THROW(transforms("train: [{random_resized_crop: {size: 8}}]\neval: [{center_crop: {size: 8}}]"));
}

TEST(ImageList, ReadsPathsFromTheListsFolder) {
  const fs::path folder = temp_folder("list");
  write_picture(folder / "a b.png", 2, 3, 1, 1, 1);
  const std::string absolute = write_picture(folder / "deep/c.png", 2, 3, 2, 2, 2);
  write_text((folder / "train.txt").string(), "# comment\n\na b.png   1\r\n" + absolute + "\t0");
  write_text((folder / "eval.txt").string(), "deep/c.png 1\n");
  write_text((folder / "names.txt").string(), "first\nsecond\n\n");
  const std::string lists = "name: image_list, train: '" + (folder / "train.txt").string() + "', eval: '" +
                            (folder / "eval.txt").string() + "'";
  DatasetPair pair = make_dataset(load("{" + lists + "}"));
  EXPECT_THAT(first_pixel(*pair.train, 0), ElementsAre(1, 1, 1));
  EXPECT_EQ(pair.train->get(0).label, 1);
  EXPECT_THAT(first_pixel(*pair.train, 1), ElementsAre(2, 2, 2));
  EXPECT_EQ(pair.eval->get(0).label, 1);
  EXPECT_THAT(pair.eval->class_names(), ElementsAre("0", "1"));
  pair = make_dataset(load("{" + lists + ", class_names: '" + (folder / "names.txt").string() + "'}"));
  EXPECT_THAT(pair.eval->class_names(), ElementsAre("first", "second"));
  EXPECT_EQ(make_dataset(load("{" + lists + ", num_classes: 7}")).train->num_classes(), 7);
  EXPECT_THAT(file_complaint([&] { make_dataset(load("{" + lists + ", num_classes: 1}")); }),
              HasSubstr("has label 1, expected 0 to 0"));
  EXPECT_THROW(
      make_dataset(load("{" + lists + ", num_classes: 3, class_names: '" + (folder / "names.txt").string() + "'}")),
      ConfigError);
}

TEST(ImageList, ErrorsNameTheLine) {
  const std::string path = temp_path("list.txt");
  const auto complaint = [&](const std::string& text) {
    write_text(path, text);
    return file_complaint([&] { read_list(path); });
  };
  EXPECT_EQ(complaint("a.png 0\nb.png\n"), path + ":2: expected \"path label\", found 'b.png'");
  EXPECT_EQ(complaint("a.png -1"), path + ":1: expected \"path label\", found 'a.png -1'");
  EXPECT_EQ(complaint("a.png 1x"), path + ":1: expected \"path label\", found 'a.png 1x'");
  EXPECT_EQ(complaint(" 1"), path + ":1: expected \"path label\", found ' 1'");
  EXPECT_EQ(complaint("a.png 99999999999999999999"),
            path + ":1: expected \"path label\", found 'a.png 99999999999999999999'");
  EXPECT_EQ(complaint("# nothing\n"), path + ": expected lines \"path label\", found none");
  write_text(path, "a\n\nb\n");
  EXPECT_EQ(file_complaint([&] { read_names(path); }), path + ": expected a name in each line");
}

// Sample i is a 1x1 image of i with label i; those of `damaged` are no images.
std::vector<LabelledFile> numbered(int count, const std::set<int>& damaged) {
  const fs::path folder = temp_folder("numbered");
  std::vector<LabelledFile> files;
  for (int i = 0; i < count; ++i) {
    const std::string path = (folder / (std::to_string(1000 + i) + ".png")).string();
    files.push_back({path, i, std::nullopt});
    if (damaged.count(i) != 0) {
      write_text(path, "damaged");
    } else {
      write_picture(path, 1, 1, i, i, i);
    }
  }
  return files;
}

std::vector<std::string> names(int count) { return std::vector<std::string>(static_cast<size_t>(count), "x"); }

TEST(ImageFiles, FailNamesTheFile) {
  const ImageFiles data(numbered(3, {1}), names(3), OnError::kFail);
  EXPECT_NO_THROW(data.get(0));
  EXPECT_THAT(file_complaint([&] { data.get(1); }), HasSubstr("1001.png: expected a JPEG"));
  EXPECT_THAT(data.damaged(), testing::IsEmpty());
}

TEST(ImageFiles, SkipTakesTheNextReadableFile) {
  const std::vector<LabelledFile> files = numbered(6, {1, 2, 5});
  const ImageFiles data(files, names(6), OnError::kSkip);
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < 6; ++i) labels.push_back(data.get(i).label);
  EXPECT_THAT(labels, ElementsAre(0, 3, 3, 3, 4, 0));
  EXPECT_THAT(data.damaged(), ElementsAre(files[1].path, files[2].path, files[5].path));
}

TEST(ImageFiles, SkippedSamplesAreTheSameForAnyNumberOfWorkers) {
  const std::vector<LabelledFile> files = numbered(40, {3, 4, 17, 39});
  const config::Node steps = load("[{center_crop: {size: 2}}, horizontal_flip]");
  const Transforms transforms(steps.items(), {kVaries, kVaries, 3});
  std::vector<std::vector<float>> epochs;
  for (const int64_t workers : {0, 1, 3}) {
    Loader loader(std::make_shared<ImageFiles>(files, names(40), OnError::kSkip), transforms,
                  {.batch_size = 8, .workers = workers, .shuffle = true, .seed = 5});
    std::vector<float> all;
    for (const uint64_t epoch : {0, 1}) {
      loader.start_epoch(epoch);
      for (Batch batch; loader.next(batch);) {
        all.insert(all.end(), batch.images.begin(), batch.images.end());
        all.insert(all.end(), batch.labels.begin(), batch.labels.end());
      }
    }
    EXPECT_EQ(all.size(), 2U * 40 * (12 + 1));
    epochs.push_back(all);
  }
  EXPECT_EQ(epochs[0], epochs[1]);
  EXPECT_EQ(epochs[0], epochs[2]);
}

TEST(ImageFiles, SkipGivesUpWhereNothingIsReadable) {
  std::vector<LabelledFile> files;
  for (int i = 0; i < 500; ++i) files.push_back({"/nonexistent/" + std::to_string(i), 0, std::nullopt});
  const ImageFiles many(files, names(1), OnError::kSkip);
  EXPECT_THAT(file_complaint([&] { many.get(0); }), HasSubstr("(100 images in a row)"));
  const ImageFiles two({files[0], files[1]}, names(1), OnError::kSkip);
  EXPECT_THAT(file_complaint([&] { two.get(1); }), HasSubstr("/nonexistent/0: cannot open"));
}

TEST(ImageFiles, CropsToWholePixelsInsideTheImage) {
  const std::string path = temp_path("crop.png");
  cv::Mat picture(4, 5, CV_8UC3);
  for (int i = 0; i < 20; ++i) picture.at<cv::Vec3b>(i / 5, i % 5) = cv::Vec3b::all(static_cast<uint8_t>(i));
  std::vector<uint8_t> bytes;
  cv::imencode(".png", picture, bytes);
  write_bytes(path, bytes);
  const auto cropped = [&](const Box& box) {
    return ImageFiles({{path, 0, box}}, names(1), OnError::kFail).get(0).image;
  };
  const Image inner = cropped({1.2, 1, 2.8, 3});  // columns 1 and 2, rows 1 and 2
  EXPECT_EQ(inner.shape(), (Shape{2, 2, 3}));
  EXPECT_THAT(inner.pixels, ElementsAre(6, 6, 6, 7, 7, 7, 11, 11, 11, 12, 12, 12));
  EXPECT_EQ(cropped({-3, -1, 100, 2}).shape(), (Shape{2, 5, 3}));
  EXPECT_THAT(file_complaint([&] { cropped({7, 0, 9, 2}); }), HasSubstr("lies outside the image of 4x5"));
}

TEST(ImageFiles, RefusesWhatCannotBe) {
  EXPECT_THROW(ImageFiles({}, names(1), OnError::kFail), Error);
  EXPECT_THROW(ImageFiles({{"a", 1, std::nullopt}}, names(1), OnError::kFail), Error);
  const ImageFiles data({{"a", 0, std::nullopt}}, names(1), OnError::kSkip);
  EXPECT_THROW(data.get(1), Error);
  EXPECT_THROW(data.get(-1), Error);
}

}  // namespace
}  // namespace qat::datasets
