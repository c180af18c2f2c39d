// OpenCV's DNN module as a judge of onnx-qoperator files.
//
// What OpenCV 4.6 (Debian 12) reads and computes, by trial on random networks of all operators:
//   equal                  max pool, flatten, channel slice
//   equal but for ties     convolution, linear, sum, product, concatenation, leaky ReLU: it rounds halves away from
//   zero
//                          in scalar loops, to even in vector loops
//   other arithmetic       average pools (padding always counts), QuantizeLinear (times 1 / scale), DequantizeLinear
//                          (q * s - z * s)
//   not read               Clip of codes ("expected: input_size() == 1"), QGemm, look-ups, channel shuffles
//   read, computed wrong   zero points of weights and dilations of pools (ignored), ceil mode with uneven padding
//                          (outputs are missing)
//   fails when run         sums and products with broadcast
// So a whole file is out of its reach as soon as a range is narrower than 8 bits, or the head gives floats; each node
// is judged by itself, on the engine's codes. A linear layer of codes is given to it as the 1x1 convolution that it is.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/judges/judge.h"

namespace qat::judges {

class OpenCvJudge : public Judge {
 public:
  /// `model` is what parse_onnx() gave for `bytes`, an onnx-qoperator file.
  OpenCvJudge(std::string bytes, const integer::IntegerModel& model);
  ~OpenCvJudge() override;

  const std::string& name() const override {
    static const std::string kName = "opencv";
    return kName;
  }

  Standing standing(const integer::Node& node) const override;

  /// Values are clamped to the range of the tensor's codes, as the file's Clip does. Throws Error with OpenCV's reason.
  /// One thread at a time.
  void run(const std::vector<engine::Value>& inputs, const engine::Engine::Observer& observe) const override;

 private:
  struct Network;

  std::string bytes_;
  engine::Engine engine_;
  mutable std::unique_ptr<Network> network_;  // for the batch size of the last run
};

}  // namespace qat::judges
