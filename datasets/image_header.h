// The size that an image file declares, read before a decoder allocates for it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace qat::datasets {

struct ImageHeader {
  int64_t height = 0, width = 0;
  bool complete = true;  ///< false for a JPEG whose end marker is missing
};

/// Of a JPEG, PNG, WebP, BMP, PNM or TIFF file, or nothing for other or broken ones.
std::optional<ImageHeader> read_image_header(std::string_view bytes);

}  // namespace qat::datasets
