// The `quantization:` section, and how its rules meet the layers of a network.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/quant/schedule.h"
#include "core/quant/spec.h"

namespace qat::quant {

/// How one kind of tensor is quantized; unset keys come from the level below (rules over defaults over the target).
struct TensorConfig {
  std::optional<std::string> quantizer;
  std::optional<int> bits;
  std::optional<std::string> granularity;  // weights: channel | group | tensor
  std::optional<int64_t> groups;           // weights, granularity group
  std::optional<std::string> dtype;        // activations: int | uint
  std::optional<std::string> scheme;       // symmetric | affine
  std::optional<bool> narrow_range;        // weights
  std::optional<bool> reduce_range;        // weights
  config::Node options;                    // the method's own keys
};

/// All given conditions must hold.
struct Match {
  std::optional<std::string> name;      // glob (* and ?) or /regular expression/
  std::optional<std::string> type;      // conv2d, linear, add, ...
  std::optional<std::string> position;  // first | last layer with a weight
};

struct Rule {
  Match match;
  std::optional<TensorConfig> weight, activation, input, bias;
  std::optional<bool> exclude;
};

struct BatchNormConfig {
  std::string mode = "live";
  int64_t reestimate = 0;
  config::Node freeze_at = config::Node::scalar("75%");  // 75% of the stage's steps | {epoch: 3} | {step: 1000}
};

struct CalibrationConfig {
  std::string observer = "moving_average";
  config::Node options;  // the observer's own keys
  int64_t batches = 20;
};

struct QuantizationConfig {
  std::string target = "onnxruntime";
  TensorConfig weight, activation;
  std::optional<TensorConfig> residual;
  std::optional<TensorConfig> bias;
  std::optional<int> logits;        // bits of the logits of a linear layer; unset: float
  std::vector<config::Node> rules;  // of Rule; kept as nodes for their positions
  BatchNormConfig batch_norm;
  std::vector<std::string> rewrites;
  std::string memory = "compact";
  std::string overflow = "exact";
  CalibrationConfig calibration;
  ScheduleConfig schedule;
};

/// A layer as rules see it.
struct LayerInfo {
  std::string name;
  std::string type;
  bool is_first = false, is_last = false;  // among layers with a weight
  bool is_residual = false;                // an add makes or reads the layer's output
};

/// A resolved choice and where it was made.
struct TensorChoice {
  std::string quantizer = "minmax";
  int bits = 8;
  bool bits_given = false;  // by anyone; otherwise a method of one width has that
  Granularity granularity = Granularity::kChannel;
  bool granularity_given = false;
  int64_t groups = 1;
  std::optional<std::string> dtype, scheme;
  std::optional<bool> narrow_range;
  bool reduce_range = false;
  config::Node options;
  std::string location;                            // of the last rule that set a key, or of the defaults
  bool sets_bits = false, sets_quantizer = false;  // by a rule
};

struct LayerChoice {
  bool exclude = false;
  TensorChoice weight;
  TensorChoice activation;            // the layer's output
  std::optional<TensorChoice> input;  // set by a rule: the layer's input tensor
  std::optional<TensorChoice> bias;
};

/// One choice a layer: target preset < defaults (for residual tensors `residual:` over `activation:`) < rules in order,
/// the last match wins per key. Throws ConfigError for a rule that matches nothing, an unknown method, target or
/// granularity.
std::vector<LayerChoice> resolve(const QuantizationConfig& config, const std::vector<LayerInfo>& layers);

/// What is wrong with the keys of `key:`, which is no weight; "": nothing.
std::string misplaced_keys(const char* key, const std::optional<TensorConfig>& config);

}  // namespace qat::quant

template <>
struct qat::config::Schema<qat::quant::TensorConfig> {
  static void describe(Fields<qat::quant::TensorConfig>& f) {
    using C = qat::quant::TensorConfig;
    f.field("quantizer", &C::quantizer).doc("method, see `qat list quantizers`; default minmax");
    f.field("bits", &C::bits).doc("width; default 8, or the method's only one; codes have 8").minimum(1).maximum(16);
    f.field("granularity", &C::granularity)
        .doc("weights: one scale per output channel (default), group of output channels, or tensor")
        .one_of({"channel", "group", "tensor"});
    f.field("groups", &C::groups).doc("with granularity group: how many; divides the output channels").minimum(1);
    f.field("dtype", &C::dtype)
        .doc("activations: int keeps negative values, uint clips them; default: what the tensor can hold; weights: int")
        .one_of({"int", "uint"});
    f.field("scheme", &C::scheme)
        .doc("activations with negative values: affine (default) or symmetric; weights are symmetric")
        .one_of({"symmetric", "affine"});
    f.field("narrow_range", &C::narrow_range).doc("weights: no code -2^(bits-1); default true at 8 bits");
    f.field("reduce_range", &C::reduce_range)
        .doc("weights of 8 bits: codes within 64, whose products no CPU's default session saturates; default false");
    f.field("options", &C::options).doc("the quantizer's own keys, see quantizers/README.md");
    f.check([](const C& c) -> std::string {
      if (!c.reduce_range.value_or(false) || c.bits.value_or(8) == 8) return "";
      return "reduce_range is for weights of 8 bits: fewer have small codes anyhow, and more are no int8";
    });
  }
};

