#include "datasets/transforms.h"

#include <limits>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/config/config.h"
#include "datasets/transform.h"

namespace qat::datasets {
namespace {

struct NormalizeOptions {
  std::vector<double> mean;
  std::vector<double> std;
};

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::NormalizeOptions> {
  static void describe(Fields<datasets::NormalizeOptions>& f) {
    constexpr double kMaxFloat = std::numeric_limits<float>::max();
    constexpr double kMinFloat = std::numeric_limits<float>::min();
    f.field("mean", &datasets::NormalizeOptions::mean)
        .doc("of pixel / 255: one value, or one per channel")
        .required()
        .minimum(-kMaxFloat)
        .maximum(kMaxFloat);
    f.field("std", &datasets::NormalizeOptions::std)
        .doc("of pixel / 255: one value, or one per channel")
        .required()
        .minimum(kMinFloat)
        .maximum(kMaxFloat);
  }
};

}  // namespace qat::config

namespace qat::datasets {
namespace {

constexpr const char* kNormalize = "normalize";

// One value of the list for each channel.
std::vector<float> spread(const std::vector<float>& values, int64_t channels) {
  if (values.size() == 1) return std::vector<float>(static_cast<size_t>(channels), values[0]);
  QAT_CHECK(static_cast<int64_t>(values.size()) == channels, "normalize has values for {} channels, the image has {}",
            values.size(), channels);
  return values;
}

NormalizeOptions parse_normalize(const config::Node& options, int64_t channels) {
  NormalizeOptions values = config::parse<NormalizeOptions>(options);
  for (const size_t count : {values.mean.size(), values.std.size()}) {
    if (count != 1 && static_cast<int64_t>(count) != channels) {
      throw options.error(fmt::format("expected one value of mean and std, or one for each of {} channel(s), found {}",
                                      channels, count));
    }
  }
  return values;
}

}  // namespace

Registry<TransformFactory>& transforms() {
  static Registry<TransformFactory> registry = [] {
    Registry<TransformFactory> r("transform");
    add_size_transforms(r);
    add_colour_transforms(r);
    add_augmentation_policies(r);
    add_random_erasing(r);
    r.add(kNormalize, "(x / 255 - mean) / std", {nullptr, nullptr, [] { return config::docs<NormalizeOptions>(); }});
    return r;
  }();
  return registry;
}

Transforms::Transforms() { fill_table(); }

Transforms::Transforms(std::span<const config::Node> steps, const Shape& input) {
  Shape shape = input;
  std::string last;  // the step that ended the 8-bit ones
  for (const config::Node& step : steps) {
    const auto [name, options] = config::tagged(step);
    const TransformFactory& factory = transforms().get(name, step);
    if (!last.empty() && !factory.make_float) throw step.error(fmt::format("{} must stand before {}", name, last));
    try {
      if (factory.make_float) {
        float_steps_.push_back(factory.make_float(options));
        float_steps_.back()->check(shape[2]);
        last = name;
      } else if (factory.make) {
        steps_.push_back(factory.make(options));
        shape = steps_.back()->output_shape(shape);
      } else {
        const NormalizeOptions values = parse_normalize(options, shape[2]);
        mean_ = spread(std::vector<float>(values.mean.begin(), values.mean.end()), shape[2]);
        std_ = spread(std::vector<float>(values.std.begin(), values.std.end()), shape[2]);
        last = name;
      }
    } catch (const ConfigError&) {
      throw;
    } catch (const Error& error) {
      throw step.error(fmt::format("{}: {}", name, error.what()));
    }
  }
  fill_table();
}

void Transforms::fill_table() {
  table_.clear();
  for (size_t c = 0; c < mean_.size(); ++c) {
    for (int x = 0; x < 256; ++x) {
      const float unit = static_cast<float>(x) / 255.0F;
      const float centred = unit - mean_[c];
      table_.push_back(centred / std_[c]);
    }
  }
}

void Transforms::apply(Image image, uint64_t key, const Shape& expected, float* out) const {
  uint64_t stream = 0;
  for (const auto& step : steps_) {
    CounterRng rng(key, stream++);
    step->apply(image, rng);
  }
  const Shape shape = image.shape();
  QAT_CHECK(shape == expected, "the transforms give {}x{}x{} (height, width, channels), expected {}x{}x{}", shape[0],
            shape[1], shape[2], expected[0], expected[1], expected[2]);
  const size_t channels = mean_.size();
  QAT_CHECK(channels == 1 || static_cast<int64_t>(channels) == image.channels,
            "normalize has values for {} channels, the image has {}", channels, image.channels);
  size_t row = 0;
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    out[i] = table_[row * 256 + image.pixels[i]];
    if (++row == channels) row = 0;
  }
  for (const auto& step : float_steps_) {
    CounterRng rng(key, stream++);
    step->apply(out, shape, rng);
  }
}

Shape Transforms::output_shape(const Shape& input) const {
  Shape shape = input;
  for (const auto& step : steps_) shape = step->output_shape(shape);
  return shape;
}

std::vector<float> Transforms::mean(int64_t channels) const { return spread(mean_, channels); }
std::vector<float> Transforms::std(int64_t channels) const { return spread(std_, channels); }

}  // namespace qat::datasets
