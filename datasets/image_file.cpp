#include "datasets/image_file.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "core/base/error.h"
#include "core/base/files.h"
#include "datasets/image_header.h"

namespace qat::datasets {
namespace {

constexpr uint64_t kMaxImageFileBytes = uint64_t{1} << 30;
constexpr std::array<std::string_view, 9> kExtensions{".jpg", ".jpeg", ".png",  ".ppm", ".bmp",
                                                      ".pgm", ".tif",  ".tiff", ".webp"};

cv::Mat decode(std::string_view bytes, const std::string& path) {
  const cv::Mat input(1, static_cast<int>(bytes.size()), CV_8UC1, const_cast<char*>(bytes.data()));
  try {
    return cv::imdecode(input, cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION);
  } catch (const cv::Exception& error) {
    throw FileError(fmt::format("{}: cannot decode the image: {}", path, error.err));
  }
}

}  // namespace

bool has_image_extension(std::string_view name) {
  std::string lower(name);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::any_of(kExtensions.begin(), kExtensions.end(),
                     [&](auto extension) { return lower.ends_with(extension); });
}

Image decode_image(std::string_view bytes, const std::string& path) {
  QAT_CHECK_AS(FileError, bytes.size() <= kMaxImageFileBytes,
               "{}: expected an image file of at most {} bytes, found {}", path, kMaxImageFileBytes, bytes.size());
  const std::optional<ImageHeader> header = read_image_header(bytes);
  QAT_CHECK_AS(FileError, header, "{}: expected a JPEG, PNG, WebP, BMP, PNM or TIFF image, found {} other bytes", path,
               bytes.size());
  // Neither side is above 2^32.
  QAT_CHECK_AS(FileError, header->height <= kMaxImagePixels / header->width,
               "{}: the image declares {}x{} pixels, more than {}", path, header->height, header->width,
               kMaxImagePixels);
  QAT_CHECK_AS(FileError, header->complete, "{}: truncated: the JPEG data ends without its end marker", path);
  const cv::Mat bgr = decode(bytes, path);
  QAT_CHECK_AS(FileError, !bgr.empty(), "{}: cannot decode the image: it is damaged", path);
  Image image = blank({bgr.rows, bgr.cols, 3});
  cv::Mat rgb(bgr.rows, bgr.cols, CV_8UC3, image.pixels.data());
  cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
  return image;
}

Image read_image(const std::string& path) { return decode_image(read_file(path, kMaxImageFileBytes), path); }

std::string encode_png(const Image& image, int64_t max_side) {
  QAT_CHECK(image.channels == 1 || image.channels == 3, "a PNG file of {} channels: expected 1 or 3", image.channels);
  const int type = image.channels == 1 ? CV_8UC1 : CV_8UC3;
  cv::Mat pixels = cv::Mat(static_cast<int>(image.height), static_cast<int>(image.width), type,
                           const_cast<uint8_t*>(image.pixels.data()));
  if (image.channels == 3) {
    cv::Mat bgr;
    cv::cvtColor(pixels, bgr, cv::COLOR_RGB2BGR);
    pixels = bgr;
  }
  if (const int64_t side = std::max(image.height, image.width); side > max_side) {
    const double factor = static_cast<double>(max_side) / static_cast<double>(side);
    const auto shorter = [&](int64_t length) {
      return static_cast<int>(std::max<int64_t>(1, std::llround(factor * static_cast<double>(length))));
    };
    cv::Mat small;
    cv::resize(pixels, small, {shorter(image.width), shorter(image.height)}, 0, 0, cv::INTER_AREA);
    pixels = small;
  }
  std::vector<uint8_t> bytes;
  cv::imencode(".png", pixels, bytes);
  return {bytes.begin(), bytes.end()};
}

}  // namespace qat::datasets
