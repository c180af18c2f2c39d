// Steps that change colours: color_jitter, grayscale.
#include <algorithm>
#include <array>
#include <utility>

#include "core/base/error.h"
#include "datasets/pixel_ops.h"
#include "datasets/transform.h"
#include "datasets/transform_options.h"

namespace qat::datasets {
namespace {

using config::OneOrMore;

struct ColorJitterOptions {
  OneOrMore<double> brightness{{0}}, contrast{{0}}, saturation{{0}}, hue{{0}};
};

struct GrayscaleOptions {
  int64_t num_output_channels = 1;
};

// [low, high] as written, or [centre - x, centre + x] for one number x, not below `least`.
std::array<double, 2> range_of(const OneOrMore<double>& option, double centre, double least) {
  const std::vector<double>& v = option.values;
  if (v.size() == 2) return {v[0], v[1]};
  return {std::max(least, centre - v[0]), centre + v[0]};
}

class ColorJitter final : public Transform {
 public:
  explicit ColorJitter(const ColorJitterOptions& options)
      : changes_{{{adjust_brightness, range_of(options.brightness, 1, 0), 1},
                  {adjust_contrast, range_of(options.contrast, 1, 0), 1},
                  {adjust_saturation, range_of(options.saturation, 1, 0), 1},
                  {adjust_hue, range_of(options.hue, 0, -0.5), 0}}} {}

  Shape output_shape(const Shape& input) const override {
    QAT_CHECK(input[2] == 1 || input[2] == 3, "expected an image of 1 or 3 channels, found {}", input[2]);
    return input;
  }

  void apply(Image& image, CounterRng& rng) const override {
    std::array<size_t, 4> order{0, 1, 2, 3};
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
    for (const size_t i : order) {
      const Change& change = changes_[i];
      if (change.range[0] == change.neutral && change.range[1] == change.neutral) continue;
      change.adjust(image, uniform(rng, change.range[0], change.range[1]));
    }
  }

 private:
  struct Change {
    void (*adjust)(Image& image, double factor);
    std::array<double, 2> range;
    double neutral;
  };
  std::array<Change, 4> changes_;
};

class Grayscale final : public Transform {
 public:
  explicit Grayscale(const GrayscaleOptions& options) : channels_(options.num_output_channels) {}

  Shape output_shape(const Shape& input) const override {
    QAT_CHECK(input[2] == 1 || input[2] == 3, "expected an image of 1 or 3 channels, found {}", input[2]);
    return {input[0], input[1], channels_};
  }
  void apply(Image& image, CounterRng&) const override { image = grayscale(image, channels_); }

 private:
  int64_t channels_;
};

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::ColorJitterOptions> {
  static void describe(Fields<datasets::ColorJitterOptions>& f) {
    using T = datasets::ColorJitterOptions;
    const auto option = [&](const std::string& key, OneOrMore<double> T::*member, const char* doc, double lowest,
                            double highest) {
      f.field(key, member).doc(doc).minimum(lowest).maximum(highest);
      f.check([key, member](const T& o) -> std::string {
        const std::vector<double>& v = (o.*member).values;
        if (v.size() == 2) return datasets::check_range(key, v);
        if (v.size() == 1 && v[0] >= 0) return "";
        return key + ": expected one number >= 0, or [low, high]";
      });
    };
    option("brightness", &T::brightness, "factor of [max(0, 1 - x), 1 + x], or of [low, high]", 0, 100);
    option("contrast", &T::contrast, "factor of [max(0, 1 - x), 1 + x], or of [low, high]", 0, 100);
    option("saturation", &T::saturation, "factor of [max(0, 1 - x), 1 + x], or of [low, high]", 0, 100);
    option("hue", &T::hue, "turn of [-x, x], or of [low, high]; 0.5 is half the colour circle", -0.5, 0.5);
  }
};

template <>
struct Schema<datasets::GrayscaleOptions> {
  static void describe(Fields<datasets::GrayscaleOptions>& f) {
    using T = datasets::GrayscaleOptions;
    f.field("num_output_channels", &T::num_output_channels).doc("1, or 3 equal ones");
    f.check([](const T& o) -> std::string {
      return o.num_output_channels == 1 || o.num_output_channels == 3 ? "" : "num_output_channels: expected 1 or 3";
    });
  }
};

}  // namespace qat::config

namespace qat::datasets {

void add_colour_transforms(Registry<TransformFactory>& registry) {
  registry.add("color_jitter", "brightness, contrast, saturation and hue at random, in random order",
               transform_factory<ColorJitter, ColorJitterOptions>());
  registry.add("grayscale", "luma in place of colours", transform_factory<Grayscale, GrayscaleOptions>());
}

}  // namespace qat::datasets
