#include "datasets/idx.h"

#include <gmock/gmock.h>

#include <functional>

#include "core/base/error.h"
#include "tests/datasets/files.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

const Bytes kPixels{1, 2, 3, 4, 5, 6, 250, 251, 252, 253, 254, 255};

Bytes two_images() { return idx_bytes({2, 2, 3}, kPixels); }

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no FileError";
}

// The message of reading these bytes as [N, H, W]; it must start with the path.
std::string complaint(const Bytes& bytes) {
  const std::string path = write_bytes(temp_path("bad"), bytes);
  const std::string message = message_of([&] { read_idx(path, 3); });
  EXPECT_THAT(message, StartsWith(path + ": "));
  return message;
}

TEST(IdxTest, ReadsPlainAndGzip) {
  for (const std::string& path :
       {write_bytes(temp_path("plain"), two_images()), write_gzip(temp_path("packed"), two_images())}) {
    const IdxArray array = read_idx(path, 3);
    EXPECT_THAT(array.dims, ElementsAre(2, 2, 3));
    EXPECT_EQ(array.values, kPixels);
  }
}

TEST(IdxTest, ReadsMoreThanOneChunk) {
  Bytes values(3'000'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i * 7 + i / 251);
  const std::string path = write_gzip(temp_path("large.gz"), idx_bytes({3'000'000}, values));
  EXPECT_EQ(read_idx(path, 1).values, values);
}

TEST(IdxTest, DatasetGivesImagesWithLabels) {
  const std::string images = write_gzip(temp_path("images.gz"), two_images());
  const std::string labels = write_bytes(temp_path("labels"), idx_bytes({2}, {7, 4}));
  const IdxDataset dataset(images, labels, 8);
  EXPECT_EQ(dataset.size(), 2);
  EXPECT_EQ(dataset.num_classes(), 8);
  EXPECT_EQ(dataset.shape(), (Shape{2, 3, 1}));
  const Sample sample = dataset.get(1);
  EXPECT_EQ(sample.label, 4);
  EXPECT_EQ(sample.image.height, 2);
  EXPECT_EQ(sample.image.width, 3);
  EXPECT_EQ(sample.image.channels, 1);
  EXPECT_THAT(sample.image.pixels, ElementsAre(250, 251, 252, 253, 254, 255));
  EXPECT_EQ(dataset.get(0).label, 7);
  EXPECT_THROW(dataset.get(2), Error);
  EXPECT_THROW(dataset.get(-1), Error);

  const IdxDataset first(images, labels, 8, 1);
  EXPECT_EQ(first.size(), 1);
  EXPECT_THAT(first.get(0).image.pixels, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(IdxDataset(images, labels, 8, 100).size(), 2);
}

TEST(IdxTest, RefusesWrongHeaders) {
  EXPECT_THAT(complaint({}), HasSubstr("expected an IDX file, found only 0 bytes"));
  EXPECT_THAT(complaint({0x89, 'P', 'N', 'G', 0, 0}), HasSubstr("(first bytes 00 00), found 89 50"));
  EXPECT_THAT(complaint(idx_bytes({2, 2, 3}, kPixels, 0x0d)), HasSubstr("type 0x08 (unsigned byte), found 0x0d"));
  EXPECT_THAT(complaint(idx_bytes({12}, kPixels)), HasSubstr("of 3 dimension(s), found 1"));
  EXPECT_THAT(complaint(idx_bytes({0, 2, 3}, {})), HasSubstr("empty array [0, 2, 3]"));
}

TEST(IdxTest, RefusesSizesThatTheFileCannotHold) {
  const uint32_t most = 0xffffffff;
  EXPECT_THAT(complaint(idx_bytes({most, most, most}, kPixels)), HasSubstr("more than a file of this size can hold"));
  EXPECT_THAT(complaint(idx_bytes({most, 1, 1}, kPixels)), HasSubstr("more than a file of this size can hold"));
  // 1000 bytes could be packed into a file this small, but they are not there.
  EXPECT_THAT(complaint(idx_bytes({10, 10, 10}, kPixels)), HasSubstr("[10, 10, 10] = 1000 values, the file holds 12"));
  EXPECT_THAT(complaint(idx_bytes({1, 2, 3}, kPixels)), HasSubstr("[1, 2, 3] = 6 values, but the file holds more"));
}

TEST(IdxTest, RefusesEveryTruncation) {
  const Bytes plain = two_images();
  const Bytes packed = read_bytes(write_gzip(temp_path("whole.gz"), plain));
  for (const Bytes& whole : {plain, packed}) {
    for (size_t size = 0; size < whole.size(); ++size) {
      const std::string message = complaint(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
      EXPECT_THAT(message, testing::AnyOf(HasSubstr("truncated"), HasSubstr("expected an IDX file"))) << size;
    }
  }
}

TEST(IdxTest, NoticesEveryFlippedBitOfAGzipFile) {
  const Bytes whole = read_bytes(write_gzip(temp_path("whole.gz"), two_images()));
  const std::string path = temp_path("damaged.gz");
  int unnoticed = 0;
  for (size_t bit = 8 * 10; bit < 8 * whole.size(); ++bit) {  // behind the 10 bytes of time, flags and system
    Bytes damaged = whole;
    damaged[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    write_bytes(path, damaged);
    try {
      EXPECT_EQ(read_idx(path, 3).values, kPixels) << "bit " << bit;
      ++unnoticed;
    } catch (const FileError& error) {
      EXPECT_THAT(error.what(), StartsWith(path + ": "));
    }
  }
  EXPECT_LT(unnoticed, 8) << "only the bits that fill up the last byte of the deflate stream mean nothing";
}

TEST(IdxTest, RefusesWhatIsNoFile) {
  const std::string missing = temp_path("missing.gz");
  EXPECT_EQ(message_of([&] { read_idx(missing, 3); }), missing + ": cannot open: No such file or directory");
  EXPECT_THAT(message_of([] { read_idx(testing::TempDir(), 3); }), HasSubstr("cannot read: Is a directory"));
}

TEST(IdxTest, RefusesLabelsThatDoNotFit) {
  const std::string images = write_bytes(temp_path("images"), two_images());
  const std::string three = write_bytes(temp_path("three"), idx_bytes({3}, {0, 1, 0}));
  EXPECT_EQ(message_of([&] { IdxDataset(images, three, 2); }),
            three + ": expected one label for each image: 3 labels for the 2 images of " + images);
  const std::string high = write_bytes(temp_path("high"), idx_bytes({2}, {0, 2}));
  EXPECT_EQ(message_of([&] { IdxDataset(images, high, 2); }), high + ": label 1 is 2, expected 0 to 1");
}

TEST(FindFashionMnistTest, TakesAFolderOrSaysHowToGetOne) {
  EXPECT_EQ(find_fashion_mnist(testing::TempDir()), testing::TempDir());
  const std::string missing = temp_path("missing");
  const std::string message = message_of([&] { find_fashion_mnist(missing); });
  EXPECT_THAT(message, StartsWith(missing + ": "));
  EXPECT_THAT(message, HasSubstr("apt-get install dataset-fashion-mnist"));
}

}  // namespace
}  // namespace qat::datasets
