// Steps that choose which pixels an image has: resize, crops, padding, flips.
#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "datasets/transform.h"
#include "datasets/transform_options.h"

namespace qat::datasets {
namespace {

using config::OneOrMore;

struct ResizeOptions {
  OneOrMore<int64_t> size;
  std::string interpolation = "bilinear";
  std::optional<int64_t> max_size;
};

struct PadOptions {
  OneOrMore<int64_t> padding;
  OneOrMore<int64_t> fill{{0}};
  std::string padding_mode = "constant";
};

struct CenterCropOptions {
  OneOrMore<int64_t> size;
};

struct RandomCropOptions {
  OneOrMore<int64_t> size;
  OneOrMore<int64_t> padding{{0}};
  bool pad_if_needed = false;
  OneOrMore<int64_t> fill{{0}};
  std::string padding_mode = "constant";
};

struct RandomResizedCropOptions {
  OneOrMore<int64_t> size;
  std::vector<double> scale{0.08, 1.0};
  std::vector<double> ratio{3.0 / 4.0, 4.0 / 3.0};
  std::string interpolation = "bilinear";
};

struct FlipOptions {
  double probability = 0.5;
};

// A view of the image's pixels for OpenCV.
cv::Mat view(Image& image) {
  return {static_cast<int>(image.height), static_cast<int>(image.width), CV_8UC(static_cast<int>(image.channels)),
          image.pixels.data()};
}

Shape with_sides(const Shape& shape, const Size& size) { return {size.height, size.width, shape[2]}; }

// The window of an image that holds it.
void crop(Image& image, int64_t top, int64_t left, const Size& size) {
  Image result = blank(with_sides(image.shape(), size));
  const cv::Rect window(static_cast<int>(left), static_cast<int>(top), static_cast<int>(size.width),
                        static_cast<int>(size.height));
  view(image)(window).copyTo(view(result));
  image = std::move(result);
}

// Pixels added on each side.
struct Border {
  int64_t left = 0, top = 0, right = 0, bottom = 0;
};

// [all], [left and right, top and bottom] or [left, top, right, bottom].
Border border_of(const OneOrMore<int64_t>& padding) {
  const std::vector<int64_t>& p = padding.values;
  return p.size() == 4 ? Border{p[0], p[1], p[2], p[3]} : Border{p.front(), p.back(), p.front(), p.back()};
}

Shape padded(const Shape& shape, const Border& border) {
  const auto side = [](int64_t length, int64_t added) {
    if (length == kVaries) return kVaries;
    QAT_CHECK(length + added <= kMaxSide, "a padded side of {} pixels is more than {}", length + added, kMaxSide);
    return length + added;
  };
  return {side(shape[0], border.top + border.bottom), side(shape[1], border.left + border.right), shape[2]};
}

// What stands outside an image.
class Outside {
 public:
  Outside(const std::string& mode, OneOrMore<int64_t> fill) : fill_(std::move(fill)) {
    // OpenCV and torchvision name the mirrors the other way round.
    if (mode == "edge") border_ = cv::BORDER_REPLICATE;
    if (mode == "reflect") border_ = cv::BORDER_REFLECT_101;
    if (mode == "symmetric") border_ = cv::BORDER_REFLECT;
  }

  void check(int64_t channels) const { fill_bytes(fill_, channels); }

  void pad(Image& image, const Border& border) const {
    const Shape shape = padded(image.shape(), border);
    if (shape == image.shape()) return;
    const std::vector<uint8_t> fill = fill_bytes(fill_, image.channels);
    const cv::Scalar value = fill.size() == 1 ? cv::Scalar::all(fill[0]) : cv::Scalar(fill[0], fill[1], fill[2]);
    Image result = blank(shape);
    cv::Mat target = view(result);
    cv::copyMakeBorder(view(image), target, static_cast<int>(border.top), static_cast<int>(border.bottom),
                       static_cast<int>(border.left), static_cast<int>(border.right), border_, value);
    image = std::move(result);
  }

 private:
  int border_ = cv::BORDER_CONSTANT;
  OneOrMore<int64_t> fill_;
};

class Resize final : public Transform {
 public:
  explicit Resize(const ResizeOptions& options)
      : options_(options), interpolation_(interpolation_of(options.interpolation)) {}

  Shape output_shape(const Shape& input) const override {
    const std::vector<int64_t>& size = options_.size.values;
    if (size.size() == 2) return {size[0], size[1], input[2]};
    if (!is_fixed(input)) return {kVaries, kVaries, input[2]};
    int64_t shorter = size[0];
    int64_t longer = shorter * std::max(input[0], input[1]) / std::min(input[0], input[1]);
    if (options_.max_size && longer > *options_.max_size) {
      shorter = std::max<int64_t>(1, shorter * *options_.max_size / longer);
      longer = *options_.max_size;
    }
    QAT_CHECK(longer <= kMaxSide, "an image of {}x{} would have a side of {} pixels, more than {}", input[0], input[1],
              longer, kMaxSide);
    return input[0] <= input[1] ? Shape{shorter, longer, input[2]} : Shape{longer, shorter, input[2]};
  }

