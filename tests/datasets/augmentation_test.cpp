// Random colours, policies and erasing. What each operation computes is torchvision_pixels_test's business; here it is
// which operations run, how often, and with which magnitudes.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "datasets/pixel_ops.h"
#include "datasets/resample.h"
#include "tests/datasets/pipelines.h"

namespace qat::datasets {
namespace {

using testing::Each;
using testing::HasSubstr;

using Pixels = std::vector<int>;

Image picture(int64_t height, int64_t width) {
  Image image = blank({height, width, 3});
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(40 + i * i * 37 % 160);
  return image;
}

Pixels after(Image image, const std::function<void(Image&)>& change) {
  change(image);
  return {image.pixels.begin(), image.pixels.end()};
}

TEST(ColorJitter, RunsEachChangeOnceInAnyOrder) {
  const Image image = picture(3, 4);
  const std::string yaml = "[{color_jitter: {brightness: [0.5, 0.5], saturation: [3, 3], hue: [0.25, 0.25]}}]";
  const std::vector<std::function<void(Image&)>> changes{[](Image& i) { adjust_brightness(i, 0.5); },
                                                         [](Image& i) { adjust_saturation(i, 3); },
                                                         [](Image& i) { adjust_hue(i, 0.25); }};
  std::set<Pixels> expected, seen;
  std::vector<size_t> order{0, 1, 2};
  do {
    expected.insert(after(image, [&](Image& i) {
      for (const size_t at : order) changes[at](i);
    }));
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_GT(expected.size(), 3U);
  for (uint64_t key = 0; key < 100; ++key) seen.insert(run(yaml, image, key));
  EXPECT_EQ(seen, expected);
}

TEST(ColorJitter, FactorsFillTheirRange) {
  // 100 * factor of [0.6, 1.4], fraction dropped.
  int lowest = 255, highest = 0;
  for (uint64_t key = 0; key < 500; ++key) {
    const int value = run("[{color_jitter: {brightness: 0.4}}]", {1, 1, 1, {100}}, key)[0];
    lowest = std::min(lowest, value);
    highest = std::max(highest, value);
  }
  EXPECT_EQ(lowest, 60);
  EXPECT_EQ(highest, 139);
  const Image image = picture(2, 2);
  EXPECT_EQ(run("[color_jitter]", image, 3), Pixels(image.pixels.begin(), image.pixels.end()));
}

// Images that one operation can give, each with its share.
using Outcomes = std::map<Pixels, double>;

void expect_outcomes(const std::string& yaml, const Image& image, const Outcomes& expected) {
  constexpr int kRuns = 2800;
  std::map<Pixels, int> seen;
  for (uint64_t key = 0; key < kRuns; ++key) ++seen[run(yaml, image, key)];
  for (const auto& [pixels, count] : seen) EXPECT_EQ(expected.count(pixels), 1U) << count << " times";
  for (const auto& [pixels, share] : expected) {
    EXPECT_NEAR(seen[pixels], share * kRuns, 4.5 * std::sqrt(share * kRuns)) << share;
  }
}

// Fourteen operations, each chosen as often as the others.
class Policies : public testing::Test {
 protected:
  using Change = std::function<void(Image&, double)>;

  // `share` of one operation's runs.
  void add(double share, double m, const Change& change) {
    outcomes_[after(image_, [&](Image& i) { change(i, m); })] += share / 14;
  }
  void add_signed(double share, double m, const Change& change) {
    add(share / 2, m, change);
    add(share / 2, -m, change);
  }

  static void nothing(Image&, double) {}
  static void map(Image& image, const AffineMap& map) { image = warp(image, map, Interpolation::kNearest, kBlack); }
  static void shear_x(Image& image, double m) { map(image, {1, m, 0, 0, 1, 0}); }
  static void shear_y(Image& image, double m) { map(image, {1, 0, 0, m, 1, 0}); }
  static void move_x(Image& image, double m) { map(image, {1, 0, m, 0, 1, 0}); }
  static void move_y(Image& image, double m) { map(image, {1, 0, 0, 0, 1, m}); }
  static void turn(Image& image, double m) { image = rotate(image, m, Interpolation::kNearest, kBlack); }
  template <void (*kAdjust)(Image&, double)>
  static void adjust(Image& image, double m) {
    kAdjust(image, 1 + m);
  }
  static void bits(Image& image, double m) { posterize(image, static_cast<int>(m)); }

  static constexpr uint8_t kBlack[] = {0};
  Image image_ = picture(20, 16);
  Outcomes outcomes_;
};

TEST_F(Policies, RandAugmentHasTorchvisionsMagnitudes) {
  // Bin 15 of 31 bins is half of each range.
  add(1, 0, nothing);
  add_signed(1, 0.15, shear_x);
  add_signed(1, 0.15, shear_y);
  add_signed(1, std::trunc(75.0 / 331 * 16), move_x);
  add_signed(1, std::trunc(75.0 / 331 * 20), move_y);
  add_signed(1, 15, turn);
  add_signed(1, 0.45, adjust<adjust_brightness>);
  add_signed(1, 0.45, adjust<adjust_saturation>);
  add_signed(1, 0.45, adjust<adjust_contrast>);
  add_signed(1, 0.45, adjust<adjust_sharpness>);
  add(1, 6, bits);
  add(1, 127.5, solarize);
  add(1, 0, [](Image& i, double) { autocontrast(i); });
  add(1, 0, [](Image& i, double) { equalize(i); });
  EXPECT_EQ(outcomes_.size(), 23U);
  expect_outcomes("[{rand_augment: {num_ops: 1, magnitude: 15}}]", image_, outcomes_);
}

TEST_F(Policies, TrivialAugmentHasTorchvisionsMagnitudes) {
  // Two bins: half of the time an operation has no strength (as has solarize at 255 for values below), else all of it.
  add(1 + 11 * 0.5, 0, nothing);
  add_signed(0.5, 0.99, shear_x);
  add_signed(0.5, 0.99, shear_y);
  add_signed(0.5, 32, move_x);  // out of the picture
  add_signed(0.5, 32, move_y);
  add_signed(0.5, 135, turn);
  add_signed(0.5, 0.99, adjust<adjust_brightness>);
  add_signed(0.5, 0.99, adjust<adjust_saturation>);
  add_signed(0.5, 0.99, adjust<adjust_contrast>);
  add_signed(0.5, 0.99, adjust<adjust_sharpness>);
  add(0.5, 2, bits);
  add(0.5, 0, solarize);
  add(1, 0, [](Image& i, double) { autocontrast(i); });
  add(1, 0, [](Image& i, double) { equalize(i); });
  EXPECT_EQ(outcomes_.size(), 20U);
  expect_outcomes("[{trivial_augment: {num_magnitude_bins: 2}}]", image_, outcomes_);
}

TEST_F(Policies, OperationsFollowEachOther) {
  for (uint64_t key = 0; key < 50; ++key) {
    EXPECT_EQ(run("[{rand_augment: {num_ops: 3}}]", image_, key).size(), image_.pixels.size());
    EXPECT_EQ(run("[{rand_augment: {num_ops: 3}}]", image_, key), run("[{rand_augment: {num_ops: 3}}]", image_, key));
  }
  EXPECT_EQ(run("[{rand_augment: {num_ops: 0}}]", image_, 1), Pixels(image_.pixels.begin(), image_.pixels.end()));
}

TEST(RandomErasing, ErasesEveryWindow) {
  // A quarter of 4x4 at ratio 1: 2x2 windows at 9 places.
  const std::string yaml =
      "[{normalize: {mean: [0], std: [1]}}, {random_erasing: {probability: 1, scale: [0.25, 0.25], ratio: [1, 1], "
      "value: [-1, -2]}}]";
  const Image white{4, 4, 2, std::vector<uint8_t>(32, 255)};
  std::map<std::vector<float>, int> seen;
  for (uint64_t key = 0; key < 900; ++key) ++seen[run_floats(yaml, white, key)];
  EXPECT_EQ(seen.size(), 9U);
  for (const auto& [values, count] : seen) {
    EXPECT_NEAR(count, 100, 40);  // 4 standard deviations of 9.4
    const auto first = static_cast<size_t>(std::find(values.begin(), values.end(), -1.0F) - values.begin());
    for (const size_t pixel : {first, first + 2, first + 8, first + 10}) {
      EXPECT_EQ(values.at(pixel), -1.0F);
      EXPECT_EQ(values.at(pixel + 1), -2.0F);
    }
    EXPECT_EQ(std::count(values.begin(), values.end(), 1.0F), 24);
  }
}

TEST(RandomErasing, NoiseIsStandardNormal) {
  const std::string yaml = "[{random_erasing: {probability: 1, scale: [0.5, 0.5], ratio: [1, 1], noise: true}}]";
  const std::vector<float> values = run_floats(yaml, blank({100, 100, 1}), 7);
  double sum = 0, squares = 0, count = 0;
  for (const float value : values) {
    if (value == 0) continue;
    sum += value;
    squares += value * value;
    ++count;
  }
  EXPECT_EQ(count, 71 * 71);  // sqrt(5000) = 70.7
  EXPECT_NEAR(sum / count, 0, 4 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 1, 4 * std::sqrt(2 / count));
}

TEST(RandomErasing, LeavesImagesAlone) {
  const Image white{4, 4, 1, std::vector<uint8_t>(16, 255)};
  EXPECT_THAT(run_floats("[{random_erasing: {probability: 0}}]", white), Each(1.0F));
  // A window of the whole image is not below its sides, in none of the ten tries.
  EXPECT_THAT(run_floats("[{random_erasing: {probability: 1, scale: [1, 1], ratio: [1, 1]}}]", white), Each(1.0F));
  int erased = 0;
  for (uint64_t key = 0; key < 400; ++key) {
    const std::vector<float> values =
        run_floats("[{random_erasing: {scale: [0.25, 0.25], ratio: [1, 1]}}]", white, key);
    erased += std::count(values.begin(), values.end(), 0.0F) != 0;
  }
  EXPECT_NEAR(erased, 200, 40);
}

TEST(Augmentation, Errors) {
  const Shape rgb{4, 4, 3};
  EXPECT_THAT(complaint("[{color_jitter: {hue: 0.6}}]", rgb), HasSubstr("hue: 0.6 is out of bounds"));
  EXPECT_THAT(complaint("[{color_jitter: {hue: -0.1}}]", rgb), HasSubstr("hue: expected one number >= 0"));
  EXPECT_THAT(complaint("[{color_jitter: {brightness: [2, 1]}}]", rgb), HasSubstr("brightness: expected [low, high]"));
  EXPECT_THAT(complaint("[color_jitter]", {4, 4, 2}), HasSubstr("color_jitter: expected an image of 1 or 3 channels"));
  EXPECT_THAT(complaint("[grayscale]", {4, 4, 4}), HasSubstr("1 or 3 channels, found 4"));
  EXPECT_THAT(complaint("[{grayscale: {num_output_channels: 2}}]", rgb), HasSubstr("expected 1 or 3"));
  EXPECT_THAT(complaint("[{rand_augment: {magnitude: 31}}]", rgb), HasSubstr("less than num_magnitude_bins"));
  EXPECT_THAT(complaint("[{rand_augment: {interpolation: bicubic}}]", rgb), HasSubstr("nearest, bilinear"));
  EXPECT_THAT(complaint("[{trivial_augment: {magnitude: 3}}]", rgb), HasSubstr("unknown key"));
  EXPECT_THAT(complaint("[trivial_augment]", {4, 4, 2}), HasSubstr("1 or 3 channels"));
  EXPECT_THAT(complaint("[{random_erasing: {value: [1, 2]}}]", rgb), HasSubstr("value has 2 values"));
  EXPECT_THAT(complaint("[random_erasing, horizontal_flip]", rgb), HasSubstr("must stand before random_erasing"));
}

}  // namespace
}  // namespace qat::datasets
