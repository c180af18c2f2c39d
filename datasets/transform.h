// What a step of a pipeline is, and the registry of the steps that a config can name.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/base/random.h"
#include "core/config/config.h"
#include "core/registry/registry.h"
#include "datasets/dataset.h"

namespace qat::datasets {

/// The largest side of an image between two steps.
inline constexpr int64_t kMaxSide = 16384;

/// A step on 8-bit images.
class Transform {
 public:
  virtual ~Transform() = default;

  /// Shape of the result; a side that is kVaries stays so unless the step sets it. Throws qat::Error if no image of
  /// this shape fits the step.
  virtual Shape output_shape(const Shape& input) const = 0;

  /// All random numbers come from `rng`. Throws qat::Error if this image does not fit the step. Thread-safe.
  virtual void apply(Image& image, CounterRng& rng) const = 0;
};

/// A step on the floats behind `normalize`, HWC, which keeps the shape.
class FloatTransform {
 public:
  virtual ~FloatTransform() = default;
  /// Throws qat::Error if images of `channels` do not fit the step.
  virtual void check(int64_t channels) const = 0;
  virtual void apply(float* values, const Shape& shape, CounterRng& rng) const = 0;
};

/// One of the two makers is set; neither for `normalize`, which is the pipeline's own.
struct TransformFactory {
  std::function<std::shared_ptr<const Transform>(const config::Node& options)> make;
  std::function<std::shared_ptr<const FloatTransform>(const config::Node& options)> make_float;
  /// A Markdown table of the options.
  std::function<std::string()> docs;
};

/// Built in: those of datasets/transforms.h.
Registry<TransformFactory>& transforms();

template <class Step, class Options>
TransformFactory transform_factory() {
  return {[](const config::Node& options) { return std::make_shared<Step>(config::parse<Options>(options)); }, nullptr,
          [] { return config::docs<Options>(); }};
}

// The built-in lists, by file.
void add_size_transforms(Registry<TransformFactory>& registry);
void add_colour_transforms(Registry<TransformFactory>& registry);
void add_augmentation_policies(Registry<TransformFactory>& registry);
void add_random_erasing(Registry<TransformFactory>& registry);

}  // namespace qat::datasets
