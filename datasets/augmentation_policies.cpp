// rand_augment (Cubuk et al. 2019, arXiv:1909.13719) and trivial_augment (Mueller and Hutter 2021, arXiv:2103.10158,
// "wide"), with torchvision's lists of operations and magnitudes.
#include <array>
#include <cmath>
#include <span>

#include "core/base/error.h"
#include "datasets/pixel_ops.h"
#include "datasets/transform.h"
#include "datasets/transform_options.h"

namespace qat::datasets {
namespace {

struct RandAugmentOptions {
  int64_t num_ops = 2;
  int64_t magnitude = 9;
  int64_t num_magnitude_bins = 31;
  std::string interpolation = "nearest";
  config::OneOrMore<int64_t> fill{{0}};
};

struct TrivialAugmentOptions {
  int64_t num_magnitude_bins = 31;
  std::string interpolation = "nearest";
  config::OneOrMore<int64_t> fill{{0}};
};

// What stands outside a moved image, and how it is sampled.
struct Sampling {
  Interpolation interpolation = Interpolation::kNearest;
  config::OneOrMore<int64_t> fill;

  void warp(Image& image, const AffineMap& map) const {
    image = datasets::warp(image, map, interpolation, fill_bytes(fill, image.channels));
  }
};

// An operation of a policy at magnitude m.
struct Operation {
  void (*apply)(Image& image, double m, const Sampling& sampling);
  double (*magnitude)(double part, const Shape& shape);  // part: bin / (bins - 1), 0 to 1
  bool is_signed;                                        // m or -m, each half of the time
};

void leave(Image&, double, const Sampling&) {}
void shear_x(Image& image, double m, const Sampling& s) { s.warp(image, {1, m, 0, 0, 1, 0}); }
void shear_y(Image& image, double m, const Sampling& s) { s.warp(image, {1, 0, 0, m, 1, 0}); }
void translate_x(Image& image, double m, const Sampling& s) { s.warp(image, {1, 0, -std::trunc(m), 0, 1, 0}); }
void translate_y(Image& image, double m, const Sampling& s) { s.warp(image, {1, 0, 0, 0, 1, -std::trunc(m)}); }
void turn(Image& image, double m, const Sampling& s) {
  image = rotate(image, m, s.interpolation, fill_bytes(s.fill, image.channels));
}
void brightness(Image& image, double m, const Sampling&) { adjust_brightness(image, 1 + m); }
void saturation(Image& image, double m, const Sampling&) { adjust_saturation(image, 1 + m); }
void contrast(Image& image, double m, const Sampling&) { adjust_contrast(image, 1 + m); }
void sharpness(Image& image, double m, const Sampling&) { adjust_sharpness(image, 1 + m); }
void keep_bits(Image& image, double m, const Sampling&) { posterize(image, static_cast<int>(m)); }
void solarize_from(Image& image, double m, const Sampling&) { solarize(image, m); }
void stretch(Image& image, double, const Sampling&) { autocontrast(image); }
void flatten(Image& image, double, const Sampling&) { equalize(image); }

double none(double, const Shape&) { return 0; }
template <int kHundredths>
double up_to(double part, const Shape&) {
  return part * (kHundredths / 100.0);
}
// 8 bits less up to kBits, rounded half to even.
template <int kBits>
double bits(double part, const Shape&) {
  return 8.0 - static_cast<double>(round_even(part * kBits));
}
double falling_threshold(double part, const Shape&) { return 255.0 - 255.0 * part; }
// 150 pixels of the 331 of the paper's images.
double part_of_width(double part, const Shape& shape) { return part * (150.0 / 331.0 * static_cast<double>(shape[1])); }
double part_of_height(double part, const Shape& shape) {
  return part * (150.0 / 331.0 * static_cast<double>(shape[0]));
}

constexpr std::array<Operation, 14> kRandAugment{{{leave, none, false},
                                                  {shear_x, up_to<30>, true},
                                                  {shear_y, up_to<30>, true},
                                                  {translate_x, part_of_width, true},
                                                  {translate_y, part_of_height, true},
                                                  {turn, up_to<3000>, true},
                                                  {brightness, up_to<90>, true},
                                                  {saturation, up_to<90>, true},
                                                  {contrast, up_to<90>, true},
                                                  {sharpness, up_to<90>, true},
                                                  {keep_bits, bits<4>, false},
                                                  {solarize_from, falling_threshold, false},
                                                  {stretch, none, false},
                                                  {flatten, none, false}}};

constexpr std::array<Operation, 14> kTrivialAugment{{{leave, none, false},
                                                     {shear_x, up_to<99>, true},
                                                     {shear_y, up_to<99>, true},
                                                     {translate_x, up_to<3200>, true},
                                                     {translate_y, up_to<3200>, true},
                                                     {turn, up_to<13500>, true},
                                                     {brightness, up_to<99>, true},
                                                     {saturation, up_to<99>, true},
                                                     {contrast, up_to<99>, true},
                                                     {sharpness, up_to<99>, true},
                                                     {keep_bits, bits<6>, false},
                                                     {solarize_from, falling_threshold, false},
                                                     {stretch, none, false},
                                                     {flatten, none, false}}};

// What both policies share.
class Policy : public Transform {
 public:
  Policy(std::span<const Operation> operations, int64_t bins, Sampling sampling)
      : operations_(operations), bins_(bins), sampling_(std::move(sampling)) {}

