// What all runners of one engine share. Internal to core/engine.
#pragma once

#include <vector>

#include "core/integer/integer_model.h"

namespace qat::engine {

/// What a node needs beside the model's own fields.
struct Prepared {
  std::vector<int16_t> weight;               // centred: code - zero point, [co][kh][kw][ci / groups]
  std::vector<float> multiplier;             // per output channel
  std::vector<std::vector<int16_t>> tables;  // kConcat: one for each input; empty: a copy
};

struct Network {
  /// Checks the model. Throws qat::Error.
  explicit Network(integer::IntegerModel given);

  const integer::Tensor& tensor(int index) const { return model.tensors[static_cast<size_t>(index)]; }

  integer::IntegerModel model;
  std::vector<Prepared> prepared;  // by node
};

}  // namespace qat::engine
