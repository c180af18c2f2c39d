// Where a training step stopped being finite.
#pragma once

#include <string>

#include "trainers/session.h"

namespace qat::trainers {

/// For a loss that is not finite: the first parameter that is not, else the first layer whose output is not, else that
/// it is the loss alone. Runs the network (quantized, or in float) in training mode again; the caller seeds LibTorch's
/// generator as for the step.
std::string find_non_finite(Session& session, bool quantized, const at::Tensor& images);

}  // namespace qat::trainers
