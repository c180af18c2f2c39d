// What all runners of one engine share. Internal to core/engine.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "core/engine/engine.h"
#include "core/integer/integer_model.h"
#include "core/ops/convolve.h"
#include "core/ops/convolve_saturating.h"
#include "core/ops/spread.h"

namespace qat::engine {

/// Of the spread map, where the node is_spread().
ops::ConvGeometry conv_geometry(const integer::Node& node, const integer::Tensor& x, const integer::Tensor& y);
ops::SpreadGeometry spread_geometry(const integer::Node& node, const integer::Tensor& x);

/// What a node needs beside the model's own fields.
struct Prepared {
  template <class Code>
  auto& convolution() {
    if constexpr (std::is_same_v<Code, uint8_t>) {
      return convolution_u8;
    } else {
      return convolution_i8;
    }
  }
  template <class Code>
  const auto& convolution() const {
    return const_cast<Prepared*>(this)->convolution<Code>();
  }

  std::optional<ops::PackedConvolution<uint8_t>> convolution_u8;  // of the input's type
  std::optional<ops::PackedConvolution<int8_t>> convolution_i8;
  std::optional<ops::SaturatingConvolution> saturating;  // in their place, where sums saturate
  std::vector<float> multiplier;                         // per output channel
  /// kConcat: one for each input; empty: a copy. kQuantize of pixels: one for each channel.
  std::vector<std::vector<int16_t>> tables;
};

struct Network {
  /// Checks the model. Throws qat::Error.
  Network(integer::IntegerModel given, Weights weights);

  const integer::Tensor& tensor(int index) const { return model.tensors[static_cast<size_t>(index)]; }

  integer::IntegerModel model;
  std::vector<Prepared> prepared;  // by node
};

}  // namespace qat::engine
