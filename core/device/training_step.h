// Training on a GPU: forward, backward and the optimizer's update of a quantized network as one static program of the
// kernels in core/ops/cuda, replayed as a CUDA graph. Nothing in a step waits for the GPU, and nothing on the GPU waits
// for the CPU: scales, ranges, statistics and parameters live there until they are asked for.
//
// Codes, ranges and running statistics are those of the CPU's training bit for bit where the parameters are equal;
// gradients are sums of products on the tensor cores, so they differ in their last digits, but never from run to run.
//
// The network is described without LibTorch; trainers/device_training.h makes the description. Feature maps are NHWC,
// weights [out][kernel_h][kernel_w][in / groups] in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/device/follow_rule.h"
#include "core/ops/pool.h"
#include "core/ops/types.h"

namespace qat::device {

/// Memory of the host that has a copy on the device. The same data is the same copy; no data: absent.
struct HostMemory {
  void* data = nullptr;
  int64_t bytes = 0;
  explicit operator bool() const { return data != nullptr; }
};

/// A range that follows the data (ops::cuda::FollowedRange has the formulas).
struct Following {
  FollowRule rule = FollowRule::kMovingAverage;
  double averaging = 0.01;
  bool starts_here = true;
  bool is_signed = false, affine = false;
  int32_t symmetric_zero_point = 0;
  double lowest = 0, highest = 0;  // limits of the values
  HostMemory range;                // double [2]
  HostMemory batches;              // int64 [1]
};

/// How a layer's output becomes codes.
struct OutputQuantizer {
  HostMemory scale;       // float [1]
  HostMemory zero_point;  // int32 [1]
  int32_t lo = 0, hi = 255;
  std::optional<Following> follow;
  bool learns = false;        // the scale gets LSQ's gradient,
  double gradient_scale = 1;  // times this
};

struct WeightQuantizer {
  HostMemory scale;  // float [scales]
  int64_t scales = 1;
  int32_t lo = -127, hi = 127;
  bool follows = false;  // each scale is that of the largest magnitude; otherwise it stays, or learns
  bool learns = false;
  double gradient_scale = 1;
};

struct BatchNorm {
  HostMemory gamma, beta, running_mean, running_var;  // float [channels]
  double eps = 1e-5, momentum = 0.1;
  bool running_statistics = false;  // normalizes with the running ones
};

enum class LayerKind {
  kInput,
  kConvolution,  // linear layers too
  kAdd,
  kMultiply,  // the second operand may be [channels, 1, 1]
  kRelu,
  kTable,   // a function of one code
  kConcat,  // along channels; of one input: another quantizer
  kMaxPool,
  kAveragePool,
  kGlobalAveragePool,
  kFlatten,
  kMoveChannels,
  kDropout
};

/// Those of which a GPU's arithmetic is the CPU's (ops::cuda::Function).
enum class Function { kIdentity, kLeakyRelu, kHardsigmoid, kHardswish };

struct Layer {
  LayerKind kind = LayerKind::kInput;
  std::string name;
  std::vector<int> inputs;                  // earlier layers
  std::vector<int64_t> sizes;               // of the output: [channels, height, width], or [features]
  std::optional<OutputQuantizer> output;    // none: the input's parameters, or float values (a convolution's)
  ops::ConvGeometry geometry;               // kConvolution, linear layers too; the batch is not read
  HostMemory weight, bias;                  // kConvolution: float
  WeightQuantizer weight_quantizer;         // kConvolution
  std::optional<BatchNorm> batch_norm;      // kConvolution
  bool gain_in_codes = false;               // kConvolution: batch norm's running gain is multiplied into the weight
  bool live = false;                        // kConvolution: batch norm takes the batch's statistics
  bool relu = false;                        // kConvolution, kAdd
  ops::PoolGeometry pool;                   // kMaxPool, kAveragePool; the batch is not read
  bool count_include_pad = true;            // kAveragePool
  Function function = Function::kIdentity;  // kTable
  float slope = 0;                          // kTable: of kLeakyRelu below zero
  std::vector<int32_t> channels_from;       // kMoveChannels: the input's channel of each of the output's
  double dropout = 0;                       // kDropout: the probability
  bool drops_samples = false;               // kDropout: whole samples
};

struct Network {
  std::vector<Layer> layers;  // the first one is the input
  int output = -1;            // float values [classes]
};

/// A parameter with what the optimizer remembers of it.
struct Parameter {
  HostMemory value, first, second;  // ops::cuda::ParameterUpdate
  bool is_quantizers = false;       // takes the quantizers' learning rate
  double weight_decay = 0;
  double lowest = 0, highest = 0;  // it is clipped to them where lowest < highest
};

/// How what backward needs of accumulators is kept.
enum class Memory { kCompact, kExact, kRecompute };

struct Options {
  Memory memory = Memory::kCompact;
  bool bfloat16 = false;  // gradients are one bfloat16 in products, otherwise two
  double label_smoothing = 0;
  enum class Optimizer { kSgd, kAdam, kAdamw } optimizer = Optimizer::kSgd;
  double momentum = 0;  // sgd
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // adam, adamw
  double clip_value = 0, clip_norm = 0;           // 0: off
};

/// One batch. Copied before run() returns.
struct Batch {
  int64_t size = 0;
  const float* images = nullptr;    // NHWC
  const int64_t* labels = nullptr;  // [size]
  const int64_t* others = nullptr;  // mixed labels, or null
  float share = 1;                  // of `labels` in the mixture
};

struct Rates {
  float learning_rate = 0, quantizer_learning_rate = 0;
  int64_t update = 1, quantizer_update = 1;  // the number of this update, from 1: adam's corrections
  uint64_t key = 0;                          // of the step's random numbers
};

struct Totals {
  double loss = 0;  // times the samples
  int64_t correct = 0, samples = 0;
  double last_loss = 0;  // of the last step
  bool failed = false;   // a loss, gradient, statistic or range was not finite; no update was made since
};

/// A network on the GPU. Calls throw qat::Error where CUDA does, or memory is short.
class TrainingStep {
 public:
  virtual ~TrainingStep() = default;

  /// Host to device: parameters, what the optimizer remembers, quantizers, statistics. Done at the start.
  virtual void upload() = 0;
  /// Device to host; waits.
  virtual void download() = 0;
  /// Queues one step; batches of several sizes are fine.
  virtual void run(const Batch& batch, const Rates& rates) = 0;
  /// What the steps so far have added to the last set_totals(); waits.
  virtual Totals totals() = 0;
  /// Where counting goes on from.
  virtual void set_totals(const Totals& totals) = 0;
  /// Gradient of a parameter as the last step left it, before clipping; waits. For tests.
  virtual void read_gradient(const HostMemory& parameter, float* into) = 0;
  /// Bytes on the device: maps and scratch memory of the largest batch, and everything else.
  virtual int64_t activation_bytes() const = 0;
  /// What lives from the forward into the backward pass, codes of weights included.
  virtual int64_t saved_bytes() const = 0;
  virtual int64_t state_bytes() const = 0;
};

/// Throws qat::Error for a network or options that it cannot train. Host memory must outlive the result.
std::unique_ptr<TrainingStep> make_training_step(const Network& network, const std::vector<Parameter>& parameters,
                                                 const Options& options);

/// What a program finds in the library by name: make_training_step.
using MakeTrainingStep = std::unique_ptr<TrainingStep> (*)(const Network&, const std::vector<Parameter>&,
                                                           const Options&);

}  // namespace qat::device

extern "C" {
/// The function above, for dlsym.
qat::device::MakeTrainingStep qat_cuda_training_step();
}
