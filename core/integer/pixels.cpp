#include "core/integer/pixels.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/error.h"

namespace qat::integer {

std::array<float, 256> pixel_values(const Preprocessing& preprocessing, int64_t channel) {
  const auto c = static_cast<size_t>(channel);
  const bool is_normalized = !preprocessing.mean.empty();
  std::array<float, 256> values{};
  for (size_t p = 0; p < values.size(); ++p) {
    values[p] = static_cast<float>(p) / 255.0f;
    if (is_normalized) values[p] = (values[p] - preprocessing.mean.at(c)) / preprocessing.std.at(c);
  }
  return values;
}

std::vector<uint8_t> pixels_of(std::span<const float> values, const Preprocessing& preprocessing, int64_t channels) {
  std::vector<std::array<float, 256>> of_channel;
  for (int64_t c = 0; c < channels; ++c) of_channel.push_back(pixel_values(preprocessing, c));
  std::vector<uint8_t> pixels;
  pixels.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    // They ascend with the pixel.
    const std::array<float, 256>& all = of_channel[i % of_channel.size()];
    const auto found = std::ranges::lower_bound(all, values[i]);
    QAT_CHECK(found != all.end() && *found == values[i],
              "the value {} (number {}) is not that of a pixel after the preprocessing: use the file with float input",
              values[i], i);
    pixels.push_back(static_cast<uint8_t>(found - all.begin()));
  }
  return pixels;
}

IntegerModel with_pixel_input(IntegerModel model) {
  QAT_CHECK(model.inputs.size() == 1, "pixels can be the only input, found {} inputs", model.inputs.size());
  Tensor& input = model.tensors.at(static_cast<size_t>(model.inputs[0]));
  if (input.type == CodeType::kPixels) return model;
  QAT_CHECK(input.type == CodeType::kFloat32 && input.shape.size() == 3,
            "pixels can take the place of a float32 image, found {} ({}, {} dimensions)", input.name,
            to_string(input.type), input.shape.size());
  for (const Node& node : model.nodes) {
    QAT_CHECK(node.op == Op::kQuantize || std::ranges::find(node.inputs, model.inputs[0]) == node.inputs.end(),
              "{} ({}) reads the input {} in float", node.name, to_string(node.op), input.name);
  }
  input = {.name = input.name, .type = CodeType::kPixels, .shape = input.shape};
  model.check();
  return model;
}

}  // namespace qat::integer
