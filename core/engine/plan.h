// Where the tensors of a batch lie in one piece of memory. Internal to core/engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/integer/integer_model.h"

namespace qat::engine {

struct Plan {
  std::vector<size_t> offset;  // bytes, by tensor; multiples of kAlignment
  std::vector<char> is_alias;  // by node: its output lies where its input does
  size_t bytes = 0;
};

inline constexpr size_t kAlignment = 64;

/// Tensors that are alive together never overlap; kAlignment bytes behind each may be read. Inputs are alive from the
/// start, outputs to the end.
Plan plan_memory(const integer::IntegerModel& model, int64_t batch);

}  // namespace qat::engine
