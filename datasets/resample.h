// Sampling 8-bit images at new places, with Pillow's numbers: what torchvision's transforms give for PIL images.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "datasets/dataset.h"

namespace qat::datasets {

enum class Interpolation { kNearest, kBilinear, kBicubic };

/// The image at another size, height and width >= 1. Bilinear (triangle) and bicubic (Keys 1981, a = -1/2) filters
/// widen with the scale when shrinking (antialias). As in Pillow to 12.0, weights are rounded to multiples of 2^-22,
/// columns are filtered after rows, and either pass rounds to 8 bits; a pass that changes no size is left out. Any
/// channels.
Image resize(const Image& image, int64_t height, int64_t width, Interpolation interpolation);

/// {a, b, c, d, e, f}: the output pixel whose centre is (x, y) shows the input at (a x + b y + c, d x + e y + f).
using AffineMap = std::array<double, 6>;

/// The image of the same size through a map, nearest or bilinear; `fill` (one value, or one for each channel) shows
/// where the map leaves the input.
Image warp(const Image& image, const AffineMap& map, Interpolation interpolation, std::span<const uint8_t> fill);

/// Anticlockwise by `degrees` about the middle.
Image rotate(const Image& image, double degrees, Interpolation interpolation, std::span<const uint8_t> fill);

}  // namespace qat::datasets
