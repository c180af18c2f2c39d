#include "core/integer/pixels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/integer/model_file.h"
#include "tests/integer/sample_model.h"

namespace qat::integer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <class F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(pixels, values_are_those_of_to_tensor_and_normalize) {
  const Preprocessing p{.mean = {0.5f, 0.286f}, .std = {0.25f, 0.353f}};
  EXPECT_EQ(pixel_values(p, 0)[0], -2.0f);
  EXPECT_EQ(pixel_values(p, 0)[255], 2.0f);
  // 51 / 255 = 0.2 rounds to 13421773 * 2^-26; less 0.5 = -20132659 * 2^-26, a tie, to the even 10066330 * 2^-25; times 4.
  EXPECT_EQ(pixel_values(p, 0)[51], -4 * 10066330.0 / 33554432);
  const float unit = 200.0f / 255.0f, centred = unit - 0.286f;
  EXPECT_EQ(pixel_values(p, 1)[200], centred / 0.353f);
  EXPECT_EQ(pixel_values({}, 7)[51], 0.2f);
  EXPECT_EQ(pixel_values({}, 0)[255], 1.0f);
}

TEST(pixels, are_found_again_from_their_values) {
  const Preprocessing p{.mean = {0.485f, 0.456f, 0.406f}, .std = {0.229f, 0.224f, 0.225f}};
  std::vector<float> values;
  std::vector<uint8_t> expected;
  for (int pixel = 0; pixel < 256; ++pixel) {
    for (int64_t c = 0; c < 3; ++c) {
      const auto other = static_cast<size_t>((pixel + 50 * c) % 256);
      values.push_back(pixel_values(p, c)[other]);
      expected.push_back(static_cast<uint8_t>(other));
    }
  }
  EXPECT_EQ(pixels_of(values, p, 3), expected);
  EXPECT_THAT(pixels_of(std::vector{0.0f, 1.0f, 0.2f}, {}, 3), ElementsAre(0, 255, 51));
}

TEST(pixels, a_value_that_no_pixel_has_is_refused) {
  for (const float value : {0.2001f, -0.1f, 1.1f, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THAT(error_of([&] { pixels_of(std::vector{0.0f, value}, {}, 1); }),
                HasSubstr("(number 1) is not that of a pixel"));
  }
}

TEST(pixels, take_the_place_of_a_float_image) {
  const IntegerModel m = with_pixel_input(sample_model());
  EXPECT_EQ(m.tensors[0].type, CodeType::kPixels);
  EXPECT_EQ(with_pixel_input(m), m);
  EXPECT_THAT(m.dump(), HasSubstr("input  image [1, 2, 2] pixels\n"));
  const std::string bytes = save_model(m);
  EXPECT_EQ(load_model(bytes, "model"), m);
  EXPECT_NE(load_model(bytes, "model"), sample_model());
}

TEST(pixels, models_without_a_float_image_are_refused) {
  IntegerModel m = sample_model();
  m.tensors[0].type = CodeType::kUint8;
  EXPECT_THAT(error_of([&] { with_pixel_input(m); }), HasSubstr("found image (uint8, 3 dimensions)"));
  m = sample_model();
  m.tensors[0].shape = m.tensors[1].shape = {4};
  EXPECT_THAT(error_of([&] { with_pixel_input(m); }), HasSubstr("found image (float32, 1 dimensions)"));
  m = sample_model();
  m.inputs = {0, 1};
  EXPECT_THAT(error_of([&] { with_pixel_input(m); }), HasSubstr("found 2 inputs"));
}

TEST(pixels, check_names_what_is_wrong) {
  const IntegerModel pixels = with_pixel_input(sample_model());
  IntegerModel m = pixels;
  m.preprocessing.mean = m.preprocessing.std = {1, 1};
  EXPECT_THAT(error_of([&] { m.check(); }), HasSubstr("input (quantize): pixels of 1 channels, but the preprocessing "
                                                      "has 2 means"));
  m = pixels;
  m.tensors[2].type = CodeType::kPixels;
  EXPECT_THAT(error_of([&] { m.check(); }), HasSubstr("conv (conv): tensor map holds pixels, which only an input can"));
  m = pixels;
  m.outputs = {0};
  EXPECT_THAT(error_of([&] { m.check(); }), HasSubstr("output image holds pixels"));
  m = pixels;
  m.nodes[1].inputs = {0};
  EXPECT_THAT(error_of([&] { m.check(); }), HasSubstr("input image must hold codes, found pixels"));
}

}  // namespace
}  // namespace qat::integer
