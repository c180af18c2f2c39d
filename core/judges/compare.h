// Counting differing values of a tensor, element by element.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/engine/engine.h"

namespace qat::judges {

/// One element that differs.
struct Difference {
  std::vector<int64_t> index;  // {sample, channel, row, column} or {sample, feature}
  double expected = 0, found = 0;
  std::optional<int64_t> accumulator;  // of a convolution or linear layer, bias included, before it wraps
};

struct TensorResult {
  std::string name;
  int64_t compared = 0;
  int64_t mismatches = 0;
  int64_t ties = 0;           // other codes that are as near to the real value, no mismatches
  double max_difference = 0;  // in codes; for float tensors in values
  std::optional<Difference> first;
};

/// Values by the name of their tensor, NHWC.
using Values = std::map<std::string, engine::Value>;

/// Adds the comparison of tensor `index` of a model to `result`. Floats must be equal bit for bit. `expected` must hold
/// the tensor; where it holds the tensor's input too, the first difference has its accumulator. A value that is longer
/// than the other differs in all that it has more. With `nearest`, another code of a convolution, linear layer, sum,
/// product, concatenation or leaky ReLU is a tie if it is as near to the real value, but for the rounding of floats.
void compare(const integer::IntegerModel& model, int index, const engine::Value& expected, const engine::Value& found,
             const Values& inputs, TensorResult& result, bool nearest = false);

}  // namespace qat::judges
