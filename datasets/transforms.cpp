#include "datasets/transforms.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/config/config.h"
#include "core/registry/registry.h"

namespace qat::datasets {

/// One step on 8-bit images.
class Transform {
 public:
  virtual ~Transform() = default;
  virtual Shape output_shape(const Shape& input) const = 0;
  virtual void apply(Image& image, CounterRng rng) const = 0;
};

namespace {

constexpr int64_t kMaxSide = 16384;

Shape shape_of(const Image& image) { return {image.height, image.width, image.channels}; }

// A view of the image's pixels for OpenCV.
cv::Mat view(Image& image) {
  return {static_cast<int>(image.height), static_cast<int>(image.width), CV_8UC(static_cast<int>(image.channels)),
          image.pixels.data()};
}

Image blank(int64_t height, int64_t width, int64_t channels) {
  return {height, width, channels, std::vector<uint8_t>(static_cast<size_t>(height * width * channels))};
}

// The size x size window at (top, left), which may reach over the image's edges; zeros outside.
void crop(Image& image, int64_t top, int64_t left, int64_t size) {
  Image result = blank(size, size, image.channels);
  const cv::Rect window(static_cast<int>(left), static_cast<int>(top), static_cast<int>(size), static_cast<int>(size));
  const cv::Rect inside = window & cv::Rect(0, 0, static_cast<int>(image.width), static_cast<int>(image.height));
  if (!inside.empty()) view(image)(inside).copyTo(view(result)(inside - window.tl()));
  image = std::move(result);
}

struct RandomCropOptions {
  int64_t size = 0;
  int64_t padding = 0;
};

class RandomCrop : public Transform {
 public:
  explicit RandomCrop(const RandomCropOptions& options) : options_(options) {}

  Shape output_shape(const Shape& input) const override {
    const int64_t height = input[0] + 2 * options_.padding, width = input[1] + 2 * options_.padding;
    QAT_CHECK(options_.size <= height && options_.size <= width,
              "a window of size {} does not fit an image of {}x{} with padding {}", options_.size, input[0], input[1],
              options_.padding);
    return {options_.size, options_.size, input[2]};
  }

  void apply(Image& image, CounterRng rng) const override {
    const auto offset = [&](int64_t side) {
      const int64_t places = side + 2 * options_.padding - options_.size + 1;
      return static_cast<int64_t>(rng.below(static_cast<uint64_t>(places))) - options_.padding;
    };
    const int64_t top = offset(image.height);
    const int64_t left = offset(image.width);
    crop(image, top, left, options_.size);
  }

 private:
  RandomCropOptions options_;
};

struct SizeOptions {
  int64_t size = 0;
};

class CenterCrop : public Transform {
 public:
  explicit CenterCrop(const SizeOptions& options) : size_(options.size) {}

  Shape output_shape(const Shape& input) const override {
    QAT_CHECK(size_ <= input[0] && size_ <= input[1], "a window of size {} does not fit an image of {}x{}", size_,
              input[0], input[1]);
    return {size_, size_, input[2]};
  }

  void apply(Image& image, CounterRng) const override {
    // torchvision's place: the half of an odd margin is rounded half to even.
    const auto offset = [&](int64_t side) { return std::llrint(static_cast<double>(side - size_) / 2.0); };
    crop(image, offset(image.height), offset(image.width), size_);
  }

 private:
  int64_t size_;
};

class Resize : public Transform {
 public:
  explicit Resize(const SizeOptions& options) : size_(options.size) {}

  Shape output_shape(const Shape& input) const override {
    QAT_CHECK(input[2] <= 4, "expected an image of 1 to 4 channels, found {}", input[2]);
    const int64_t shorter = std::min(input[0], input[1]), longer = std::max(input[0], input[1]);
    const int64_t other = size_ * longer / shorter;
    QAT_CHECK(other <= kMaxSide, "an image of {}x{} would have a side of {} pixels, more than {}", input[0], input[1],
              other, kMaxSide);
    return input[0] <= input[1] ? Shape{size_, other, input[2]} : Shape{other, size_, input[2]};
  }

  void apply(Image& image, CounterRng) const override {
    const Shape shape = output_shape(shape_of(image));
    if (shape == shape_of(image)) return;
    Image result = blank(shape[0], shape[1], shape[2]);
    cv::Mat target = view(result);
    cv::resize(view(image), target, target.size(), 0, 0, shape[0] < image.height ? cv::INTER_AREA : cv::INTER_LINEAR);
    image = std::move(result);
  }

 private:
  int64_t size_;
};

struct FlipOptions {
  double probability = 0.5;
};

class HorizontalFlip : public Transform {
 public:
  explicit HorizontalFlip(const FlipOptions& options) : probability_(options.probability) {}

