// What every file of the tree keeps to, whatever it does.
#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

#include "tests/tree/tree.h"

namespace qat::tree {
namespace {

constexpr size_t kMaxCodeLines = 500;

/// All text files that people write: no golden data, no build folders.
std::vector<std::string> written_files() {
  std::vector<std::string> files;
  for (const char* folder :
       {"core", "quantizers", "models", "datasets", "trainers", "tools", "tests", "configs", "cmake", ".ci"}) {
    for (const std::string& file : files_below(folder)) {
      if (!file.starts_with("tests/goldens/")) files.push_back(file);
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(kRoot)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".md" || extension == ".txt" || extension == ".json") files.push_back(entry.path().filename());
  }
  return files;
}

/// A folder of somebody's machine.
bool names_machine_path(const std::string& line) {
  static const std::regex kPath("/(work|root)/|/(home|tmp)/[a-z0-9]+/");
  return std::regex_search(line, kPath);
}

TEST(Hygiene, CodeFilesAreShort) {
  int seen = 0;
  for (const std::string& file : written_files()) {
    const std::string extension = std::filesystem::path(file).extension();
    if (std::ranges::find(kCodeExtensions, extension) == kCodeExtensions.end()) continue;
    ++seen;
    EXPECT_LE(read_lines(kRoot / file).size(), kMaxCodeLines) << file;
  }
  EXPECT_GT(seen, 10) << "the files were not found below " << kRoot;
}

TEST(Hygiene, NoTabsTrailingSpacesOrMachinePaths) {
  for (const std::string& file : written_files()) {
    int number = 0;
    for (const std::string& line : read_lines(kRoot / file)) {
      ++number;
      EXPECT_EQ(line.find('\t'), std::string::npos) << file << ":" << number << " has a tab";
      EXPECT_FALSE(line.ends_with(' ') || line.ends_with('\r')) << file << ":" << number << " has trailing space";
      EXPECT_FALSE(names_machine_path(line)) << file << ":" << number << " names a path of one machine";
    }
  }
}

TEST(Hygiene, MachinePathsAreRecognised) {
  const std::string slash = "/";
  EXPECT_TRUE(names_machine_path("see " + slash + "root/x"));
  EXPECT_TRUE(names_machine_path(slash + "home" + slash + "ann/data"));
  EXPECT_FALSE(names_machine_path("/usr/share/datasets"));
  EXPECT_FALSE(names_machine_path("core/README.md"));
}

TEST(Hygiene, HeadersAreIncludedOnce) {
  for (const std::string& file : written_files()) {
    // Highway compiles *_inl.h once for every instruction set.
    if ((!file.ends_with(".h") && !file.ends_with(".cuh")) || file.ends_with("_inl.h")) continue;
    const std::vector<std::string> lines = read_lines(kRoot / file);
    EXPECT_NE(std::ranges::find(lines, "#pragma once"), lines.end()) << file;
  }
}

}  // namespace
}  // namespace qat::tree
