// Image files of one color.
#pragma once

#include <filesystem>
#include <opencv2/imgcodecs.hpp>
#include <string>
#include <vector>

#include "tests/datasets/files.h"

namespace qat::datasets {

/// Writes a picture in the format of the path's extension, with its folders; returns the path.
inline std::string write_picture(const std::filesystem::path& path, int height, int width, int red, int green,
                                 int blue) {
  std::filesystem::create_directories(path.parent_path());
  std::vector<uint8_t> bytes;
  cv::imencode(path.extension().string(), cv::Mat(height, width, CV_8UC3, cv::Scalar(blue, green, red)), bytes);
  return write_bytes(path.string(), bytes);
}

}  // namespace qat::datasets
