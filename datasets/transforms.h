// From a dataset's 8-bit image to the network's float input. Names and meaning follow torchvision.transforms.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/config/node.h"
#include "datasets/dataset.h"

namespace qat::datasets {

class Transform;

/// A pipeline: steps on 8-bit images, then `normalize`, which makes floats.
///
/// The float of a pixel x of channel c is, each of the three operations rounded to float32 (the preprocessing that an
/// exported integer model declares):  ((x / 255) - mean[c]) / std[c].  Without a normalize step mean is 0 and std 1.
///
/// Steps of a config list, either `name` or `{name: {option: value}}`:
///   random_crop {size, padding: 0}      zeros on all four sides, then a window of size x size at a random place
///   center_crop {size}                  the window of size x size in the middle
///   resize {size}                       the smaller side becomes `size`, the other keeps the aspect (rounded down);
///                                       bilinear when growing, pixel area when shrinking
///   horizontal_flip {probability: 0.5}
///   normalize {mean, std}               last; lists of one value, or of one per channel
class Transforms {
 public:
  /// No steps: pixels / 255.
  Transforms();

  /// Throws ConfigError with the position in the YAML: unknown step or option (with the nearest match), a value out of
  /// range, a step that does not fit images of shape `input`, normalize not last.
  Transforms(std::span<const config::Node> steps, const Shape& input);

  /// Writes the output_shape() floats of one image to `out`, HWC. All random numbers come from `key`. Thread-safe.
  void apply(Image image, uint64_t key, float* out) const;

  /// Shape of the result; throws qat::Error if a step does not fit the input.
  Shape output_shape(const Shape& input) const;

  /// One value for each of `channels`. Throws qat::Error if the pipeline was made for another number.
  std::vector<float> mean(int64_t channels) const;
  std::vector<float> std(int64_t channels) const;

 private:
  void fill_table();

  std::vector<std::shared_ptr<const Transform>> steps_;
  std::vector<float> mean_{0.0F};  // one value for all channels, or one for each
  std::vector<float> std_{1.0F};
  std::vector<float> table_;  // [mean_.size()][256]: the float of every pixel value
};

}  // namespace qat::datasets
