#include "datasets/transforms.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<config::Node> steps(const std::string& yaml) { return config::load_text(yaml, "test.yaml").root().items(); }

// The pixels behind the steps, as numbers of 0 to 255 (no normalize step).
std::vector<int> run(const std::string& yaml, const Image& image, uint64_t key = 0) {
  const Shape shape{image.height, image.width, image.channels};
  const Transforms transforms(steps(yaml), shape);
  const Shape result = transforms.output_shape(shape);
  std::vector<float> floats(static_cast<size_t>(result[0] * result[1] * result[2]));
  transforms.apply(image, key, floats.data());
  std::vector<int> pixels;
  for (const float value : floats) pixels.push_back(static_cast<int>(value * 255.0F + 0.5F));
  return pixels;
}

std::string complaint(const std::string& yaml, const Shape& shape = {4, 6, 1}) {
  try {
    Transforms(steps(yaml), shape);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError";
}

TEST(TransformsTest, WithoutStepsDividesBy255) {
  const Transforms transforms;
  EXPECT_EQ(transforms.output_shape({5, 7, 3}), (Shape{5, 7, 3}));
  EXPECT_THAT(transforms.mean(2), ElementsAre(0.0F, 0.0F));
  EXPECT_THAT(transforms.std(2), ElementsAre(1.0F, 1.0F));
  std::vector<float> out(3);
  transforms.apply({1, 3, 1, {0, 51, 255}}, 0, out.data());
  EXPECT_THAT(out, ElementsAre(0.0F, 0.2F, 1.0F));
}

TEST(TransformsTest, NormalizeRoundsEachOperationToFloat) {
  const Transforms transforms(steps("[{normalize: {mean: [0.2860], std: [0.3530]}}]"), {1, 256, 1});
  Image image{1, 256, 1, std::vector<uint8_t>(256)};
  for (int x = 0; x < 256; ++x) image.pixels[static_cast<size_t>(x)] = static_cast<uint8_t>(x);
  std::vector<float> out(256);
  transforms.apply(image, 0, out.data());
  for (int x = 0; x < 256; ++x) {
    // A double holds enough digits that rounding its quotient or difference to float is the float operation's result.
    const double unit = static_cast<float>(x / 255.0);
    const double centred = static_cast<float>(unit - static_cast<double>(0.2860F));
    EXPECT_EQ(out[static_cast<size_t>(x)], static_cast<float>(centred / static_cast<double>(0.3530F))) << x;
  }
}

TEST(TransformsTest, NormalizePerChannel) {
  const Transforms transforms(steps("[{normalize: {mean: [0.5, 0, 1], std: [0.25, 1, 0.5]}}]"), {1, 2, 3});
  std::vector<float> out(6);
  transforms.apply({1, 2, 3, {255, 255, 255, 0, 0, 0}}, 0, out.data());
  EXPECT_THAT(out, ElementsAre(2.0F, 1.0F, 0.0F, -2.0F, 0.0F, -2.0F));
  EXPECT_THAT(transforms.mean(3), ElementsAre(0.5F, 0.0F, 1.0F));
  EXPECT_THAT(transforms.std(3), ElementsAre(0.25F, 1.0F, 0.5F));
  EXPECT_THROW(transforms.mean(2), Error);

  const Transforms one(steps("[{normalize: {mean: [0.5], std: [0.25, 0.5, 1]}}]"), {1, 2, 3});
  EXPECT_THAT(one.mean(3), ElementsAre(0.5F, 0.5F, 0.5F));
  one.apply({1, 2, 3, {255, 255, 255, 0, 0, 0}}, 0, out.data());
  EXPECT_THAT(out, ElementsAre(2.0F, 1.0F, 0.5F, -2.0F, -1.0F, -0.5F));
}

TEST(TransformsTest, CenterCropTakesTheMiddle) {
  const Image image{4, 4, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
  EXPECT_THAT(run("[{center_crop: {size: 2}}]", image), ElementsAre(6, 7, 10, 11));
  EXPECT_THAT(run("[{center_crop: {size: 4}}]", image),
              ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16));
  // torchvision: int(round((4 - 1) / 2)) = 2, and round((4 - 3) / 2) = 0.
  EXPECT_THAT(run("[{center_crop: {size: 1}}]", image), ElementsAre(11));
  EXPECT_THAT(run("[{center_crop: {size: 3}}]", image), ElementsAre(1, 2, 3, 5, 6, 7, 9, 10, 11));
}

TEST(TransformsTest, HorizontalFlipMirrorsWholePixels) {
  const Image image{2, 3, 2, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}};
  EXPECT_THAT(run("[{horizontal_flip: {probability: 1}}]", image), ElementsAre(5, 6, 3, 4, 1, 2, 11, 12, 9, 10, 7, 8));
  EXPECT_THAT(run("[{horizontal_flip: {probability: 0}}]", image), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12));
  int flipped = 0;
  for (uint64_t key = 0; key < 1000; ++key) flipped += run("[horizontal_flip]", {1, 2, 1, {0, 9}}, key)[0] == 9;
  EXPECT_NEAR(flipped, 500, 64);  // 4 standard deviations of 15.8
}

