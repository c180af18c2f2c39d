#include "datasets/cifar.h"

#include <gmock/gmock.h>

#include "core/base/error.h"
#include "core/config/config.h"
#include "datasets/registry.h"
#include "tests/datasets/files.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Labels, then planes of red r, green r + 1, blue r + 2 whose first pixel is 200, 201, 202 and last 210, 211, 212.
Bytes record(const Bytes& labels, uint8_t r) {
  Bytes bytes = labels;
  for (uint8_t c = 0; c < 3; ++c) {
    Bytes plane(1024, static_cast<uint8_t>(r + c));
    plane.front() = static_cast<uint8_t>(200 + c);
    plane.back() = static_cast<uint8_t>(210 + c);
    bytes.insert(bytes.end(), plane.begin(), plane.end());
  }
  return bytes;
}

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

config::Node load(const std::string& yaml) { return config::load_text(yaml, "test.yaml").root(); }

TEST(Cifar, TenReadsPlanesAsPixels) {
  const std::string one = write_bytes(temp_path("one.bin"), record({3}, 10) + record({9}, 20));
  const std::string two = write_bytes(temp_path("two.bin"), record({0}, 30));
  const CifarDataset data({one, two}, "/nonexistent", CifarLabels::kTen);
  EXPECT_EQ(data.size(), 3);
  EXPECT_EQ(data.num_classes(), 10);
  EXPECT_EQ(data.shape(), (Shape{32, 32, 3}));
  const Sample sample = data.get(1);
  EXPECT_EQ(sample.label, 9);
  const std::vector<uint8_t>& p = sample.image.pixels;
  ASSERT_EQ(p.size(), 3072U);
  EXPECT_THAT(Bytes(p.begin(), p.begin() + 6), ElementsAre(200, 201, 202, 20, 21, 22));
  EXPECT_THAT(Bytes(p.end() - 6, p.end()), ElementsAre(20, 21, 22, 210, 211, 212));
  EXPECT_EQ(data.get(2).label, 0);
  EXPECT_EQ(data.class_names().at(9), "9");
  EXPECT_THROW(data.get(3), Error);
  EXPECT_EQ(CifarDataset({one, two}, "", CifarLabels::kTen, 2).size(), 2);
}

TEST(Cifar, HundredHasCoarseAndFineLabels) {
  const std::string path = write_bytes(temp_path("train.bin"), record({19, 99}, 1) + record({0, 5}, 2));
  const CifarDataset fine({path}, "", CifarLabels::kFine), coarse({path}, "", CifarLabels::kCoarse);
  EXPECT_EQ(fine.num_classes(), 100);
  EXPECT_EQ(fine.get(0).label, 99);
  EXPECT_EQ(coarse.num_classes(), 20);
  EXPECT_EQ(coarse.get(0).label, 19);
  EXPECT_EQ(coarse.get(1).image.pixels[4], 3);
}

TEST(Cifar, BrokenFilesAreRefused) {
  const auto complaint = [](const Bytes& bytes, CifarLabels labels) {
    const std::string path = write_bytes(temp_path("broken.bin"), bytes);
    return file_complaint([&] { CifarDataset({path}, "", labels); });
  };
  EXPECT_THAT(complaint({}, CifarLabels::kTen), HasSubstr("whole number of records of 3073 bytes, found 0 bytes"));
  EXPECT_THAT(complaint(record({1}, 1) + Bytes{1}, CifarLabels::kTen), HasSubstr("found 3074 bytes"));
  EXPECT_THAT(complaint(record({1, 1}, 1), CifarLabels::kTen), HasSubstr("of 3073 bytes"));
  EXPECT_THAT(complaint(record({1}, 1) + record({10}, 1), CifarLabels::kTen),
              HasSubstr("the label of record 1 is 10, expected 0 to 9"));
  EXPECT_THAT(complaint(record({0, 100}, 1), CifarLabels::kFine), HasSubstr("is 100, expected 0 to 99"));
  EXPECT_THAT(complaint(record({20, 0}, 1), CifarLabels::kCoarse), HasSubstr("is 20, expected 0 to 19"));
  EXPECT_THAT(file_complaint([] { CifarDataset({"/nonexistent"}, "", CifarLabels::kTen); }), HasSubstr("cannot open"));
}

TEST(Cifar, RegistryFindsTheArchivesFolders) {
  const std::filesystem::path root = temp_folder("cifar");
  const std::filesystem::path ten = root / "cifar-10-batches-bin", hundred = root / "cifar-100-binary";
  std::filesystem::create_directories(ten);
  std::filesystem::create_directories(hundred);
  for (uint8_t i = 1; i <= 5; ++i) {
    write_bytes((ten / ("data_batch_" + std::to_string(i) + ".bin")).string(), record({i}, 1) + record({i}, 2));
  }
  write_bytes((ten / "test_batch.bin").string(), record({7}, 1));
  write_text((ten / "batches.meta.txt").string(),
             "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
  const std::string name = "root: '" + root.string() + "'";
  const DatasetPair pair = make_dataset(load("{name: cifar10, " + name + ", train_samples: 7}"));
  EXPECT_EQ(pair.train->size(), 7);
  EXPECT_EQ(pair.train->get(6).label, 4);
  EXPECT_EQ(pair.eval->get(0).label, 7);
  EXPECT_EQ(pair.eval->class_names().at(7), "horse");
  EXPECT_EQ(make_dataset(load("{name: cifar10, root: '" + ten.string() + "'}")).train->size(), 10);

  write_bytes((hundred / "train.bin").string(), record({1, 2}, 1));
  write_bytes((hundred / "test.bin").string(), record({3, 4}, 1));
  EXPECT_EQ(make_dataset(load("{name: cifar100, " + name + "}")).eval->get(0).label, 4);
  EXPECT_EQ(make_dataset(load("{name: cifar100, labels: coarse, " + name + "}")).eval->get(0).label, 3);
  write_text((hundred / "fine_label_names.txt").string(), "apple\n");
  EXPECT_THAT(file_complaint([&] { make_dataset(load("{name: cifar100, " + name + "}")); }),
              HasSubstr("fine_label_names.txt: expected 100 names of classes, found 1"));
}

}  // namespace
}  // namespace qat::datasets
