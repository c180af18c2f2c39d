#include "core/quant/spec.h"

#include <algorithm>

#include "core/base/error.h"

namespace qat::quant {

int32_t QuantSpec::lo() const {
  if (role == Role::kActivation) return 0;
  return -(1 << (bits - 1)) + (narrow_range ? 1 : 0);
}

int32_t QuantSpec::hi() const { return role == Role::kActivation ? (1 << bits) - 1 : (1 << (bits - 1)) - 1; }

int32_t QuantSpec::symmetric_zero_point() const { return role == Role::kActivation && is_signed ? 1 << (bits - 1) : 0; }

double QuantSpec::largest_scale(double zero_point) const {
  double largest = std::numeric_limits<double>::infinity();
  if (hi() > zero_point) largest = highest / (hi() - zero_point);
  if (lo() < zero_point) largest = std::min(largest, lowest / (lo() - zero_point));
  return largest;
}

void QuantSpec::check() const {
  QAT_CHECK(bits >= 2 && bits <= 8, "expected 2 to 8 bits, found {}", bits);
  QAT_CHECK(lowest <= 0 && highest > 0, "expected limits around zero, found [{}, {}]", lowest, highest);
  QAT_CHECK(role == Role::kActivation || !affine, "weights are symmetric: an affine weight is not supported");
  QAT_CHECK(role == Role::kWeight || granularity == Granularity::kTensor, "activations have one scale a tensor");
}

}  // namespace qat::quant
