// What every file of the tree keeps to, whatever it does.
#include <gtest/gtest.h>

#include <cctype>
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

/// A folder of somebody's machine: below root's, or below a named one of home's and tmp's.
bool names_machine_path(const std::string& line) {
  const std::string slash = "/";
  if (line.find(slash + "root" + slash) != std::string::npos ||
      line.find(slash + "work" + slash) != std::string::npos) {
    return true;
  }
  for (const std::string& start : {slash + "home" + slash, slash + "tmp" + slash}) {
    for (size_t at = line.find(start); at != std::string::npos; at = line.find(start, at + 1)) {
      size_t end = at + start.size();
      while (end < line.size() && (std::islower(static_cast<unsigned char>(line[end])) ||
                                   std::isdigit(static_cast<unsigned char>(line[end])))) {
        ++end;
      }
      if (end > at + start.size() && end < line.size() && line[end] == '/') return true;
    }
  }
  return false;
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
  EXPECT_TRUE(names_machine_path("a " + slash + "tmp" + slash + " b " + slash + "tmp" + slash + "x1" + slash));
  EXPECT_FALSE(names_machine_path("/usr/share/datasets"));
  EXPECT_FALSE(names_machine_path(slash + "tmp" + slash + "x1"));
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

/// A kernel that does not wait reads what the one before it has not written yet.
TEST(Hygiene, KernelsOfTheGpuBeginByWaiting) {
  int seen = 0;
  for (const std::string& file : files_below("core", {".cu", ".cuh", ".h"})) {
    if (file.ends_with("/device.cu")) continue;  // only asks whether a kernel can be loaded
    const std::vector<std::string> lines = read_lines(kRoot / file);
    for (size_t i = 0; i < lines.size(); ++i) {
      if (lines[i].find("__global__") == std::string::npos) continue;
      size_t head = i;
      while (head + 1 < lines.size() && !lines[head].ends_with('{')) ++head;
      ASSERT_LT(head + 1, lines.size()) << file << ":" << i + 1;
      EXPECT_EQ(lines[head + 1], "  await_previous();") << file << ":" << i + 1;
      ++seen;
    }
  }
  EXPECT_GE(seen, 45);
}

}  // namespace
}  // namespace qat::tree
