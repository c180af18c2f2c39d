#include <gmock/gmock.h>

#include <map>
#include <set>

#include "datasets/resample.h"
#include "tests/datasets/pipelines.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(SizeTransformsTest, CenterCropTakesTheMiddle) {
  const Image image{4, 4, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
  EXPECT_THAT(run("[{center_crop: {size: 2}}]", image), ElementsAre(6, 7, 10, 11));
  EXPECT_THAT(run("[{center_crop: {size: 4}}]", image),
              ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16));
  // torchvision: int(round((4 - 1) / 2)) = 2, and round((4 - 3) / 2) = 0.
  EXPECT_THAT(run("[{center_crop: {size: 1}}]", image), ElementsAre(11));
  EXPECT_THAT(run("[{center_crop: {size: 3}}]", image), ElementsAre(1, 2, 3, 5, 6, 7, 9, 10, 11));
}

TEST(SizeTransformsTest, HorizontalFlipMirrorsWholePixels) {
  const Image image{2, 3, 2, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}};
  EXPECT_THAT(run("[{horizontal_flip: {probability: 1}}]", image), ElementsAre(5, 6, 3, 4, 1, 2, 11, 12, 9, 10, 7, 8));
  EXPECT_THAT(run("[{horizontal_flip: {probability: 0}}]", image), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12));
  int flipped = 0;
  for (uint64_t key = 0; key < 1000; ++key) flipped += run("[horizontal_flip]", {1, 2, 1, {0, 9}}, key)[0] == 9;
  EXPECT_NEAR(flipped, 500, 64);  // 4 standard deviations of 15.8
}

