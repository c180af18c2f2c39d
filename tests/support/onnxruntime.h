// ONNX Runtime for tests: its absence is a failure, never a skip.
#pragma once

#include <optional>
#include <string>

#include "core/base/error.h"
#include "core/judges/onnxruntime.h"

namespace qat::test {

/// Throws Error unless the library is found.
inline const judges::OnnxRuntime& onnx_runtime() {
  static const judges::OnnxRuntime instance = [] {
    const std::optional<std::string> library = judges::OnnxRuntime::find();
    QAT_CHECK(library, "ONNX Runtime is missing: run tools/test, or set QAT_ONNXRUNTIME to libonnxruntime.so");
    return judges::OnnxRuntime(*library);
  }();
  return instance;
}

}  // namespace qat::test
