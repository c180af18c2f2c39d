// Raw pixels as a network's input: bytes in place of the floats that the preprocessing makes of them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/integer/integer_model.h"

namespace qat::integer {

/// The float32 of each pixel value p of a channel: ((p / 255) - mean[c]) / std[c], each of the three operations rounded
/// (torchvision's ToTensor and Normalize). Without means: p / 255.
std::array<float, 256> pixel_values(const Preprocessing& preprocessing, int64_t channel);

/// The pixels that have these values, NHWC of `channels`; of several that share a value, the lowest. Throws qat::Error
/// at a value that no pixel has.
std::vector<uint8_t> pixels_of(std::span<const float> values, const Preprocessing& preprocessing, int64_t channels);

/// The model from pixels to the same outputs; one of pixels as it is. Throws qat::Error, with what was found, unless its one input is a float32
/// image that only kQuantize nodes read.
IntegerModel with_pixel_input(IntegerModel model);

}  // namespace qat::integer
