// GraphModule: a traced network as executable layers on the original parameters.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/passes.h"
#include "core/graph/record.h"
#include "core/nn/layer.h"
#include "core/nn/weighted.h"
#include "core/quant/config.h"

namespace qat::graph {

/// The executable layer of a node.
std::shared_ptr<nn::QLayer> make_layer(const Node& node);

/// The module at a dotted path below root; plain containers are made where there are none.
torch::nn::Module& submodule(torch::nn::Module& root, const std::string& path);

/// Parameters and buffers have the source's names ("layer1.0.conv1.weight"); quantizers stand beside them
/// ("layer1.0.conv1.weight_quantizer.scale", "add.output_quantizer.scale", "input.output_quantizer.scale").
class GraphModule : public torch::nn::Module {
 public:
  struct Step {
    std::shared_ptr<nn::QLayer> layer;
    std::vector<int> inputs;     // earlier steps; empty for the input
    std::vector<int64_t> sizes;  // of the output, without the batch
  };

  /// graph: canonical (passes.h). source: the network that was traced; all its parameters and buffers are shared.
  /// Throws GraphError for a node that has no layer.
  GraphModule(const Graph& graph, const torch::nn::Module& source);

  /// Called with every layer's output in order.
  using Tap = std::function<void(const nn::QLayer& layer, const nn::Value& output)>;

  /// For every layer (nn/layer.h).
  void set_autocast(bool on);

  /// x [N, C, H, W] float32 -> float32. Steps that only heads need do not run, but for calibration.
  at::Tensor forward(const at::Tensor& x, const Tap& tap = nullptr);

  /// The output, as "logits", then what the heads say.
  NamedTensors forward_heads(const at::Tensor& x, const Tap& tap = nullptr);

  nn::Phase phase() const { return phase_; }
  void set_phase(nn::Phase phase);
  void train(bool on = true) override;

  /// The steps in execution order; the last one to run is output_step().
  const std::vector<Step>& steps() const { return steps_; }
  int output_step() const { return output_; }
  /// Whether the output depends on the step; otherwise only heads do.
  bool is_needed(int step) const { return needed_.at(step); }

  /// Gives a step's output, its weight or its bias, a quantizer and registers it.
  void set_output_quantizer(int step, std::shared_ptr<quant::Quantizer> quantizer);
  void set_weight_quantizer(int step, std::shared_ptr<quant::Quantizer> quantizer);
  void set_bias_quantizer(int step, std::shared_ptr<quant::Quantizer> quantizer);

  /// What batch norms do while they train (FloatBatchNorm: always statistics of the batch).
  void set_batch_norm_mode(nn::BatchNormMode mode);
  void merge_batch_norm();

  /// Sets the running statistics to their means over batches: runs the quantized network in evaluation on every tensor
  /// that `next` gives until it gives an undefined one. No parameter changes.
  void reestimate_batch_norm(const std::function<at::Tensor()>& next);

  /// What the next training steps do beside the plain thing; every layer gets random numbers of its own.
  void set_step(const quant::StepSettings& settings);

  /// Ends calibration: all quantizers get their first values.
  void initialize_quantizers();

  /// After every optimizer step: learned quantizer parameters are put back into their domains.
  void project();

  /// The quantizers' terms of the loss, or undefined: after a training step's forward.
  at::Tensor penalty() const;

 private:
  NamedTensors run(const at::Tensor& x, bool with_heads, const Tap& tap);

  std::vector<Step> steps_;
  std::vector<bool> needed_;
  int output_ = -1;
  std::vector<Head> heads_;
  nn::Phase phase_ = nn::Phase::kFloat;
};

/// What is quantized how, for the start of a run, `qat inspect` and `qat report`.
struct InsertReport {
  std::vector<std::string> lines;          // one a layer
  std::vector<std::string> totals;         // "18 weights: lsq 4 bits per channel"; names where there are few
  int64_t quantized_layers = 0;            // layers with integer arithmetic
  std::vector<std::string> float_layers;   // layers left in float
  std::vector<std::string> float_reasons;  // why, one for each of them
};

/// What passes may fuse in a network that will be quantized so.
FuseOptions fuse_options(const quant::QuantizationConfig& config);

/// Gives every tensor that integer layers read its one quantizer, owned by its producer, and every weight its own
/// (DESIGN section 4, "Who owns an edge"), and every layer its batch-norm mode. Throws ConfigError for rules that
/// contradict each other or match nothing.
InsertReport insert_quantizers(GraphModule& net, const quant::QuantizationConfig& config);

}  // namespace qat::graph
