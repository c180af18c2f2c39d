// Options that several transforms share.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "core/config/config.h"
#include "datasets/resample.h"
#include "datasets/transform.h"

namespace qat::datasets {

/// A number of [low, high).
inline double uniform(CounterRng& rng, double low, double high) { return low + (high - low) * rng.uniform(); }

/// A whole number of [0, count).
inline int64_t pick(CounterRng& rng, int64_t count) {
  return static_cast<int64_t>(rng.below(static_cast<uint64_t>(count)));
}

/// exp(u), u uniform in [ln low, ln high): an aspect ratio is as likely as its inverse.
inline double log_uniform(CounterRng& rng, double low, double high) {
  return std::exp(uniform(rng, std::log(low), std::log(high)));
}

/// Half to even, as Python's round().
inline int64_t round_even(double value) { return std::llrint(value); }

struct Size {
  int64_t height = 0, width = 0;
};

/// [height, width], or one number for both.
inline Size size_of(const config::OneOrMore<int64_t>& size) { return {size.values.front(), size.values.back()}; }

/// "size: expected ...", or "" for 1 or 2 values.
std::string check_size(const config::OneOrMore<int64_t>& size);
/// The same for a fill value: 1, or one for each of 3 channels.
std::string check_fill(const config::OneOrMore<int64_t>& fill);
/// The same for a range [low, high].
std::string check_range(const std::string& key, const std::vector<double>& range);

/// The bytes of a fill value for an image; throws qat::Error if it has three values for another number of channels.
std::vector<uint8_t> fill_bytes(const config::OneOrMore<int64_t>& fill, int64_t channels);

/// One of the names of `one_of` for the field.
Interpolation interpolation_of(const std::string& name);

template <class T>
void describe_size(config::Fields<T>& f) {
  f.field("size", &T::size).doc("[height, width], or one number for both").required().minimum(1).maximum(kMaxSide);
  f.check([](const T& o) { return check_size(o.size); });
}

template <class T>
void describe_fill(config::Fields<T>& f) {
  f.field("fill", &T::fill)
      .doc("value of pixels outside the image; one, or one for each of 3 channels")
      .minimum(0)
      .maximum(255);
  f.check([](const T& o) { return check_fill(o.fill); });
}

}  // namespace qat::datasets
