// The operations of a step for one batch size. Internal to core/device.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "core/device/memory.h"
#include "core/device/training_step.h"
#include "core/ops/cuda/batch_norm.h"
#include "core/ops/cuda/convolve_gradient.h"
#include "core/ops/cuda/loss.h"
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/weight_codes.h"

namespace qat::device {

/// What the CPU says of a step beside the batch itself.
struct StepNumbers {
  float rates[2] = {};
  float share = 1;
  double corrections[2][2] = {};  // adam's, by rate
};

/// A layer's weight as codes, made at the beginning of a step.
struct Weight {
  int64_t channels = 0, depth = 0;
  const float* parameter = nullptr;
  const float* values = nullptr;  // what is quantized
  int8_t* codes = nullptr;
  const float* scale = nullptr;  // [channels]
  double* gain = nullptr;        // multiplied into the parameter before it is quantized; or null
  float* product = nullptr;      // of both: the values
};

/// On the device, common to all batch sizes.
struct Shared {
  Arena& arena;
  State& state;
  std::map<const void*, float*> gradients;  // of parameters, by their host memory
  StepNumbers* numbers = nullptr;           // [1]
  uint64_t* keys = nullptr;                 // [layers], of their random numbers
  int32_t* failed = nullptr;                // [1]
  ops::cuda::LossTotals* totals = nullptr;  // [1]
  std::vector<Weight> weights;              // [layers], once the first program has been made
  const ops::cuda::EncodedWeight* encoded = nullptr;
  int64_t encoded_weights = 0, encoded_channels = 0;

  /// Null where it is no parameter.
  float* gradient_of(const HostMemory& parameter) const {
    const auto found = gradients.find(parameter.data);
    return found == gradients.end() ? nullptr : found->second;
  }
};

/// A batch on the device.
struct DeviceBatch {
  const float* images = nullptr;
  const int64_t *labels = nullptr, *others = nullptr;
};

class Builder {
 public:
  Builder(Shared& shared, const Network& network, const Options& options, int64_t batch, Program& program);
  /// Forward, loss and backward: gradients of all parameters.
  void build(const DeviceBatch& inputs);

 private:
  using Run = Program::Run;
  /// Adds the operations of a layer's backward.
  using Backward = std::function<void()>;

  /// A layer's output.
  struct Value {
    Buffer codes;   // uint8
    Buffer floats;  // in place of codes
    const float* scale = nullptr;
    const int32_t* zero_point = nullptr;
    int32_t lo = 0, hi = 0;
    int64_t elements = 0;  // of the batch
    bool needs_gradient = false;
    Buffer gradient;  // float, once a reader of the value has made one

    ops::cuda::DeviceRange range() const { return {lo, hi, zero_point}; }
  };

  /// What a convolution's backward needs of its forward.
  struct Convolution {
    const Layer* layer = nullptr;
    int input = 0, output = 0;
    ops::ConvGeometry geometry;
    int64_t rows = 0, channels = 0;
    bool live = false, learns = false, keeps = false;
    Weight weight;
    Buffer folded_codes;               // of the weight that ran, where they are not its own
    const float* scale_ran = nullptr;  // [channels]
    const double* weight_factor = nullptr;
    Buffer acc, kept, inside;
    ops::cuda::ChannelSums sums;  // where somebody reads them
    ops::cuda::CompactNumbers compact;
    ops::cuda::LiveNumbers numbers;   // live
    ops::cuda::FoldedNumbers folded;  // otherwise, but for the codes
    float *multiplier = nullptr, *offset = nullptr;

    const int8_t* codes(const Run& run) const { return folded_codes ? run.at<int8_t>(folded_codes) : weight.codes; }
  };

  Backward add_layer(int index);
  Backward input(int index, const float* images);
  Backward convolution(int index);
  Backward addition(int index);
  Backward relu(int index);
  Backward max_pool(int index);
  Backward average_pool(int index);
  Backward global_average_pool(int index);
  Backward multiplication(int index);
  Backward tables(int index);
  Backward flatten(int index);
  Backward move_channels(int index);
  Backward dropout(int index);
  void loss(const DeviceBatch& inputs);

  /// Memory of all layers' weights, and what encodes them.
  void make_weights();
  void encode_weights();
  /// Whether somebody reads the statistics of a convolution's accumulators.
  bool measures(const Layer& layer) const;
  /// Memory for all of them, which begin at zero.
  void clear_sums();

  // A convolution's parts, in order.
  void live_forward(Convolution& c);
  void folded_forward(Convolution& c);
  void convolve(const Convolution& c);
  void backward(const Convolution& c);
  /// dy reads the buffers; factor is weight_gradient()'s.
  void gradients_of_products(const Convolution& c, std::vector<Buffer> buffers,
                             const std::function<ops::cuda::ProductGradient(const Run&)>& dy, const float* factor);
  void weight_gradient(const Convolution& c, Buffer operand, const float* factor);

  std::optional<ops::cuda::FollowedRange> followed(const Layer& layer);
  /// Moves a layer's range by values whose ends [2] an operation before has found.
  void follow(const Layer& layer, const double* ends, bool relu);
  /// A value of codes with the layer's quantizer, or its input's parameters where it has none.
  Value& make_codes(int index);
  /// Adds an operation that writes a gradient of a layer's output, which is then taken.
  void give_gradient(int index, const std::vector<Buffer>& buffers, const char* name,
                     std::function<void(const Run&, float* into)> write);
  /// The gradient that a reader of a layer's output has written, the first one or one more; none: nothing.
  void take_gradient(int index, Buffer gradient);
  /// Whether its output's scale gets a gradient.
  bool learns(const Layer& layer) const;
  static int64_t mask_bytes(int64_t elements) { return (elements + 7) / 8; }
  /// Whether the gradients of both operands of an addition can be one buffer: that of `only` has no other reader, and
  /// its maker reads it before anyone adds to that of `other`.
  bool shares_gradient(int addition, int only, int other) const;
  void scale_gradient(const OutputQuantizer& quantizer, const double* sum);
  Value& value(int index) { return values_[static_cast<size_t>(index)]; }
  const Layer& layer(int index) const { return network_.layers[static_cast<size_t>(index)]; }

  Shared& shared_;
  const Network& network_;
  const Options& options_;
  const int64_t batch_;
  Program& program_;
  Arena& arena_;
  State& state_;
  unsigned long long* sums_ = nullptr;  // of the next convolution that is measured
  std::vector<Value> values_;
  std::vector<std::vector<int>> readers_;
};

}  // namespace qat::device
