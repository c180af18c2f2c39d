// A tensor of others that backward reads again.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>

#include "core/base/error.h"

namespace qat::autograd {

/// A write between forward and backward (an optimizer's step) would change the gradient: get() throws qat::Error then.
class Watched {
 public:
  Watched() = default;
  explicit Watched(at::Tensor tensor) : tensor_(std::move(tensor)), version_(tensor_._version()) {}

  const at::Tensor& get(const std::string& reader) const {
    QAT_CHECK(tensor_._version() == version_,
              "{}: its input was changed in place between forward and backward: call backward before the optimizer's "
              "step",
              reader);
    return tensor_;
  }

 private:
  at::Tensor tensor_;
  int64_t version_ = 0;
};

}  // namespace qat::autograd
