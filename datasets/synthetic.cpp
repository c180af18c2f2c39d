#include "datasets/synthetic.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/error.h"
#include "core/base/random.h"

namespace qat::datasets {
namespace {

struct Wave {
  int64_t x = 0;  // periods over the image's width and height
  int64_t y = 0;
};

// Directions up to sign, the longest wavelengths first: radius r adds the 4 r vectors with max(|x|, |y|) = r.
Wave wave_of(int64_t label) {
  int64_t radius = 1;
  while (label >= 4 * radius) {
    label -= 4 * radius;
    ++radius;
  }
  if (label < 2 * radius) return {radius, label - radius + 1};  // right edge: y from -r + 1 to r
  return {3 * radius - label - 1, radius};                      // top edge without its right corner: x from r - 1 to -r
}

// 1 at whole t, -1 half-way between, linear; a sine's shape without libm, whose last bits differ between machines.
double triangle(double t) { return std::abs(4.0 * (t - std::floor(t)) - 2.0) - 1.0; }

}  // namespace

SyntheticDataset::SyntheticDataset(const SyntheticOptions& options, Split split)
    : options_(options),
      size_(split == Split::kTrain ? options.train_samples : options.eval_samples),
      key_(hash(static_cast<uint64_t>(options.seed), static_cast<int>(split))) {
  QAT_CHECK(
      options.num_classes >= 2 && options.channels >= 1 && options.height >= 1 && options.width >= 1 && size_ >= 1,
      "synthetic: expected num_classes >= 2 and a positive number of channels, height, width and samples, found "
      "{}, {}, {}, {}, {}",
      options.num_classes, options.channels, options.height, options.width, size_);
  const Wave finest = wave_of(options.num_classes - 1);
  const int64_t periods = std::max(std::abs(finest.x), std::abs(finest.y));
  QAT_CHECK(std::min(options.height, options.width) > 2 * periods,
            "synthetic: {} classes need images of at least {} pixels a side, found {}x{}", options.num_classes,
            2 * periods + 1, options.height, options.width);
}

Sample SyntheticDataset::get(int64_t index) const {
  QAT_CHECK(index >= 0 && index < size_, "synthetic: sample {} of {} does not exist", index, size_);
  const int64_t label = index % options_.num_classes;
  const Wave wave = wave_of(label);
  CounterRng rng(key_, index);
  const double phase = 0.25 * (rng.uniform() - 0.5);
  const double amplitude = 36.0 + 36.0 * rng.uniform();
  Sample sample{{options_.height, options_.width, options_.channels, {}}, label};
  sample.image.pixels.reserve(static_cast<size_t>(options_.height * options_.width * options_.channels));
  for (int64_t y = 0; y < options_.height; ++y) {
    const double row = static_cast<double>(wave.y * y) / static_cast<double>(options_.height) + phase;
    for (int64_t x = 0; x < options_.width; ++x) {
      const double t = row + static_cast<double>(wave.x * x) / static_cast<double>(options_.width);
      for (int64_t c = 0; c < options_.channels; ++c) {
        const double noise = static_cast<double>(rng.next() >> 58) - 31.5;
        const double value = 128.0 + amplitude * triangle(t + 0.25 * static_cast<double>(c)) + noise;
        sample.image.pixels.push_back(static_cast<uint8_t>(value));  // 24 to 232
      }
    }
  }
  return sample;
}

}  // namespace qat::datasets
