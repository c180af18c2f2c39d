// Training's forward as the side that judges are compared with: the only part of verify that needs LibTorch.
#pragma once

#include "core/graph/graph_module.h"
#include "core/judges/verify.h"

namespace qat::simulation {

/// Runs `net` in evaluation on each batch and gives what its layers make, under the names of `file_model`'s tensors.
/// Throws qat::Error if the network is not quantized (its phase must be kLive or kFrozen) or takes other images than
/// the file's. Both must outlive the result.
judges::Simulation simulate(graph::GraphModule& net, const integer::IntegerModel& file_model);

/// judges::verify of both with the engine as the only judge.
judges::VerifyResult verify(graph::GraphModule& net, const integer::IntegerModel& file_model,
                            const judges::BatchSource& batches);

}  // namespace qat::simulation