  Shape output_shape(const Shape& input) const override { return input; }

  void apply(Image& image, CounterRng rng) const override {
    if (rng.uniform() >= probability_) return;
    cv::Mat pixels = view(image);
    cv::flip(pixels, pixels, 1);
  }

 private:
  double probability_;
};

struct NormalizeOptions {
  std::vector<double> mean;
  std::vector<double> std;
};

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::RandomCropOptions> {
  static void describe(Fields<datasets::RandomCropOptions>& f) {
    f.field("size", &datasets::RandomCropOptions::size)
        .doc("side of the window")
        .required()
        .minimum(1)
        .maximum(datasets::kMaxSide);
    f.field("padding", &datasets::RandomCropOptions::padding)
        .doc("zeros added on each of the four sides first")
        .minimum(0)
        .maximum(datasets::kMaxSide);
  }
};

template <>
struct Schema<datasets::SizeOptions> {
  static void describe(Fields<datasets::SizeOptions>& f) {
    f.field("size", &datasets::SizeOptions::size)
        .doc("side in pixels")
        .required()
        .minimum(1)
        .maximum(datasets::kMaxSide);
  }
};

template <>
struct Schema<datasets::FlipOptions> {
  static void describe(Fields<datasets::FlipOptions>& f) {
    f.field("probability", &datasets::FlipOptions::probability).doc("of mirroring").minimum(0).maximum(1);
  }
};

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

using Factory = std::function<std::shared_ptr<const Transform>(const config::Node& options)>;

template <class Step, class Options>
Factory factory() {
  return [](const config::Node& options) { return std::make_shared<Step>(config::parse<Options>(options)); };
}

constexpr const char* kNormalize = "normalize";

// normalize has a place in the list of names, but no factory: it is the pipeline's own last step.
const Registry<Factory>& transforms() {
  static const Registry<Factory> registry = [] {
    Registry<Factory> r("transform");
    r.add("random_crop", "a window at a random place", factory<RandomCrop, RandomCropOptions>());
    r.add("center_crop", "the window in the middle", factory<CenterCrop, SizeOptions>());
    r.add("resize", "the smaller side to a size", factory<Resize, SizeOptions>());
    r.add("horizontal_flip", "mirrors at random", factory<HorizontalFlip, FlipOptions>());
    r.add(kNormalize, "(x / 255 - mean) / std", nullptr);
    return r;
  }();
  return registry;
}

// One value of the list for each channel.
std::vector<float> spread(const std::vector<float>& values, int64_t channels) {
  if (values.size() == 1) return std::vector<float>(static_cast<size_t>(channels), values[0]);
  QAT_CHECK(static_cast<int64_t>(values.size()) == channels, "normalize has values for {} channels, the image has {}",
            values.size(), channels);
  return values;
}

}  // namespace

Transforms::Transforms() { fill_table(); }

Transforms::Transforms(std::span<const config::Node> steps, const Shape& input) {
  Shape shape = input;
  for (size_t i = 0; i < steps.size(); ++i) {
    const auto [name, options] = config::tagged(steps[i]);
    const Factory& make = transforms().get(name, steps[i]);
    if (name == kNormalize) {
      if (i + 1 != steps.size()) throw steps[i].error("normalize must be the last transform");
      const NormalizeOptions values = config::parse<NormalizeOptions>(options);
      for (const size_t count : {values.mean.size(), values.std.size()}) {
        if (count != 1 && static_cast<int64_t>(count) != shape[2]) {
          throw options.error(fmt::format(
              "expected one value of mean and std, or one for each of {} channel(s), found {}", shape[2], count));
        }
      }
      mean_ = spread(std::vector<float>(values.mean.begin(), values.mean.end()), shape[2]);
      std_ = spread(std::vector<float>(values.std.begin(), values.std.end()), shape[2]);
      continue;
    }
    steps_.push_back(make(options));
    try {
      shape = steps_.back()->output_shape(shape);
    } catch (const Error& error) {
      throw steps[i].error(fmt::format("{}: {}", name, error.what()));
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

void Transforms::apply(Image image, uint64_t key, float* out) const {
  for (size_t i = 0; i < steps_.size(); ++i) steps_[i]->apply(image, CounterRng(key, i));
  const size_t channels = mean_.size();
  QAT_CHECK(channels == 1 || static_cast<int64_t>(channels) == image.channels,
            "normalize has values for {} channels, the image has {}", channels, image.channels);
  size_t row = 0;
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    out[i] = table_[row * 256 + image.pixels[i]];
    if (++row == channels) row = 0;
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