template <>
struct qat::config::Schema<qat::quant::Match> {
  static void describe(Fields<qat::quant::Match>& f) {
    using C = qat::quant::Match;
    f.field("name", &C::name).doc("glob with * and ?, or /regular expression/");
    f.field("type", &C::type).doc("conv2d, linear, add, avg_pool2d, global_avg_pool2d, ...");
    f.field("position", &C::position).doc("among layers with a weight").one_of({"first", "last"});
  }
};

template <>
struct qat::config::Schema<qat::quant::Rule> {
  static void describe(Fields<qat::quant::Rule>& f) {
    using C = qat::quant::Rule;
    f.field("match", &C::match).doc("which layers; all given conditions must hold").required();
    f.field("weight", &C::weight).doc("the layer's weight");
    f.field("activation", &C::activation).doc("the layer's output tensor");
    f.field("input", &C::input).doc("the layer's input tensor, that is its producer's output");
    f.field("bias", &C::bias).doc("the layer's bias, batch norm folded in");
    f.field("exclude", &C::exclude).doc("leave the layer in float");
    f.check([](const C& c) { return qat::quant::misplaced_keys("activation", c.activation); });
    f.check([](const C& c) { return qat::quant::misplaced_keys("input", c.input); });
    f.check([](const C& c) { return qat::quant::misplaced_keys("bias", c.bias); });
  }
};

template <>
struct qat::config::Schema<qat::quant::BatchNormConfig> {
  static void describe(Fields<qat::quant::BatchNormConfig>& f) {
    using C = qat::quant::BatchNormConfig;
    f.field("mode", &C::mode)
        .doc(
            "until the freeze: live, statistics of the batch; batch_corrected, the same with the weight multiplied by "
            "the running gain before it is quantized; ema, running statistics that follow the batches; folded, merged "
            "into the weight before finetune; none, a float layer of its own, which nothing folds")
        .one_of({"live", "batch_corrected", "ema", "folded", "none"});
    f.field("reestimate", &C::reestimate)
        .doc("training batches whose mean statistics replace the running ones at the freeze; 0: none do")
        .minimum(0);
    f.field("freeze_at", &C::freeze_at).doc("75% of the finetune stage's steps, {epoch: 3} or {step: 1000}");
  }
};

template <>
struct qat::config::Schema<qat::quant::CalibrationConfig> {
  static void describe(Fields<qat::quant::CalibrationConfig>& f) {
    using C = qat::quant::CalibrationConfig;
    f.field("observer", &C::observer).doc("see `qat list observers`");
    f.field("options", &C::options).doc("the observer's own keys, see quantizers/README.md");
    f.field("batches", &C::batches).doc("training batches that set the first ranges").minimum(1);
  }
};

template <>
struct qat::config::Schema<qat::quant::QuantizationConfig> {
  static void describe(Fields<qat::quant::QuantizationConfig>& f) {
    using C = qat::quant::QuantizationConfig;
    f.field("target", &C::target)
        .doc("runtime whose arithmetic is trained, see `qat list targets`")
        .one_of({"onnxruntime"});
    f.field("weight", &C::weight).doc("default of all weights");
    f.field("activation", &C::activation).doc("default of all activations");
    f.field("residual", &C::residual)
        .doc(
            "default of the tensors that adds read and make; what layers with weights read of them is quantized again "
            "for them. null: as all activations, one quantizer for both");
    f.field("bias", &C::bias)
        .doc("default of all biases, which a method makes coarser than the target's int32; null: int32 alone");
    f.field("logits", &C::logits).doc("bits of a final linear layer's output; null: float").minimum(2).maximum(8);
    f.field("rules", &C::rules).doc("list of {match, weight, activation, input, exclude}; the last match wins per key");
    f.field("batch_norm", &C::batch_norm).doc("batch norm during finetune");
    f.field("rewrites", &C::rewrites)
        .doc("changes of the network's function that make it cheaper: relu6_to_relu, silu_to_hardswish")
        .one_of({"relu6_to_relu", "silu_to_hardswish"});
    f.field("memory", &C::memory)
        .doc("how batch norm's input is kept for backward: int16, int32 or not at all")
        .one_of({"compact", "exact", "recompute"});
    f.field("overflow", &C::overflow)
        .doc(
            "of sums of products: exact, or saturate16 as in ONNX Runtime's default session on CPUs with AVX2 and no "
            "VNNI, where they saturate to int16 in pairs")
        .one_of({"exact", "saturate16"});
    f.field("calibration", &C::calibration).doc("first ranges");
    f.field("schedule", &C::schedule).doc("how quantization changes during the first finetune stage");
    f.check([](const C& c) { return qat::quant::misplaced_keys("activation", c.activation); });
    f.check([](const C& c) { return qat::quant::misplaced_keys("residual", c.residual); });
    f.check([](const C& c) { return qat::quant::misplaced_keys("bias", c.bias); });
  }
};