  void apply(Image& image, CounterRng&) const override {
    const Shape shape = output_shape(image.shape());
    if (shape != image.shape()) image = resize(image, shape[0], shape[1], interpolation_);
  }

 private:
  ResizeOptions options_;
  Interpolation interpolation_;
};

class Pad final : public Transform {
 public:
  explicit Pad(const PadOptions& options)
      : border_(border_of(options.padding)), outside_(options.padding_mode, options.fill) {}

  Shape output_shape(const Shape& input) const override {
    outside_.check(input[2]);
    return padded(input, border_);
  }
  void apply(Image& image, CounterRng&) const override { outside_.pad(image, border_); }

 private:
  Border border_;
  Outside outside_;
};

class CenterCrop final : public Transform {
 public:
  explicit CenterCrop(const CenterCropOptions& options) : size_(size_of(options.size)) {}

  Shape output_shape(const Shape& input) const override { return with_sides(input, size_); }

  void apply(Image& image, CounterRng&) const override {
    const int64_t width = std::max<int64_t>(0, size_.width - image.width);
    const int64_t height = std::max<int64_t>(0, size_.height - image.height);
    zeros_.pad(image, {width / 2, height / 2, (width + 1) / 2, (height + 1) / 2});
    const auto offset = [](int64_t margin) { return round_even(static_cast<double>(margin) / 2.0); };
    crop(image, offset(image.height - size_.height), offset(image.width - size_.width), size_);
  }

 private:
  Size size_;
  Outside zeros_{"constant", {{0}}};
};

class RandomCrop final : public Transform {
 public:
  explicit RandomCrop(const RandomCropOptions& options)
      : size_(size_of(options.size)),
        border_(border_of(options.padding)),
        pad_if_needed_(options.pad_if_needed),
        outside_(options.padding_mode, options.fill) {}

  Shape output_shape(const Shape& input) const override {
    outside_.check(input[2]);
    const Shape shape = padded(input, border_);
    const auto fits = [&](int64_t window, int64_t side) { return side == kVaries || pad_if_needed_ || window <= side; };
    QAT_CHECK(fits(size_.height, shape[0]) && fits(size_.width, shape[1]),
              "a window of {}x{} does not fit an image of {}x{} with its padding; set pad_if_needed", size_.height,
              size_.width, input[0], input[1]);
    return with_sides(input, size_);
  }

  void apply(Image& image, CounterRng& rng) const override {
    output_shape(image.shape());
    outside_.pad(image, border_);
    const int64_t width = std::max<int64_t>(0, size_.width - image.width);
    const int64_t height = std::max<int64_t>(0, size_.height - image.height);
    outside_.pad(image, {width, height, width, height});
    const int64_t top = pick(rng, image.height - size_.height + 1);
    const int64_t left = pick(rng, image.width - size_.width + 1);
    crop(image, top, left, size_);
  }

 private:
  Size size_;
  Border border_;
  bool pad_if_needed_;
  Outside outside_;
};

class RandomResizedCrop final : public Transform {
 public:
  explicit RandomResizedCrop(const RandomResizedCropOptions& options)
      : size_(size_of(options.size)),
        scale_(options.scale),
        ratio_(options.ratio),
        interpolation_(interpolation_of(options.interpolation)) {}

  Shape output_shape(const Shape& input) const override { return with_sides(input, size_); }

  void apply(Image& image, CounterRng& rng) const override {
    const auto [top, left, size] = window(image, rng);
    crop(image, top, left, size);
    image = resize(image, size_.height, size_.width, interpolation_);
  }

 private:
  struct Window {
    int64_t top = 0, left = 0;
    Size size;
  };

  Window window(const Image& image, CounterRng& rng) const {
    const auto height = static_cast<double>(image.height), width = static_cast<double>(image.width);
    constexpr int kTries = 10;
    for (int i = 0; i < kTries; ++i) {
      const double area = height * width * uniform(rng, scale_[0], scale_[1]);
      const double ratio = log_uniform(rng, ratio_[0], ratio_[1]);
      const Size size{round_even(std::sqrt(area / ratio)), round_even(std::sqrt(area * ratio))};
      if (size.height >= 1 && size.height <= image.height && size.width >= 1 && size.width <= image.width) {
        const int64_t top = pick(rng, image.height - size.height + 1);
        return {top, pick(rng, image.width - size.width + 1), size};
      }
    }
    // The largest window in the middle with an allowed ratio.
    Size size{image.height, image.width};
    if (width / height < ratio_[0]) size.height = std::max<int64_t>(1, round_even(width / ratio_[0]));
    if (width / height > ratio_[1]) size.width = std::max<int64_t>(1, round_even(height * ratio_[1]));
    return {(image.height - size.height) / 2, (image.width - size.width) / 2, size};
  }

