// Pipelines of transforms from YAML text.
#pragma once

#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/config/config.h"
#include "datasets/transforms.h"

namespace qat::datasets {

inline std::vector<config::Node> steps(const std::string& yaml) {
  return config::load_text(yaml, "test.yaml").root().items();
}

/// The floats of a pipeline.
inline std::vector<float> run_floats(const std::string& yaml, const Image& image, uint64_t key = 0) {
  const Transforms transforms(steps(yaml), image.shape());
  const Shape result = transforms.output_shape(image.shape());
  std::vector<float> floats(static_cast<size_t>(result[0] * result[1] * result[2]));
  transforms.apply(image, key, result, floats.data());
  return floats;
}

/// The pixels behind the steps, as numbers of 0 to 255 (no normalize step).
inline std::vector<int> run(const std::string& yaml, const Image& image, uint64_t key = 0) {
  std::vector<int> pixels;
  for (const float value : run_floats(yaml, image, key)) pixels.push_back(static_cast<int>(value * 255.0F + 0.5F));
  return pixels;
}

inline std::string complaint(const std::string& yaml, const Shape& shape = {4, 6, 1}) {
  try {
    Transforms(steps(yaml), shape);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError";
}

}  // namespace qat::datasets
