// `qat bench inference`: the engine beside ONNX Runtime. Free of LibTorch headers.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace qat::trainers {

struct InferenceBenchRequest {
  std::string model;    // an exported file of any format
  int64_t runs = 50;    // timed runs of each side, after three that are not timed
  int64_t threads = 1;  // of each side
  int64_t batch = 1;
  std::string isa;         // "": the machine's best; "avx2" or "avx512": no better one (the engine's kernels only)
  bool operators = false;  // the engine's time by kind of operator
};

/// All sides in turn in one process on the same random images; minima in milliseconds, medians beside them:
/// {engine_ms, engine_median_ms, and where ONNX Runtime is found
///  onnxruntime_ms: the model as onnx-qdq in the session that is exact, onnxruntime_default_ms: in the session of a
///  program that sets nothing, onnxruntime_float_ms: the same network in float32 (exporter::onnx_float), each with its
///  median; ratio: onnxruntime_ms / engine_ms;
///  model, input, batch, threads, runs, vector_target, onnxruntime_version, operators: {kind: ms}}.
nlohmann::ordered_json inference_bench(const InferenceBenchRequest& request);

}  // namespace qat::trainers
