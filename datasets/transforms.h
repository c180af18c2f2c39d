// From a dataset's 8-bit image to the network's float input. Names, meaning, defaults and numbers follow
// torchvision.transforms on PIL images; `probability` is its p.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/config/node.h"
#include "datasets/dataset.h"

namespace qat::datasets {

class Transform;
class FloatTransform;

/// A pipeline: steps on 8-bit images, then `normalize`, which makes floats, then steps on floats.
///
/// The float of a pixel x of channel c is, each of the three operations rounded to float32 (the preprocessing that an
/// exported integer model declares):  ((x / 255) - mean[c]) / std[c].  Without a normalize step mean is 0 and std 1.
///
/// Steps of a config list, either `name` or `{name: {option: value}}`; a size is a number or [height, width]:
///   resize {size, interpolation: bilinear, max_size: null}   size: the shorter side, or [height, width]
///   center_crop {size}                                       a smaller image gets zeros around it
///   random_crop {size, padding: 0, pad_if_needed: false, fill: 0, padding_mode: constant}
///   random_resized_crop {size, scale: [0.08, 1], ratio: [3/4, 4/3], interpolation: bilinear}
///   pad {padding, fill: 0, padding_mode: constant}
///   horizontal_flip {probability: 0.5}, vertical_flip {probability: 0.5}
///   color_jitter {brightness: 0, contrast: 0, saturation: 0, hue: 0}
///   grayscale {num_output_channels: 1}
///   rand_augment {num_ops: 2, magnitude: 9, num_magnitude_bins: 31, interpolation: nearest, fill: 0}
///   trivial_augment {num_magnitude_bins: 31, interpolation: nearest, fill: 0}
///   normalize {mean, std}                                    lists of one value, or of one per channel
///   random_erasing {probability: 0.5, scale: [0.02, 0.33], ratio: [0.3, 3.3], value: 0, noise: false}
/// Only random_erasing stands behind normalize.
class Transforms {
 public:
  /// No steps: pixels / 255.
  Transforms();

  /// Throws ConfigError with the position in the YAML: unknown step or option (with the nearest match), a value out of
  /// range, a step that fits no image of shape `input`, a step behind normalize that belongs before it.
  Transforms(std::span<const config::Node> steps, const Shape& input);

  /// Writes the floats of one image to `out`, HWC, which has room for the shape `expected`. All random numbers come
  /// from `key`. Throws qat::Error if a step does not fit the image, or the result has another shape. Thread-safe.
  void apply(Image image, uint64_t key, const Shape& expected, float* out) const;

  /// Shape of the result; throws qat::Error if a step does not fit the input.
  Shape output_shape(const Shape& input) const;

  /// One value for each of `channels`. Throws qat::Error if the pipeline was made for another number.
  std::vector<float> mean(int64_t channels) const;
  std::vector<float> std(int64_t channels) const;

 private:
  void fill_table();

  std::vector<std::shared_ptr<const Transform>> steps_;
  std::vector<std::shared_ptr<const FloatTransform>> float_steps_;
  std::vector<float> mean_{0.0F};  // one value for all channels, or one for each
  std::vector<float> std_{1.0F};
  std::vector<float> table_;  // [mean_.size()][256]: the float of every pixel value
};

}  // namespace qat::datasets
