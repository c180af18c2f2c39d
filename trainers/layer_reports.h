// What quantization does to every tensor of a network.
#pragma once

#include <vector>

#include "core/report/report.h"
#include "trainers/session.h"

namespace qat::trainers {

/// One entry for each layer, in order, from a few evaluation images. A quantized tensor's error is that of its
/// quantizer on the float network's values; the accumulated one compares the quantized network's values with these. The
/// session must be quantized (phase live or frozen); its phase and modes come back.
std::vector<report::LayerReport> layer_reports(Session& session);

}  // namespace qat::trainers
