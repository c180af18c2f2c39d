// What the tests of this folder share.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "core/quant/quantizer.h"
#include "quantizers/builtin.h"

namespace qat::quantizers {

using quant::Granularity;
using quant::QuantSpec;
using quant::Role;

inline std::shared_ptr<quant::Quantizer> make(const std::string& method, const QuantSpec& spec,
                                              const std::string& observer = "minmax") {
  register_builtin();
  return quant::quantizers().get(method)(spec, {.observer = observer});
}

inline float scale_of(const quant::Quantizer& q) { return *q.qparams().scale.const_data_ptr<float>(); }
inline int zero_of(const quant::Quantizer& q) { return *q.qparams().zero_point.const_data_ptr<int32_t>(); }

}  // namespace qat::quantizers
