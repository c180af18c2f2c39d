// Files of any bytes in the tests' own folder, IDX files made by hand.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/base/error.h"

namespace qat::datasets {

using Bytes = std::vector<uint8_t>;

/// A new name in a folder of this process.
inline std::string temp_path(const std::string& name) {
  static int counter = 0;
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / ("qat_datasets_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  return (folder / (std::to_string(counter++) + "_" + name)).string();
}

inline std::string write_bytes(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return path;
}

inline std::string write_text(const std::string& path, const std::string& text) {
  return write_bytes(path, Bytes(text.begin(), text.end()));
}

/// A new folder in a folder of this process.
inline std::filesystem::path temp_folder(const std::string& name) {
  const std::filesystem::path folder = temp_path(name);
  std::filesystem::create_directories(folder);
  return folder;
}

/// What the action's FileError says.
template <class Action>
std::string file_complaint(const Action& action) {
  try {
    action();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no FileError";
}

inline Bytes read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string write_gzip(const std::string& path, const Bytes& bytes) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
  return path;
}

/// Header {0, 0, type, rank, big-endian dims}, then the values.
inline Bytes idx_bytes(const std::vector<uint32_t>& dims, const Bytes& values, uint8_t type = 8) {
  Bytes bytes{0, 0, type, static_cast<uint8_t>(dims.size())};
  for (const uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(dim >> shift));
  }
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

}  // namespace qat::datasets