TEST(TransformsTest, RandomCropTakesEveryWindowOfThePaddedImage) {
  // All 9 windows of 3x3 in the image with one pixel of zeros around it, made here from the padded 5x5 picture.
  const int padded[5][5] = {{0, 0, 0, 0, 0}, {0, 1, 2, 3, 0}, {0, 4, 5, 6, 0}, {0, 7, 8, 9, 0}, {0, 0, 0, 0, 0}};
  std::set<std::vector<int>> expected;
  for (int top = 0; top < 3; ++top) {
    for (int left = 0; left < 3; ++left) {
      std::vector<int> window;
      for (int i = 0; i < 9; ++i) window.push_back(padded[top + i / 3][left + i % 3]);
      expected.insert(window);
    }
  }
  const Image image{3, 3, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
  const std::string yaml = "[{random_crop: {size: 3, padding: 1}}]";
  std::map<std::vector<int>, int> seen;
  for (uint64_t key = 0; key < 900; ++key) ++seen[run(yaml, image, key)];
  EXPECT_EQ(seen.size(), 9U);
  for (const auto& [window, count] : seen) {
    EXPECT_EQ(expected.count(window), 1U);
    EXPECT_NEAR(count, 100, 40);  // 4 standard deviations of 9.4
  }
  EXPECT_EQ(run(yaml, image, 5), run(yaml, image, 5));
  EXPECT_THAT(run("[{random_crop: {size: 3}}]", image), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(TransformsTest, RandomCropOfAWindowInsideThePadding) {
  std::set<int> seen;
  for (uint64_t key = 0; key < 200; ++key) {
    const std::vector<int> pixel = run("[{random_crop: {size: 1, padding: 1}}]", {1, 1, 1, {9}}, key);
    ASSERT_EQ(pixel.size(), 1U);
    seen.insert(pixel[0]);
  }
  EXPECT_THAT(seen, ElementsAre(0, 9));
}

TEST(TransformsTest, StepsDrawIndependentNumbers) {
  // Two coins on a picture that tells their four outcomes apart would coincide if both had the same stream.
  int restored = 0;
  for (uint64_t key = 0; key < 400; ++key) {
    restored += run("[horizontal_flip, horizontal_flip]", {1, 2, 1, {0, 9}}, key)[0] == 0;
  }
  EXPECT_NEAR(restored, 200, 40);
}

TEST(TransformsTest, ResizeMatchesTheSmallerSide) {
  const Image image{2, 2, 1, {10, 20, 30, 40}};
  EXPECT_THAT(run("[{resize: {size: 2}}]", image), ElementsAre(10, 20, 30, 40));
  EXPECT_THAT(run("[{resize: {size: 1}}]", image), ElementsAre(25));
  // Bilinear with half-pixel centres: the new pixels lie at -0.25, 0.25, 0.75, 1.25 of the old ones.
  EXPECT_THAT(run("[{resize: {size: 2}}]", {1, 2, 1, {0, 100}}), ElementsAre(0, 25, 75, 100, 0, 25, 75, 100));

  const auto result = [](const std::string& yaml, const Shape& shape) {
    return Transforms(steps(yaml), shape).output_shape(shape);
  };
  EXPECT_EQ(result("[{resize: {size: 224}}]", {300, 401, 3}), (Shape{224, 299, 3}));  // 224 * 401 / 300 = 299.4
  EXPECT_EQ(result("[{resize: {size: 224}}]", {401, 300, 3}), (Shape{299, 224, 3}));
  EXPECT_EQ(result("[{resize: {size: 256}}, {center_crop: {size: 224}}]", {300, 401, 3}), (Shape{224, 224, 3}));
}

TEST(TransformsTest, ErrorsNameTheStepAndItsPlace) {
  EXPECT_THAT(complaint("- horizontal_flip\n- {random_corp: {size: 2}}"), HasSubstr("did you mean 'random_crop'"));
  EXPECT_THAT(complaint("- horizontal_flip\n- {random_corp: {size: 2}}"), testing::StartsWith("test.yaml:2:"));
  EXPECT_THAT(complaint("[{random_crop: {size: 2, pading: 1}}]"), HasSubstr("padding"));
  EXPECT_THAT(complaint("[random_crop]"), HasSubstr("size"));
  EXPECT_THAT(complaint("[{random_crop: {size: 5}}]"),
              HasSubstr("a window of size 5 does not fit an image of 4x6 with padding 0"));
  EXPECT_THAT(complaint("[{center_crop: {size: 5}}]"), HasSubstr("does not fit an image of 4x6"));
  EXPECT_THAT(complaint("[{resize: {size: 0}}]"), HasSubstr("size"));
  EXPECT_THAT(complaint("[{resize: {size: 16384}}]"), HasSubstr("side of 24576 pixels"));
  EXPECT_THAT(complaint("[{horizontal_flip: {probability: 1.5}}]"), HasSubstr("probability"));
}

TEST(TransformsTest, ErrorsOfNormalize) {
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [1]}}, horizontal_flip]"), HasSubstr("must be the last"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0, 0], std: [1]}}]"), HasSubstr("for each of 1 channel(s), found 2"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [1, 1]}}]", {4, 6, 3}),
              HasSubstr("for each of 3 channel(s), found 2"));
  EXPECT_THAT(complaint("[{normalize: {mean: [], std: [1]}}]"), HasSubstr("found 0"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [0]}}]"), HasSubstr("std"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [-1]}}]"), HasSubstr("std"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0]}}]"), HasSubstr("std"));
}

}  // namespace
}  // namespace qat::datasets
