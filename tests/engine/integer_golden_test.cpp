// Every case of the integer goldens (ONNX Runtime's own outputs) by the scalar kernels and by Engine: no code differs.
// QAT_INTEGER_GOLDENS names another folder of such files.
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "tests/engine/golden_engine.h"
#include "tests/engine/golden_kernels.h"

namespace qat {
namespace {

std::filesystem::path folder() {
  const char* given = std::getenv("QAT_INTEGER_GOLDENS");
  return given != nullptr ? std::filesystem::path(given)
                          : std::filesystem::path(QAT_SOURCE_DIR) / "tests/goldens/integer";
}

int64_t differing(const std::vector<int32_t>& expected, const std::vector<int32_t>& found) {
  int64_t count = std::abs(static_cast<int64_t>(expected.size()) - static_cast<int64_t>(found.size()));
  for (size_t i = 0; i < std::min(expected.size(), found.size()); ++i) count += expected[i] != found[i];
  return count;
}

std::vector<int32_t> bits(const std::vector<float>& values) {
  std::vector<int32_t> result;
  for (float v : values) result.push_back(std::bit_cast<int32_t>(v));
  return result;
}

int64_t differing(const golden::Case& c, const golden::Result& r) {
  return differing(c.expected.codes, r.codes) + differing(bits(c.expected.values), bits(r.values)) +
         differing(c.x_codes.codes, r.x_codes);
}

golden::Result by_kernels(const golden::Case& c) {
  const bool is_int8 = c.expected.dtype == "int8" || (c.inputs.contains("x") && c.input("x").dtype == "int8");
  return is_int8 ? golden::Kernels<int8_t>(c).run() : golden::Kernels<uint8_t>(c).run();
}

struct Count {
  int64_t cases = 0, elements = 0;
};

/// Adds failures that name file, case and path.
void run_case(const golden::Json& json, const std::string& file, Count& count) {
  const std::string name = json.value("name", std::string("(no name)"));
  SCOPED_TRACE(fmt::format("{}, case {}, op {}", file, name, json.value("op", std::string("(none)"))));
  try {
    const golden::Case c = golden::Case::parse(json);
    const int64_t elements = golden::product(c.expected.shape);
    EXPECT_EQ(differing(c, by_kernels(c)), 0) << "differing outputs of " << elements << " by the scalar kernels";
    EXPECT_EQ(differing(c, golden::EngineRun(c).run()), 0) << "differing outputs of " << elements << " by the engine";
    ++count.cases;
    count.elements += elements;
  } catch (const std::exception& e) {
    ADD_FAILURE() << e.what();
  }
}

TEST(integer_golden, every_case_by_kernels_and_engine) {
  ASSERT_TRUE(std::filesystem::is_directory(folder())) << folder() << " is not a folder";
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  Count total;
  for (const std::filesystem::path& path : files) {
    std::ifstream in(path);
    const golden::Json json = golden::Json::parse(in, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() || !json.contains("cases") || !json.at("cases").is_array() || json.at("cases").empty()) {
      ADD_FAILURE() << path << " has no cases";
      continue;
    }
    Count count;
    for (const golden::Json& c : json.at("cases")) run_case(c, path.filename().string(), count);
    std::cout << fmt::format("{}: {} cases, {} outputs\n", path.filename().string(), count.cases, count.elements);
    total.cases += count.cases;
    total.elements += count.elements;
  }
  std::cout << fmt::format("{} files, {} cases, {} outputs, each by the scalar kernels and by the engine\n",
                           files.size(), total.cases, total.elements);
  EXPECT_GT(total.cases, 0) << "no golden case in " << folder();
}

}  // namespace
}  // namespace qat
