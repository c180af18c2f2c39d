// Image files as RGB pixels.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "datasets/dataset.h"

namespace qat::datasets {

/// More pixels than this are refused before anything is decoded.
inline constexpr int64_t kMaxImagePixels = int64_t{1} << 27;

/// Whether the name ends as torchvision expects of an image, in any case: .jpg .jpeg .png .ppm .bmp .pgm .tif .tiff
/// .webp.
bool has_image_extension(std::string_view name);

/// Decodes JPEG, PNG, WebP, BMP, PNM or TIFF, recognised by its first bytes, to 8-bit RGB. Grey images get three equal
/// channels, an alpha channel is dropped, CMYK is converted, of 16 bits the upper 8 are kept, and an orientation in
/// EXIF is ignored, as torchvision ignores it. Throws FileError, starting with `path`: no such format, damaged, a JPEG
/// without its end marker, more than kMaxImagePixels.
Image decode_image(std::string_view bytes, const std::string& path);

/// The same for a file.
Image read_image(const std::string& path);

/// The bytes of a PNG file of the image (1 or 3 channels), made smaller where a side is longer than `max_side`.
std::string encode_png(const Image& image, int64_t max_side);

}  // namespace qat::datasets