  Shape output_shape(const Shape& input) const override {
    QAT_CHECK(input[2] == 1 || input[2] == 3, "expected an image of 1 or 3 channels, found {}", input[2]);
    fill_bytes(sampling_.fill, input[2]);
    return input;
  }

 protected:
  int64_t bins() const { return bins_; }

  const Operation& choose(CounterRng& rng) const { return operations_[rng.below(operations_.size())]; }

  void run(const Operation& operation, int64_t bin, Image& image, CounterRng& rng) const {
    const double part = static_cast<double>(bin) / static_cast<double>(bins_ - 1);
    const double magnitude = operation.magnitude(part, image.shape());
    const bool negative = operation.is_signed && rng.below(2) == 1;
    operation.apply(image, negative ? -magnitude : magnitude, sampling_);
  }

 private:
  std::span<const Operation> operations_;
  int64_t bins_;
  Sampling sampling_;
};

class RandAugment final : public Policy {
 public:
  explicit RandAugment(const RandAugmentOptions& options)
      : Policy(kRandAugment, options.num_magnitude_bins, {interpolation_of(options.interpolation), options.fill}),
        num_ops_(options.num_ops),
        bin_(options.magnitude) {}

  void apply(Image& image, CounterRng& rng) const override {
    for (int64_t i = 0; i < num_ops_; ++i) run(choose(rng), bin_, image, rng);
  }

 private:
  int64_t num_ops_, bin_;
};

class TrivialAugment final : public Policy {
 public:
  explicit TrivialAugment(const TrivialAugmentOptions& options)
      : Policy(kTrivialAugment, options.num_magnitude_bins, {interpolation_of(options.interpolation), options.fill}) {}

  void apply(Image& image, CounterRng& rng) const override {
    const Operation& operation = choose(rng);
    run(operation, pick(rng, bins()), image, rng);
  }
};

template <class T>
void describe_policy(config::Fields<T>& f) {
  f.field("num_magnitude_bins", &T::num_magnitude_bins).doc("steps of the magnitudes").minimum(2).maximum(1000);
  f.field("interpolation", &T::interpolation).doc("of moved images").one_of({"nearest", "bilinear"});
  describe_fill(f);
}

}  // namespace
}  // namespace qat::datasets

namespace qat::config {

template <>
struct Schema<datasets::RandAugmentOptions> {
  static void describe(Fields<datasets::RandAugmentOptions>& f) {
    using T = datasets::RandAugmentOptions;
    f.field("num_ops", &T::num_ops).doc("operations, one after the other").minimum(0).maximum(100);
    f.field("magnitude", &T::magnitude).doc("their strength, below num_magnitude_bins").minimum(0);
    datasets::describe_policy(f);
    f.check([](const T& o) -> std::string {
      return o.magnitude < o.num_magnitude_bins ? "" : "magnitude: expected less than num_magnitude_bins";
    });
  }
};

template <>
struct Schema<datasets::TrivialAugmentOptions> {
  static void describe(Fields<datasets::TrivialAugmentOptions>& f) { datasets::describe_policy(f); }
};

}  // namespace qat::config

namespace qat::datasets {

void add_augmentation_policies(Registry<TransformFactory>& registry) {
  registry.add("rand_augment", "num_ops random operations of one strength",
               transform_factory<RandAugment, RandAugmentOptions>());
  registry.add("trivial_augment", "one random operation of random strength",
               transform_factory<TrivialAugment, TrivialAugmentOptions>());
}

}  // namespace qat::datasets
