// Operations on the values of 8-bit images, with the numbers that torchvision's functional transforms give for PIL
// images (Pillow's ImageEnhance, ImageOps and its conversions). Images have 1 channel (grey) or 3 (RGB).
#pragma once

#include <cstdint>

#include "datasets/dataset.h"

namespace qat::datasets {

/// Luma of ITU-R BT.601 in 16-bit fixed point: (19595 R + 38470 G + 7471 B + 2^15) >> 16.
uint8_t luma(const uint8_t* rgb);

/// One channel, or three equal ones. A grey image is its own luma.
Image grayscale(const Image& image, int64_t channels);

// Each enhancer moves a pixel x away from a degenerate d: d + factor (x - d) in float32, clipped to 0..255, fraction
// dropped. Factor 0 gives d, 1 the image itself.

/// d = 0.
void adjust_brightness(Image& image, double factor);
/// d = the mean of the image's luma, rounded.
void adjust_contrast(Image& image, double factor);
/// d = the pixel's luma; a grey image stays as it is.
void adjust_saturation(Image& image, double factor);
/// d = the mean of the 3x3 neighbours with weight 1 and the pixel with weight 5; the pixels of the rim stay.
void adjust_sharpness(Image& image, double factor);

/// Turns the hue by `turns` of the colour circle, -0.5 to 0.5, in 8-bit HSV; a grey image stays as it is.
void adjust_hue(Image& image, double turns);

/// Keeps the `bits` (0 to 8) highest bits of each value.
void posterize(Image& image, int bits);
/// 255 - x for values x >= threshold.
void solarize(Image& image, double threshold);
/// Stretches each channel's values to 0..255.
void autocontrast(Image& image);
/// Equalizes each channel's histogram.
void equalize(Image& image);

}  // namespace qat::datasets
