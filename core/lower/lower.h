// lower(): GraphModule -> IntegerModel, the only way down.
#pragma once

#include "core/graph/graph_module.h"
#include "core/integer/integer_model.h"

namespace qat::lower {

/// Every number comes from ops::fold() and the quantizers' parameters, as in evaluation: the model computes the codes
/// that GraphModule computes in kLive and kFrozen evaluation.
///
/// Tensors have the layers' names; the float input is "input", its codes "input.codes".
/// Throws ExportError listing every layer that has no integer form, and qat::Error if an accumulator could overflow.
integer::IntegerModel lower(const graph::GraphModule& net, const integer::Preprocessing& preprocessing);

}  // namespace qat::lower
