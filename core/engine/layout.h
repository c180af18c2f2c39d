// Between the engine's NHWC and the NCHW of files and of other runtimes.
#pragma once

#include "core/engine/engine.h"

namespace qat::engine {

/// The elements of a value of `tensor` in NCHW order; vectors stay as they are.
Value to_nchw(const Value& nhwc, const integer::Tensor& tensor);

/// The way back.
Value to_nhwc(const Value& nchw, const integer::Tensor& tensor);

}  // namespace qat::engine