  Size size_;
  std::vector<double> scale_, ratio_;
  Interpolation interpolation_;
};

// OpenCV's code of the axis: 0 swaps rows, 1 swaps columns.
template <int kAxis>
class Flip final : public Transform {
 public:
  explicit Flip(const FlipOptions& options) : probability_(options.probability) {}

  Shape output_shape(const Shape& input) const override { return input; }

  void apply(Image& image, CounterRng& rng) const override {
    if (rng.uniform() >= probability_) return;
    cv::Mat pixels = view(image);
    cv::flip(pixels, pixels, kAxis);
  }

 private:
  double probability_;
};

template <class T>
void describe_interpolation(config::Fields<T>& f) {
  f.field("interpolation", &T::interpolation)
      .doc("as Pillow computes it, with antialias")
      .one_of({"nearest", "bilinear", "bicubic"});
}

template <class T>
config::Field& describe_padding(config::Fields<T>& f) {
  config::Field& padding =
      f.field("padding", &T::padding)
          .doc("pixels on all sides, [left and right, top and bottom], or [left, top, right, bottom]")
          .minimum(0)
          .maximum(kMaxSide);
  f.check([](const T& o) -> std::string {
    const size_t count = o.padding.values.size();
    if (count == 1 || count == 2 || count == 4) return "";
    return fmt::format("padding: expected 1, 2 or 4 values, found {}", count);
  });
  f.field("padding_mode", &T::padding_mode)
      .doc("what stands outside: fill, the edge's pixel, or a mirror without or with the edge")
      .one_of({"constant", "edge", "reflect", "symmetric"});
  return padding;
}

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::ResizeOptions> {
  static void describe(Fields<datasets::ResizeOptions>& f) {
    using T = datasets::ResizeOptions;
    f.field("size", &T::size)
        .doc("of the shorter side (the other keeps the aspect, rounded down), or [height, width]")
        .required()
        .minimum(1)
        .maximum(datasets::kMaxSide);
    f.check([](const T& o) { return datasets::check_size(o.size); });
    datasets::describe_interpolation(f);
    f.field("max_size", &T::max_size)
        .doc("of the longer side: the shorter becomes smaller than size where it must")
        .minimum(1)
        .maximum(datasets::kMaxSide);
    f.check([](const T& o) -> std::string {
      if (!o.max_size) return "";
      if (o.size.values.size() != 1) return "max_size: expected only with a size of one number";
      return *o.max_size <= o.size.values[0] ? "max_size: expected more than size" : "";
    });
  }
};

template <>
struct Schema<datasets::PadOptions> {
  static void describe(Fields<datasets::PadOptions>& f) {
    datasets::describe_padding(f).required();
    datasets::describe_fill(f);
  }
};

template <>
struct Schema<datasets::CenterCropOptions> {
  static void describe(Fields<datasets::CenterCropOptions>& f) { datasets::describe_size(f); }
};

template <>
struct Schema<datasets::RandomCropOptions> {
  static void describe(Fields<datasets::RandomCropOptions>& f) {
    using T = datasets::RandomCropOptions;
    datasets::describe_size(f);
    datasets::describe_padding(f);
    f.field("pad_if_needed", &T::pad_if_needed).doc("pads a smaller image to the window's size");
    datasets::describe_fill(f);
  }
};

template <>
struct Schema<datasets::RandomResizedCropOptions> {
  static void describe(Fields<datasets::RandomResizedCropOptions>& f) {
    using T = datasets::RandomResizedCropOptions;
    datasets::describe_size(f);
    f.field("scale", &T::scale).doc("[low, high]: the window's share of the image's area").above(0).maximum(1);
    f.field("ratio", &T::ratio).doc("[low, high]: the window's width / height").above(0).maximum(100);
    f.check([](const T& o) { return datasets::check_range("scale", o.scale); });
    f.check([](const T& o) { return datasets::check_range("ratio", o.ratio); });
    datasets::describe_interpolation(f);
  }
};

template <>
struct Schema<datasets::FlipOptions> {
  static void describe(Fields<datasets::FlipOptions>& f) {
    f.field("probability", &datasets::FlipOptions::probability).doc("of mirroring").minimum(0).maximum(1);
  }
};

}  // namespace qat::config

namespace qat::datasets {

void add_size_transforms(Registry<TransformFactory>& registry) {
  registry.add("resize", "another size", transform_factory<Resize, ResizeOptions>());
  registry.add("pad", "more pixels outside", transform_factory<Pad, PadOptions>());
  registry.add("center_crop", "the window in the middle", transform_factory<CenterCrop, CenterCropOptions>());
  registry.add("random_crop", "a window at a random place", transform_factory<RandomCrop, RandomCropOptions>());
  registry.add("random_resized_crop", "a window of random size and place, resized",
               transform_factory<RandomResizedCrop, RandomResizedCropOptions>());
  registry.add("horizontal_flip", "mirrors left and right at random", transform_factory<Flip<1>, FlipOptions>());
  registry.add("vertical_flip", "mirrors top and bottom at random", transform_factory<Flip<0>, FlipOptions>());
}

}  // namespace qat::datasets
