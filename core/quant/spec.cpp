#include "core/quant/spec.h"

#include <algorithm>

#include "core/base/error.h"

namespace qat::quant {
namespace {

constexpr int32_t kReducedCode = 64;

}  // namespace

int32_t QuantSpec::lo() const {
  if (role == Role::kActivation) return 0;
  if (bits == 1) return -1;
  if (reduce_range) return -kReducedCode;
  return -(1 << (bits - 1)) + (narrow_range ? 1 : 0);
}

int32_t QuantSpec::hi() const {
  if (reduce_range) return kReducedCode;
  if (bits == 1 && (is_weight() || is_signed)) return is_weight() ? 1 : 2;
  return role == Role::kActivation ? (1 << bits) - 1 : (1 << (bits - 1)) - 1;
}

int32_t QuantSpec::symmetric_zero_point() const { return role == Role::kActivation && is_signed ? 1 << (bits - 1) : 0; }

int64_t QuantSpec::scales() const {
  switch (granularity) {
    case Granularity::kChannel:
      return channels;
    case Granularity::kGroup:
      return groups;
    case Granularity::kTensor:
      break;
  }
  return 1;
}

double QuantSpec::largest_scale(double zero_point) const {
  double largest = std::numeric_limits<double>::infinity();
  if (hi() > zero_point) largest = highest / (hi() - zero_point);
  if (lo() < zero_point) largest = std::min(largest, lowest / (lo() - zero_point));
  return largest;
}

void QuantSpec::check() const {
  QAT_CHECK(bits >= 1 && bits <= 16, "expected 1 to 16 bits, found {}", bits);
  QAT_CHECK(lowest <= 0 && highest > 0, "expected limits around zero, found [{}, {}]", lowest, highest);
  QAT_CHECK(role == Role::kActivation || !affine, "weights are symmetric: an affine weight is not supported");
  QAT_CHECK(role == Role::kWeight || granularity == Granularity::kTensor, "activations have one scale a tensor");
  QAT_CHECK(!reduce_range || (is_weight() && bits == 8), "reduce_range is for weights of 8 bits, found {} of {}",
            is_weight() ? "a weight" : "an activation", bits);
  QAT_CHECK(granularity != Granularity::kGroup || (groups >= 1 && channels % groups == 0),
            "{} groups do not divide {} output channels", groups, channels);
}

}  // namespace qat::quant
