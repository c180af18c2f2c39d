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
#include "core/ops/spread.h"

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

  /// gamma / sqrt(running_var + eps), double [C]; moved away from zero by 1e-30, so that it can be divided by.
  std::vector<double> running_gain() const;
};

/// Which statistics a live batch norm normalizes with. Both kinds update the running ones.
enum class LiveStatistics {
  kBatch,    // the batch's; gradients flow through them
  kRunning,  // the running ones as they were before the batch; constants to the gradients
};

/// Strides and the like of a convolution in as many spatial dimensions as its weight has; empty for a linear layer.
struct ConvGeometry {
  std::vector<int64_t> stride, padding, dilation;
  std::vector<int64_t> output_padding;  // transposed only; empty: none
  int64_t groups = 1;
  bool transposed = false;
};

/// A convolution or linear layer with all that is fused to it.
struct ConvCall {
  std::string name;
  ConvGeometry geometry;
  at::Tensor bias;  // float32 [C] or undefined
  std::optional<BatchNorm> batch_norm;
  bool live = false;  // training before the freeze: batch norm normalizes accumulators; otherwise fold()
  LiveStatistics statistics = LiveStatistics::kBatch;
  /// The weight carries batch norm's running_gain() already (it was multiplied before it was quantized); else empty.
  std::vector<double> weight_gain;
  bool relu = false;
  bool saturates = false;                 // sums of products: ops/convolve_saturating.h
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

/// x [N, C, spatial...] with a weight [out, in / groups, kernel...] of one to three spatial dimensions, or [N, F] with
/// a weight [out, in]. Weights of transposed convolutions come with output channels first too (autograd::output_first).
/// Padding is the code of zero.
///
/// Two-dimensional convolutions and linear layers have integer kernels; the others are float64 convolutions of the
/// integers, which are exact.
ConvResult conv(const QuantizedTensor& x, const QuantizedWeight& w, const ConvCall& call);

/// float -> codes (ops/encode.h): the network's input and behind float layers.
QuantizedTensor encode(const at::Tensor& x, const OutputQuantizer& output);

/// Weight -> int8 codes in [lo, hi] with scale [n], n dividing the output channels (neighbours share one); gradient to
/// the weight and, with kLearnedStep, to the scale.
QuantizedWeight quantize_weight(const at::Tensor& weight, const at::Tensor& scale, int32_t lo, int32_t hi,
                                GradientRule rule, double gradient_scale);

/// A transposed convolution's weight [in, out / groups, kernel...] with output channels first: [out, in / groups,
/// kernel...]. Differentiable. The function is its own inverse but for the roles of in and out.
at::Tensor output_first(const at::Tensor& weight, int64_t groups);

/// How the input of a transposed convolution (one or two dimensions) is spread, so that a convolution of stride 1 and
/// no padding with the kernel's taps in reverse gives its output. x: [N, C, spatial...], kernel: its spatial sizes.
ops::SpreadGeometry spread_geometry(const ConvGeometry& geometry, at::IntArrayRef x, at::IntArrayRef kernel);

/// fl32(scale * float(code)) of a weight, with the gradient passed to the handle unchanged.
at::Tensor dequantize(const QuantizedWeight& weight);

/// a + b, operand order kept (ARITHMETIC section 3).
QuantizedTensor add(const QuantizedTensor& a, const QuantizedTensor& b, const OutputQuantizer& output, bool relu);

/// a * b (ops/pointwise.h); one operand may be [N, C, 1, 1].
QuantizedTensor mul(const QuantizedTensor& a, const QuantizedTensor& b, const OutputQuantizer& output);

/// Along channels: a table for every input, a copy where its parameters are the output's (ops/table.h).
QuantizedTensor concat(const std::vector<QuantizedTensor>& inputs, const OutputQuantizer& output);

/// A function of one real value: what a table of all codes holds (ops/table.h), and its derivative.
struct TableFunction {
  std::string name;  // "silu", as in exported files
  std::function<float(float)> value;
  std::function<double(double)> derivative;
};
/// y = Q(f(DQ(q))). The gradient is that of the function at the code's value.
QuantizedTensor table(const QuantizedTensor& x, const TableFunction& f, const OutputQuantizer& output);

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
/// The same for whole samples (stochastic depth).
QuantizedTensor drop_samples(const QuantizedTensor& x, double p);
/// Moves elements without changing them: view, transpose, slice, ... `move` must be one of LibTorch's operators of that
/// kind, for any dtype.
using Move = std::function<at::Tensor(const at::Tensor&)>;
QuantizedTensor move(const QuantizedTensor& x, const Move& move);

/// Have an output quantizer of their own.
QuantizedTensor avg_pool2d(const QuantizedTensor& x, const Pool2d& pool, const OutputQuantizer& output);
QuantizedTensor global_avg_pool2d(const QuantizedTensor& x, const OutputQuantizer& output);  // -> [N, C, 1, 1]

}  // namespace qat::autograd