TEST(SizeTransformsTest, RandomCropTakesEveryWindowOfThePaddedImage) {
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

TEST(SizeTransformsTest, RandomCropOfAWindowInsideThePadding) {
  std::set<int> seen;
  for (uint64_t key = 0; key < 200; ++key) {
    const std::vector<int> pixel = run("[{random_crop: {size: 1, padding: 1}}]", {1, 1, 1, {9}}, key);
    ASSERT_EQ(pixel.size(), 1U);
    seen.insert(pixel[0]);
  }
  EXPECT_THAT(seen, ElementsAre(0, 9));
}

TEST(SizeTransformsTest, ResizeMatchesTheSmallerSide) {
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

TEST(SizeTransformsTest, CenterCropPadsSmallerImages) {
  // torchvision: 3 - 2 = 1 column more, of which 1 / 2 = 0 stand on the left.
  EXPECT_THAT(run("[{center_crop: {size: 3}}]", {1, 2, 1, {1, 2}}), ElementsAre(0, 0, 0, 1, 2, 0, 0, 0, 0));
  EXPECT_THAT(run("[{center_crop: {size: [1, 4]}}]", {3, 2, 1, {1, 2, 3, 4, 5, 6}}), ElementsAre(0, 3, 4, 0));
}

TEST(SizeTransformsTest, ResizeTakesASizeForEachSideOrALimit) {
  const auto result = [](const std::string& yaml, const Shape& shape) {
    return Transforms(steps(yaml), shape).output_shape(shape);
  };
  EXPECT_EQ(result("[{resize: {size: [20, 30]}}]", {300, 401, 3}), (Shape{20, 30, 3}));
  // 100 * 400 / 200 = 200 is more than 150: the shorter side becomes 150 * 100 / 200 = 75.
  EXPECT_EQ(result("[{resize: {size: 100, max_size: 150}}]", {200, 400, 3}), (Shape{75, 150, 3}));
  EXPECT_EQ(result("[{resize: {size: 100, max_size: 200}}]", {400, 200, 3}), (Shape{200, 100, 3}));
  EXPECT_THAT(run("[{resize: {size: [2, 3], interpolation: nearest}}]", {1, 6, 1, {0, 1, 2, 3, 4, 5}}),
              ElementsAre(1, 3, 5, 1, 3, 5));
  // Keys' cubic is 0.8671875 at 1/4, 0.2265625 at 3/4 and negative at 5/4: 255 * 0.2265625 / 1.09375 = 52.8.
  EXPECT_THAT(run("[{resize: {size: [1, 4], interpolation: bicubic}}]", {1, 2, 1, {0, 255}}),
              ElementsAre(0, 53, 202, 255));
}

TEST(SizeTransformsTest, PadModes) {
  const Image row{1, 3, 1, {1, 2, 3}};
  const auto pad = [&](const std::string& options) { return run("[{pad: {padding: [2, 0], " + options + "}}]", row); };
  EXPECT_THAT(pad("fill: 9"), ElementsAre(9, 9, 1, 2, 3, 9, 9));
  EXPECT_THAT(pad("padding_mode: edge"), ElementsAre(1, 1, 1, 2, 3, 3, 3));
  EXPECT_THAT(pad("padding_mode: reflect"), ElementsAre(3, 2, 1, 2, 3, 2, 1));
  EXPECT_THAT(pad("padding_mode: symmetric"), ElementsAre(2, 1, 1, 2, 3, 3, 2));
  EXPECT_THAT(run("[{pad: {padding: [1, 1, 0, 0]}}]", row), ElementsAre(0, 0, 0, 0, 0, 1, 2, 3));
  EXPECT_THAT(run("[{pad: {padding: [1, 0], fill: [7, 8, 9]}}]", {1, 1, 3, {1, 2, 3}}),
              ElementsAre(7, 8, 9, 1, 2, 3, 7, 8, 9));
  EXPECT_THAT(run("[{pad: {padding: [1, 0], fill: 7}}]", {1, 1, 5, {1, 2, 3, 4, 5}}),
              ElementsAre(7, 7, 7, 7, 7, 1, 2, 3, 4, 5, 7, 7, 7, 7, 7));
}

TEST(SizeTransformsTest, RandomCropPadsWhereNeeded) {
  // torchvision adds size - side = 2 pixels on each side; every window of 3x3 in the 5x5 shows the pixel somewhere.
  std::set<std::vector<int>> seen;
  for (uint64_t key = 0; key < 300; ++key) {
    const std::vector<int> window = run("[{random_crop: {size: 3, pad_if_needed: true}}]", {1, 1, 1, {9}}, key);
    EXPECT_EQ(std::count(window.begin(), window.end(), 9), 1);
    seen.insert(window);
  }
  EXPECT_EQ(seen.size(), 9U);
  EXPECT_THAT(run("[{random_crop: {size: [1, 5], padding: [2, 0], padding_mode: reflect}}]", {1, 3, 1, {1, 2, 3}}, 4),
              testing::AnyOf(ElementsAre(3, 2, 1, 2, 3), ElementsAre(2, 1, 2, 3, 2), ElementsAre(1, 2, 3, 2, 1)));
}

TEST(SizeTransformsTest, RandomResizedCropTakesEveryWindow) {
  // A quarter of the area at ratio 1 is a 2x2 window of the 4x4 image: 9 places.
  const Image image{4, 4, 1, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
  std::map<std::vector<int>, int> seen;
  for (uint64_t key = 0; key < 900; ++key) {
    ++seen[run("[{random_resized_crop: {size: 2, scale: [0.25, 0.25], ratio: [1, 1]}}]", image, key)];
  }
  EXPECT_EQ(seen.size(), 9U);
  for (const auto& [window, count] : seen) {
    EXPECT_THAT(window, ElementsAre(window[0], window[0] + 1, window[0] + 4, window[0] + 5));
    EXPECT_NEAR(count, 100, 40);  // 4 standard deviations of 9.4
  }
}

TEST(SizeTransformsTest, RandomResizedCropResizesAsResizeDoes) {
  Image image = blank({6, 6, 3});
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i * i * 7);
  EXPECT_EQ(run("[{random_resized_crop: {size: [4, 5], scale: [1, 1], ratio: [1, 1], interpolation: bicubic}}]", image),
            run("[{resize: {size: [4, 5], interpolation: bicubic}}]", image));
}

TEST(SizeTransformsTest, RandomResizedCropDrawsAreaAndRatioInTheirRanges) {
  // Columns count up, so the two nearest pixels of a 1x2 result, at 1/4 and 3/4 of the window, tell its width.
  Image image = blank({100, 200, 1});
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i % 200);
  int wide = 0;
  for (uint64_t key = 0; key < 400; ++key) {
    const std::vector<int> ends =
        run("[{random_resized_crop: {size: [1, 2], scale: [0.1, 0.1], ratio: [0.5, 2], interpolation: nearest}}]",
            image, key);
    const int width = 2 * (ends[1] - ends[0]);
    // Area 2000: widths of sqrt(2000 / 2) = 31.6 to sqrt(2000 * 2) = 63.2, as often above sqrt(2000) = 44.7 as below.
    EXPECT_GE(width, 30);
    EXPECT_LE(width, 65);
    wide += width >= 45;
  }
  EXPECT_NEAR(wide, 200, 40);  // 4 standard deviations of 10
}

TEST(SizeTransformsTest, RandomResizedCropFallsBackToTheMiddle) {
  const std::string options = "[{random_resized_crop: {size: 2, scale: [1, 1], ratio: [1, 1]}}]";
  // 4x4 windows of the whole area never fit: the largest square in the middle does, at (8 - 2) / 2 = 3.
  EXPECT_THAT(run(options, {2, 8, 1, {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17}}),
              ElementsAre(3, 4, 13, 14));
  EXPECT_THAT(run(options, {8, 2, 1, {0, 10, 1, 11, 2, 12, 3, 13, 4, 14, 5, 15, 6, 16, 7, 17}}),
              ElementsAre(3, 13, 4, 14));
}

TEST(SizeTransformsTest, VerticalFlipMirrorsRows) {
  const Image image{3, 1, 2, {1, 2, 3, 4, 5, 6}};
  EXPECT_THAT(run("[{vertical_flip: {probability: 1}}]", image), ElementsAre(5, 6, 3, 4, 1, 2));
  EXPECT_THAT(run("[{vertical_flip: {probability: 0}}]", image), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(SizeTransformsTest, Errors) {
  EXPECT_THAT(complaint("[{resize: {size: [1, 2, 3]}}]"), HasSubstr("size: expected 1 or 2 values, found 3"));
  EXPECT_THAT(complaint("[{resize: {size: []}}]"), HasSubstr("found 0"));
  EXPECT_THAT(complaint("[{resize: {size: 8, interpolation: lanczos}}]"), HasSubstr("nearest, bilinear, bicubic"));
  EXPECT_THAT(complaint("[{resize: {size: 8, max_size: 8}}]"), HasSubstr("expected more than size"));
  EXPECT_THAT(complaint("[{resize: {size: [8, 8], max_size: 9}}]"), HasSubstr("a size of one number"));
  EXPECT_THAT(complaint("[{pad: {padding: [1, 2, 3]}}]"), HasSubstr("padding: expected 1, 2 or 4 values, found 3"));
  EXPECT_THAT(complaint("[{pad: {padding: 16384}}]"), HasSubstr("a padded side of 32772 pixels"));
  EXPECT_THAT(complaint("[pad]"), HasSubstr("padding"));
  EXPECT_THAT(complaint("[{pad: {padding: 1, fill: [1, 2, 3]}}]"), HasSubstr("fill has 3 values, the image has 1"));
  EXPECT_THAT(complaint("[{pad: {padding: 1, fill: [1, 2]}}]"), HasSubstr("fill: expected 1 or 3 values, found 2"));
  EXPECT_THAT(complaint("[{random_crop: {size: 2, padding_mode: mirror}}]"), HasSubstr("symmetric"));
  EXPECT_THAT(complaint("[{random_resized_crop: {size: 2, scale: [1, 0.5]}}]"),
              HasSubstr("test.yaml:1:24: [0].random_resized_crop: scale: expected [low, high], found [1, 0.5]"));
  EXPECT_THAT(complaint("[{random_resized_crop: {size: 2, ratio: [1]}}]"), HasSubstr("ratio: expected [low, high]"));
}

}  // namespace
}  // namespace qat::datasets
