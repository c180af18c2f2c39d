// The source tree as its own tests see it: which files there are, and their lines.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace qat::tree {

inline const std::filesystem::path kRoot = QAT_SOURCE_DIR;

/// Lines of a file without their ends. Throws std::runtime_error if it cannot be read.
inline std::vector<std::string> read_lines(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// Files below the folder whose extension is one of those given (all if none are), as sorted paths from the root.
inline std::vector<std::string> files_below(const std::string& folder,
                                            const std::vector<std::string>& extensions = {}) {
  std::vector<std::string> files;
  if (!std::filesystem::exists(kRoot / folder)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kRoot / folder)) {
    const bool wanted =
        extensions.empty() || std::ranges::find(extensions, entry.path().extension().string()) != extensions.end();
    if (entry.is_regular_file() && wanted) files.push_back(entry.path().lexically_relative(kRoot).string());
  }
  std::ranges::sort(files);
  return files;
}

inline const std::vector<std::string> kCodeExtensions = {".h", ".cpp", ".cu", ".cuh"};

}  // namespace qat::tree
