// verify: does the exported file compute the codes that training simulated, every one of them, in every runtime?
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/integer/integer_model.h"
#include "core/judges/compare.h"
#include "core/judges/judge.h"
#include "core/judges/score.h"

namespace qat::judges {

struct JudgeResult {
  std::string name;  // "engine", "onnxruntime", "opencv"
  int64_t compared = 0;
  int64_t mismatches = 0;
  std::vector<TensorResult> tensors;     // in the order in which the file makes them
  std::vector<std::string> float_nodes;  // that the runtime computes in float
  std::vector<TensorResult> advisory;    // compared by other rules of rounding, counted nowhere else
  std::vector<std::string> left_out;     // tensors that the judge cannot compute, with the reason
};

struct VerifyResult {
  int64_t samples = 0;
  int64_t compared = 0;  // by all judges together
  int64_t mismatches = 0;
  std::vector<std::string> skipped;  // tensors that only one side has, with the reason
  std::vector<JudgeResult> judges;
  Score simulated, integer;  // of the simulation's logits and of the first judge's

  /// No difference, nothing left out, nothing computed in float, and every judge compared something.
  bool passed() const;
};

/// A batch for both sides: NHWC float32 images and their labels; returns false at the end.
struct VerifyBatch {
  int64_t size = 0;
  const float* images = nullptr;
  const int64_t* labels = nullptr;
};
using BatchSource = std::function<bool(VerifyBatch&)>;

/// What training computes for a batch: its tensors by name, and the network's output.
struct Simulated {
  Values tensors;
  engine::Value output;
};
using Simulation = std::function<Simulated(const VerifyBatch&)>;

/// Preprocessed images, NHWC, as the model's input: pixels are found again from their floats (integer/pixels.h).
engine::Value input_value(const integer::IntegerModel& model, int64_t batch, const float* images);

/// Runs the simulation and all judges on `model`, as read back from the exported file, over all batches and counts
/// differing values tensor by tensor. The model must have one image as input and one output. A tensor that the
/// simulation, or a judge against its word (Judge::standing), does not give is listed in skipped.
VerifyResult verify(const Simulation& simulate, const integer::IntegerModel& model,
                    const std::vector<std::unique_ptr<Judge>>& judges, const BatchSource& batches);

}  // namespace qat::judges
