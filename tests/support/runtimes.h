// A network in all runtimes at once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/export/onnx.h"
#include "core/judges/verify.h"
#include "core/lower/lower.h"
#include "core/simulation/simulation.h"
#include "tests/support/onnxruntime.h"

namespace qat::test {

/// Training's forward, the engine, and ONNX Runtime on the bytes of an exported file; three channels in.
inline judges::VerifyResult verify_everywhere(graph::GraphModule& net, const judges::BatchSource& batches) {
  const std::string bytes = exporter::onnx_qdq(lower::lower(net, {{0, 0, 0}, {1, 1, 1}}));
  const integer::IntegerModel model = exporter::parse_onnx(bytes, "the export");
  std::vector<std::unique_ptr<judges::Judge>> all;
  all.push_back(std::make_unique<judges::EngineJudge>(model));
  all.push_back(std::make_unique<judges::OnnxRuntimeJudge>(onnx_runtime(), bytes, model));
  return judges::verify(simulation::simulate(net, model), model, all, batches);
}

}  // namespace qat::test
