// Decoding against Pillow's pixels (tests/goldens/images/README.md), and files that are not what they seem.
#include "datasets/image_file.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "datasets/image_header.h"
#include "tests/datasets/files.h"

namespace qat::datasets {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kFolder = QAT_SOURCE_DIR "/tests/goldens/images/";

std::string bytes_of(const std::string& name) { return read_file(kFolder + name); }

const json& golden_files() {
  static const json files = json::parse(std::ifstream(kFolder + "expected.json")).at("files");
  return files;
}

// Rounding of the two decoders' color conversions: none for lossless formats.
int tolerance(const std::string& name) {
  if (name == "cmyk.jpg") return 4;
  return name.ends_with(".jpg") || name == "lossy.webp" ? 2 : 0;
}

TEST(ReadImage, GivesPillowsPixels) {
  const json& files = golden_files();
  for (const auto& [name, expected] : files.items()) {
    const Image image = read_image(kFolder + name);
    EXPECT_EQ(image.shape(), (Shape{expected.at("size")[0], expected.at("size")[1], 3})) << name;
    const std::vector<int> pixels = expected.at("pixels");
    ASSERT_EQ(image.pixels.size(), pixels.size()) << name;
    int largest = 0;
    for (size_t i = 0; i < pixels.size(); ++i) largest = std::max(largest, std::abs(pixels[i] - image.pixels[i]));
    EXPECT_LE(largest, tolerance(name)) << name;
  }
  std::cout << files.size() << " images\n";
  EXPECT_GT(files.size(), 15U);
}

TEST(ReadImageHeader, KnowsTheSizeOfEveryFormat) {
  for (const auto& [name, expected] : golden_files().items()) {
    const std::optional<ImageHeader> header = read_image_header(bytes_of(name));
    ASSERT_TRUE(header) << name;
    EXPECT_EQ(header->height, expected.at("size")[0]) << name;
    EXPECT_EQ(header->width, expected.at("size")[1]) << name;
    EXPECT_TRUE(header->complete) << name;
  }
}

TEST(ReadImageHeader, ByHand) {
  using namespace std::string_literals;
  const auto size = [](const std::string& bytes) {
    const std::optional<ImageHeader> header = read_image_header(bytes);
    return header ? std::pair{header->height, header->width} : std::pair<int64_t, int64_t>{0, 0};
  };
  using Size = std::pair<int64_t, int64_t>;
  EXPECT_EQ(size("P6 # a comment\n 300\t# 7\n 2 255\n"), (Size{2, 300}));
  EXPECT_EQ(size("MM\0*\0\0\0\x08\0\x02\x01\0\0\x03\0\0\0\x01\x01\x02\0\0\x01\x01\0\x04\0\0\0\x01\0\0\x03\x04"s),
            (Size{0x304, 0x102}));
  EXPECT_EQ(size("RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x01\x02\0\x03\0\0"s), (Size{4, 0x202}));
  EXPECT_EQ(size("BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0\x05\0\0\0\xfd\xff\xff\xff"s), (Size{3, 5}));  // height -3
  EXPECT_EQ(size("BM\0\0\0\0\0\0\0\0\0\0\0\0\x0c\0\0\0\x05\0\x06\0"s), (Size{6, 5}));
  for (const std::string& none : {""s, "P"s, "P6 0 1 255 "s, "\xff\xd8"s, "\xff\xd8\xff\xd9"s, "RIFF"s, "GIF89a"s,
                                  "\x89PNG\r\n\x1a\n"s, "II*\0\xff\xff\xff\xff"s}) {
    EXPECT_EQ(size(none), (Size{0, 0})) << none;
  }
}

TEST(DecodeImage, RefusesGiantsBeforeDecoding) {
  using namespace std::string_literals;
  std::string png = bytes_of("color.png");
  png.replace(16, 8, "\x7f\xff\xff\xff\x7f\xff\xff\xff");
  EXPECT_EQ(file_complaint([&] { decode_image(png, "a.png"); }),
            "a.png: the image declares 2147483647x2147483647 pixels, more than 134217728");
  EXPECT_THAT(file_complaint([&] { decode_image("P6 100000 100000 255\n", "a"); }), HasSubstr("100000x100000"));
  std::string bmp = bytes_of("color.bmp");
  bmp.replace(22, 4, "\x00\x00\x00\x80"s);  // the lowest of all heights
  EXPECT_THAT(file_complaint([&] { decode_image(bmp, "a"); }), HasSubstr("2147483648x9 pixels"));
}

TEST(DecodeImage, RefusesWhatIsNoImage) {
  EXPECT_THAT(file_complaint([] { decode_image("", "dir/a.jpg"); }),
              StartsWith("dir/a.jpg: expected a JPEG, PNG, WebP, BMP, PNM or TIFF image, found 0 other bytes"));
  EXPECT_THAT(file_complaint([] { decode_image("<html>404</html>", "a"); }), HasSubstr("16 other bytes"));
  EXPECT_THAT(file_complaint([] { read_image("/nonexistent/a.png"); }), HasSubstr("cannot open"));
}

TEST(DecodeImage, EveryTruncatedJpegIsRefused) {
  for (const char* name : {"baseline.jpg", "progressive.jpg", "grey.jpg"}) {
    const std::string whole = bytes_of(name);
    for (size_t size = 0; size < whole.size(); ++size) {
      EXPECT_THROW(decode_image(whole.substr(0, size), "a"), FileError) << name << " of " << size << " bytes";
    }
    EXPECT_NO_THROW(decode_image(whole + "trailing bytes", "a"));
  }
}

TEST(DecodeImage, TruncatedPngAndWebpAreRefused) {
  for (const char* name : {"color.png", "lossless.webp", "lossy.webp"}) {
    const std::string whole = bytes_of(name);
    EXPECT_THROW(decode_image(whole.substr(0, whole.size() * 2 / 3), "a"), FileError) << name;
  }
}

TEST(DecodeImage, DamagedFilesNeverCrash) {
  int decoded = 0, refused = 0;
  for (const auto& [name, expected] : golden_files().items()) {
    const std::string whole = bytes_of(name);
    CounterRng rng(hash_string(name));
    for (int round = 0; round < 60; ++round) {
      std::string damaged = whole;
      for (int i = 0; i < 3; ++i) damaged[rng.below(damaged.size())] = static_cast<char>(rng.next());
      if (round % 3 == 0) damaged.resize(rng.below(damaged.size()));
      try {
        const Image image = decode_image(damaged, "a");
        EXPECT_EQ(static_cast<int64_t>(image.pixels.size()), image.height * image.width * 3);
        ++decoded;
      } catch (const FileError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(decoded, 0);
  EXPECT_GT(refused, 0);
}

TEST(HasImageExtension, AsTorchvision) {
  for (const char* name :
       {"a.jpg", "a.JPEG", "a.Png", "a.ppm", "a.bmp", "a.pgm", "a.tif", "a.TIFF", "a.webp", ".png"}) {
    EXPECT_TRUE(has_image_extension(name)) << name;
  }
  for (const char* name : {"", "a", "a.gif", "a.jpg.txt", "jpg", "a.jp"})
    EXPECT_FALSE(has_image_extension(name)) << name;
}

}  // namespace
}  // namespace qat::datasets
