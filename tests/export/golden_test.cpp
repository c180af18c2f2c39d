#include "core/export/golden.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/files.h"
#include "tests/integer/sample_model.h"

namespace qat::exporter {
namespace {

/// The bytes behind a header of version 1.0.
std::string data_of(const std::string& npy) {
  const size_t length = static_cast<uint8_t>(npy.at(8)) + 256u * static_cast<uint8_t>(npy.at(9));
  return npy.substr(10 + length);
}

TEST(Golden, TheSampleByHand) {
  const std::string folder = testing::TempDir() + "golden/deep";
  std::filesystem::remove_all(folder);
  const integer::IntegerModel m = integer::sample_model();
  write_golden(m, {.batch = 2, .codes = {}, .values = {0, 1, -1, 100, 0, 0, 0, 0}}, folder);
  const nlohmann::json index = nlohmann::json::parse(read_file(folder + "/index.json"));
  EXPECT_EQ(index["samples"], 2);
  EXPECT_EQ(index["input"]["name"], "image");
  const std::string input = read_file(folder + "/" + index["input"]["file"].get<std::string>());
  EXPECT_NE(input.find("'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 2, 2)"), std::string::npos);
  EXPECT_EQ(data_of(input).size(), 8 * sizeof(float));
  ASSERT_EQ(index["tensors"].size(), 3u);
  const nlohmann::json& map = index["tensors"][1];
  EXPECT_EQ(map["name"], "map_quantized");
  EXPECT_EQ(map["scale"], 0.25);
  EXPECT_EQ(map["zero_point"], 0);
  // engine_test.cpp has these codes by hand in NHWC; here they are NCHW.
  const std::string codes = data_of(read_file(folder + "/" + map["file"].get<std::string>()));
  const std::string expected = {1, 5, 0, '\xff', 20, 16, 24, 0, 1, 1, 1, 1, 20, 20, 20, 20};
  EXPECT_EQ(codes, expected);
  ASSERT_EQ(index["outputs"].size(), 1u);
  EXPECT_EQ(index["outputs"][0]["name"], "logits");
}

TEST(Golden, TheSameBytesEveryTime) {
  const integer::IntegerModel m = integer::sample_model();
  const engine::Value images{.batch = 1, .codes = {}, .values = {0, 1, -1, 100}};
  const std::string a = testing::TempDir() + "golden_a", b = testing::TempDir() + "golden_b";
  write_golden(m, images, a);
  write_golden(m, images, b);
  for (const auto& entry : std::filesystem::directory_iterator(a)) {
    const std::string name = entry.path().filename();
    EXPECT_EQ(read_file(a + "/" + name), read_file(b + "/" + name)) << name;
  }
}

}  // namespace
}  // namespace qat::exporter
