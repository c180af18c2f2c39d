#include "datasets/transforms.h"

#include <gmock/gmock.h>

#include "core/base/error.h"
#include "tests/datasets/pipelines.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(TransformsTest, WithoutStepsDividesBy255) {
  const Transforms transforms;
  EXPECT_EQ(transforms.output_shape({5, 7, 3}), (Shape{5, 7, 3}));
  EXPECT_THAT(transforms.mean(2), ElementsAre(0.0F, 0.0F));
  EXPECT_THAT(transforms.std(2), ElementsAre(1.0F, 1.0F));
  std::vector<float> out(3);
  transforms.apply({1, 3, 1, {0, 51, 255}}, 0, {1, 3, 1}, out.data());
  EXPECT_THAT(out, ElementsAre(0.0F, 0.2F, 1.0F));
}

TEST(TransformsTest, NormalizeRoundsEachOperationToFloat) {
  const Transforms transforms(steps("[{normalize: {mean: [0.2860], std: [0.3530]}}]"), {1, 256, 1});
  Image image{1, 256, 1, std::vector<uint8_t>(256)};
  for (int x = 0; x < 256; ++x) image.pixels[static_cast<size_t>(x)] = static_cast<uint8_t>(x);
  std::vector<float> out(256);
  transforms.apply(image, 0, image.shape(), out.data());
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
  transforms.apply({1, 2, 3, {255, 255, 255, 0, 0, 0}}, 0, {1, 2, 3}, out.data());
  EXPECT_THAT(out, ElementsAre(2.0F, 1.0F, 0.0F, -2.0F, 0.0F, -2.0F));
  EXPECT_THAT(transforms.mean(3), ElementsAre(0.5F, 0.0F, 1.0F));
  EXPECT_THAT(transforms.std(3), ElementsAre(0.25F, 1.0F, 0.5F));
  EXPECT_THROW(transforms.mean(2), Error);

  const Transforms one(steps("[{normalize: {mean: [0.5], std: [0.25, 0.5, 1]}}]"), {1, 2, 3});
  EXPECT_THAT(one.mean(3), ElementsAre(0.5F, 0.5F, 0.5F));
  one.apply({1, 2, 3, {255, 255, 255, 0, 0, 0}}, 0, {1, 2, 3}, out.data());
  EXPECT_THAT(out, ElementsAre(2.0F, 1.0F, 0.5F, -2.0F, -1.0F, -0.5F));
}

TEST(TransformsTest, StepsDrawIndependentNumbers) {
  // Two coins on a picture that tells their four outcomes apart would coincide if both had the same stream.
  int restored = 0;
  for (uint64_t key = 0; key < 400; ++key) {
    restored += run("[horizontal_flip, horizontal_flip]", {1, 2, 1, {0, 9}}, key)[0] == 0;
  }
  EXPECT_NEAR(restored, 200, 40);
}

TEST(TransformsTest, ErrorsNameTheStepAndItsPlace) {
  EXPECT_THAT(complaint("- horizontal_flip\n- {random_corp: {size: 2}}"), HasSubstr("did you mean 'random_crop'"));
  EXPECT_THAT(complaint("- horizontal_flip\n- {random_corp: {size: 2}}"), testing::StartsWith("test.yaml:2:"));
  EXPECT_THAT(complaint("[{random_crop: {size: 2, pading: 1}}]"), HasSubstr("padding"));
  EXPECT_THAT(complaint("[random_crop]"), HasSubstr("size"));
  EXPECT_EQ(complaint("[{random_crop: {size: 5}}]"),
            "test.yaml:1:2: [0]: random_crop: a window of 5x5 does not fit an image of 4x6 with its padding; set "
            "pad_if_needed");
  EXPECT_THAT(complaint("[{resize: {size: 0}}]"), HasSubstr("size"));
  EXPECT_THAT(complaint("[{resize: {size: 16384}}]"), HasSubstr("side of 24576 pixels"));
  EXPECT_THAT(complaint("[{horizontal_flip: {probability: 1.5}}]"), HasSubstr("probability"));
}

TEST(TransformsTest, ErrorsOfNormalize) {
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [1]}}, horizontal_flip]"),
              HasSubstr("horizontal_flip must stand before normalize"));
  EXPECT_THAT(complaint("[random_erasing, {normalize: {mean: [0], std: [1]}}]"),
              HasSubstr("normalize must stand before random_erasing"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0, 0], std: [1]}}]"), HasSubstr("for each of 1 channel(s), found 2"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [1, 1]}}]", {4, 6, 3}),
              HasSubstr("for each of 3 channel(s), found 2"));
  EXPECT_THAT(complaint("[{normalize: {mean: [], std: [1]}}]"), HasSubstr("found 0"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [0]}}]"), HasSubstr("std"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0], std: [-1]}}]"), HasSubstr("std"));
  EXPECT_THAT(complaint("[{normalize: {mean: [0]}}]"), HasSubstr("std"));
}

TEST(TransformsTest, ImagesOfAnySizeBecomeOne) {
  const Shape any{kVaries, kVaries, 3};
  const auto result = [&](const std::string& yaml) { return Transforms(steps(yaml), any).output_shape(any); };
  EXPECT_EQ(result("[horizontal_flip, {pad: {padding: 3}}]"), any);
  EXPECT_EQ(result("[{resize: {size: 8}}]"), any);
  EXPECT_EQ(result("[{resize: {size: [8, 9]}}]"), (Shape{8, 9, 3}));
  EXPECT_EQ(result("[{resize: {size: 8}}, {center_crop: {size: 7}}]"), (Shape{7, 7, 3}));
  EXPECT_EQ(result("[{random_resized_crop: {size: [5, 6]}}]"), (Shape{5, 6, 3}));
  EXPECT_EQ(result("[{random_crop: {size: 5}}, grayscale]"), (Shape{5, 5, 1}));
}

TEST(TransformsTest, AnImageThatDoesNotFitIsRefused) {
  const Transforms transforms(steps("[{random_crop: {size: 5}}]"), {kVaries, kVaries, 1});
  std::vector<float> out(25);
  transforms.apply(blank({5, 9, 1}), 0, {5, 5, 1}, out.data());
  EXPECT_THROW(transforms.apply(blank({4, 9, 1}), 0, {5, 5, 1}, out.data()), Error);
  EXPECT_THROW(Transforms().apply(blank({4, 9, 1}), 0, {5, 5, 1}, out.data()), Error);
}

TEST(TransformsTest, NormalizeFollowsTheChannelsOfTheStepsBefore) {
  const Transforms grey(steps("[grayscale, {normalize: {mean: [0.5], std: [0.5]}}]"), {1, 1, 3});
  std::vector<float> out(1);
  grey.apply({1, 1, 3, {255, 255, 255}}, 0, {1, 1, 1}, out.data());
  EXPECT_THAT(out, ElementsAre(1.0F));
  EXPECT_THAT(complaint("[grayscale, {normalize: {mean: [0, 0, 0], std: [1]}}]", {1, 1, 3}),
              HasSubstr("for each of 1 channel(s), found 3"));
}

}  // namespace
}  // namespace qat::datasets
