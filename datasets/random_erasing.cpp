// random_erasing (Zhong et al. 2017, arXiv:1708.04896), as torchvision does it: on the normalized floats.
#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "datasets/transform.h"
#include "datasets/transform_options.h"

namespace qat::datasets {
namespace {

struct RandomErasingOptions {
  double probability = 0.5;
  std::vector<double> scale{0.02, 0.33};
  std::vector<double> ratio{0.3, 3.3};
  config::OneOrMore<double> value{{0}};
  bool noise = false;
};

class RandomErasing final : public FloatTransform {
 public:
  explicit RandomErasing(const RandomErasingOptions& options) : options_(options) {}

  void check(int64_t channels) const override {
    const size_t count = options_.value.values.size();
    QAT_CHECK(count == 1 || static_cast<int64_t>(count) == channels, "value has {} values, the image has {} channel(s)",
              count, channels);
  }

  void apply(float* values, const Shape& shape, CounterRng& rng) const override {
    if (rng.uniform() >= options_.probability) return;
    const auto [height, width, channels] = shape;
    constexpr int kTries = 10;
    for (int i = 0; i < kTries; ++i) {
      const double area = static_cast<double>(height * width) * uniform(rng, options_.scale[0], options_.scale[1]);
      const double ratio = log_uniform(rng, options_.ratio[0], options_.ratio[1]);
      const int64_t h = round_even(std::sqrt(area * ratio)), w = round_even(std::sqrt(area / ratio));
      if (h >= height || w >= width) continue;
      const int64_t top = pick(rng, height - h + 1), left = pick(rng, width - w + 1);
      for (int64_t y = top; y < top + h; ++y) {
        float* row = values + (y * width + left) * channels;
        for (int64_t at = 0; at < w * channels; ++at) {
          row[at] = static_cast<float>(options_.noise ? rng.normal() : value(at % channels));
        }
      }
      return;
    }
  }

 private:
  double value(int64_t channel) const {
    const std::vector<double>& all = options_.value.values;
    return all[all.size() == 1 ? 0 : static_cast<size_t>(channel)];
  }

  RandomErasingOptions options_;
};

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::RandomErasingOptions> {
  static void describe(Fields<datasets::RandomErasingOptions>& f) {
    using T = datasets::RandomErasingOptions;
    f.field("probability", &T::probability).doc("of erasing").minimum(0).maximum(1);
    f.field("scale", &T::scale).doc("[low, high]: the window's share of the image's area").minimum(0).maximum(1);
    f.field("ratio", &T::ratio).doc("[low, high]: the window's height / width").above(0).maximum(100);
    f.check([](const T& o) { return datasets::check_range("scale", o.scale); });
    f.check([](const T& o) { return datasets::check_range("ratio", o.ratio); });
    f.field("value", &T::value)
        .doc("normalized value that the window gets: one, or one per channel")
        .minimum(-1e6)
        .maximum(1e6);
    f.field("noise", &T::noise).doc("standard normal numbers in place of value");
  }
};

}  // namespace qat::config

namespace qat::datasets {

void add_random_erasing(Registry<TransformFactory>& registry) {
  registry.add("random_erasing", "a window of random size and place, behind normalize",
               {nullptr,
                [](const config::Node& options) {
                  return std::make_shared<RandomErasing>(config::parse<RandomErasingOptions>(options));
                },
                [] { return config::docs<RandomErasingOptions>(); }});
}

}  // namespace qat::datasets
