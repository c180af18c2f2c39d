// The differentiable operators on codes: each is one autograd node that keeps codes, bit masks and constants, no float
// maps (a learned scale or live batch norm keeps the accumulators too, as int16 unless told otherwise).
//
// Gradients arrive at handles (quantized_tensor.h). Rules: ARITHMETIC sections 1 and 2. Double backward is refused.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/autograd/quantized_tensor.h"
#include "core/ops/fold.h"

namespace qat::autograd {

/// How an operator's output becomes codes.
struct OutputQuantizer {
  at::Tensor scale;       // float32 [1]; gets a gradient where rule is kLearnedStep and learn is set
  at::Tensor zero_point;  // int32 [1]
  int32_t lo = 0;
  int32_t hi = 255;
  GradientRule rule = GradientRule::kStraightThrough;
  bool learn = false;  // scales learn until the freeze
  /// Factor on the scale's gradient for `elements` values a sample (LSQ: 1 / sqrt(N * Qp)); null: 1.
  std::function<double(int64_t elements)> gradient_scale;
  /// Called with the smallest and largest real value (ReLU applied) before they are quantized, so that a range can
  /// follow the data; scale and zero_point are read afterwards. Null once ranges are fixed.
  std::function<void(double min, double max)> observe;

  ops::CodeRange range() const;
  float scale_value() const;
  bool learns() const { return learn && rule == GradientRule::kLearnedStep; }
  double gradient_scale_of(const at::Tensor& codes) const;
};

/// How the accumulators that backward needs are kept.
enum class Memory { kCompact, kExact, kRecompute };

struct BatchNorm {
  at::Tensor gamma, beta;                // float32 [C]
  at::Tensor running_mean, running_var;  // float32 [C], updated in the live phase
  double eps = 1e-5;
  double momentum = 0.1;
};

/// A convolution or linear layer with all that is fused to it.
struct ConvCall {
  std::string name;
  std::array<int64_t, 2> stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
  at::Tensor bias;  // float32 [C] or undefined
  std::optional<BatchNorm> batch_norm;
  bool live = false;  // batch statistics (training before the freeze); otherwise fold()
  bool relu = false;
  std::optional<OutputQuantizer> output;  // none: real values fl32(float(acc) * fl32(s_x * s)), as logits
  Memory memory = Memory::kCompact;
};

/// The frozen numbers of a layer (ops/fold.h): what its forward runs on after the freeze and in evaluation, and what
/// lowering writes.
ops::Folded fold(const QuantizedWeight& w, const ConvCall& call, float input_scale);

/// What conv() gives: codes, or float values where there is no output quantizer.
struct ConvResult {
  std::optional<QuantizedTensor> codes;
  at::Tensor values;
};

/// x [N, C, H, W] with a 4-d weight, or [N, F] with a 2-d weight. Padding is the code of zero.
ConvResult conv(const QuantizedTensor& x, const QuantizedWeight& w, const ConvCall& call);

/// float -> codes (ops/encode.h): the network's input and behind float layers.
QuantizedTensor encode(const at::Tensor& x, const OutputQuantizer& output);

/// Weight -> int8 codes in [lo, hi] with scale [n], n dividing the output channels (neighbours share one); gradient to
/// the weight and, with kLearnedStep, to the scale.
QuantizedWeight quantize_weight(const at::Tensor& weight, const at::Tensor& scale, int32_t lo, int32_t hi,
                                GradientRule rule, double gradient_scale);

/// fl32(scale * float(code)) of a weight, with the gradient passed to the handle unchanged.
at::Tensor dequantize(const QuantizedWeight& weight);

/// a + b, operand order kept (ARITHMETIC section 3).
QuantizedTensor add(const QuantizedTensor& a, const QuantizedTensor& b, const OutputQuantizer& output, bool relu);

/// Keep the input's scale and zero point.
QuantizedTensor relu(const QuantizedTensor& x);
struct Pool2d {
  std::array<int64_t, 2> kernel{1, 1}, stride{1, 1}, padding{0, 0}, dilation{1, 1};
  bool ceil_mode = false;
  bool count_include_pad = true;
};
QuantizedTensor max_pool2d(const QuantizedTensor& x, const Pool2d& pool);
/// Each code becomes that of zero with probability p; the others keep theirs with scale s / (1 - p). Draws from
/// LibTorch's default generator.
QuantizedTensor dropout(const QuantizedTensor& x, double p);
QuantizedTensor flatten(const QuantizedTensor& x);  // [N, C, H, W] -> [N, C * H * W] in NCHW order

/// Have an output quantizer of their own.
QuantizedTensor avg_pool2d(const QuantizedTensor& x, const Pool2d& pool, const OutputQuantizer& output);
QuantizedTensor global_avg_pool2d(const QuantizedTensor& x, const OutputQuantizer& output);  // -> [N, C, 1, 1]

}  // namespace qat::autograd
