// Resampling and pixel operations against torchvision's own pixels (tests/goldens/torchvision_transforms/README.md).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "datasets/pixel_ops.h"
#include "datasets/resample.h"

namespace qat::datasets {
namespace {

using nlohmann::json;

// The README's input.
Image input_image(const json& shape, const json& range) {
  Image image{shape[0], shape[1], shape[2], {}};
  const int low = range[0], high = range[1];
  for (uint32_t y = 0; y < image.height; ++y) {
    for (uint32_t x = 0; x < image.width; ++x) {
      for (uint32_t c = 0; c < image.channels; ++c) {
        const uint32_t noise = (x * 2654435761U + y * 40503U + c * 97U) >> 7;
        const auto value = static_cast<int>((3 * x * x + 7 * x * y + 85 * c + noise) & 255U);
        image.pixels.push_back(static_cast<uint8_t>(low + value * (high - low + 1) / 256));
      }
    }
  }
  return image;
}

Interpolation interpolation_of(const json& test) {
  static const std::map<std::string, Interpolation> names{{"nearest", Interpolation::kNearest},
                                                          {"bilinear", Interpolation::kBilinear},
                                                          {"bicubic", Interpolation::kBicubic}};
  return names.at(test.at("interpolation"));
}

// torchvision shears by tan(atan(m)) about the corner, and moves by whole pixels.
AffineMap map_of(const std::string& op, double magnitude) {
  if (op == "shear_x") return {1, magnitude, 0, 0, 1, 0};
  if (op == "shear_y") return {1, 0, 0, magnitude, 1, 0};
  if (op == "translate_x") return {1, 0, -std::trunc(magnitude), 0, 1, 0};
  return {1, 0, 0, 0, 1, -std::trunc(magnitude)};
}

Image run(const json& test, Image image) {
  const std::string op = test.at("op");
  if (op == "resize") return resize(image, test.at("height"), test.at("width"), interpolation_of(test));
  if (op == "grayscale1" || op == "grayscale3") return grayscale(image, op.back() - '0');
  const double factor = test.value("factor", 0.0);
  if (test.contains("fill")) {
    const std::vector<uint8_t> fill = test.at("fill");
    return op == "rotate" ? rotate(image, factor, interpolation_of(test), fill)
                          : warp(image, map_of(op, factor), interpolation_of(test), fill);
  }
  static const std::map<std::string, void (*)(Image&, double)> ops{
      {"brightness", adjust_brightness},
      {"contrast", adjust_contrast},
      {"saturation", adjust_saturation},
      {"sharpness", adjust_sharpness},
      {"hue", adjust_hue},
      {"posterize", [](Image& i, double bits) { posterize(i, static_cast<int>(bits)); }},
      {"solarize", solarize},
      {"autocontrast", [](Image& i, double) { autocontrast(i); }},
      {"equalize", [](Image& i, double) { equalize(i); }},
  };
  ops.at(op)(image, factor);
  return image;
}

TEST(TorchvisionPixels, EveryGoldenToTheBit) {
  std::ifstream file(QAT_SOURCE_DIR "/tests/goldens/torchvision_transforms/pixels.json");
  const json golden = json::parse(file);
  for (const json& test : golden.at("cases")) {
    const Image image = run(test, input_image(test.at("input"), test.at("range")));
    json told = test;
    told.erase("pixels");
    EXPECT_EQ(image.height, test.at("output")[0]) << told;
    EXPECT_EQ(image.width, test.at("output")[1]) << told;
    EXPECT_EQ(image.pixels, test.at("pixels").get<std::vector<uint8_t>>()) << told;
  }
  std::cout << golden.at("cases").size() << " goldens\n";
  EXPECT_GT(golden.at("cases").size(), 100U);
}

}  // namespace
}  // namespace qat::datasets
