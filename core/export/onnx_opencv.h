// The copy of an onnx-qoperator file that OpenCV's importer can read. For core/judges.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/integer/integer_model.h"

namespace qat::exporter {

struct OpenCvCopy {
  std::string bytes;

  /// A graph input, float32: a tensor's values (its codes dequantized), which the copy quantizes again.
  struct Input {
    std::string name;
    int tensor = -1;
    std::vector<int64_t> shape;  // with the batch
  };
  std::vector<Input> inputs;
};

/// The chosen nodes of `bytes`, an onnx-qoperator file that parse_onnx() read as `model`, each by itself: its operands
/// are graph inputs, its output is the graph's. A Clip behind it is left out. Linear layers become 1x1 convolutions.
OpenCvCopy onnx_for_opencv(const std::string& bytes, const integer::IntegerModel& model, int64_t batch,
                           const std::function<bool(const integer::Node&)>& chosen);

}  // namespace qat::exporter
