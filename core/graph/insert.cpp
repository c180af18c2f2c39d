#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/graph/graph_module.h"
#include "core/nn/pointwise.h"
#include "core/nn/weighted.h"

namespace qat::graph {
namespace {

using quant::LayerChoice;
using quant::TensorChoice;

/// The width that reduce_range reduces.
constexpr int kReducedBits = 8;

/// Decides, step by step, which tensors become codes and who owns their quantizers.
class Inserter {
 public:
  Inserter(GraphModule& net, const quant::QuantizationConfig& config) : net_(net), config_(config) {
    for (size_t i = 0; i < steps().size(); ++i) {
      const nn::QLayer& layer = *steps()[i].layer;
      infos_.push_back({.name = layer.label(), .type = layer.type()});
      if (is_weighted(i)) last_weighted_ = static_cast<int>(i);
      if (is_weighted(i) && first_weighted_ < 0) first_weighted_ = static_cast<int>(i);
    }
    if (config.residual) find_residual();
    if (first_weighted_ >= 0) infos_[first_weighted_].is_first = infos_[last_weighted_].is_last = true;
    choices_ = quant::resolve(config, infos_);
    // The network's input is 8 bits unless the first layer's `input:` says otherwise.
    if (!choices_[0].activation.sets_bits) eight_bits(choices_[0].activation);
  }

  InsertReport run() {
    find_codes();
    find_signs();
    std::vector<bool> owns(steps().size(), false);
    for (size_t i = 0; i < steps().size(); ++i) {
      if (codes_[i]) owns[owner(static_cast<int>(i))] = true;
    }
    for (size_t i = 0; i < steps().size(); ++i) insert(static_cast<int>(i), owns[i]);
    for (size_t i = 0; i < steps().size(); ++i) find_values(static_cast<int>(i));
    prepare_schedule();
    add_totals("weights", weights_);
    add_totals("activations", activations_);
    return std::move(report_);
  }

 private:
  /// Layers whose quantizers are those of tensors that adds make or read.
  void find_residual() {
    for (size_t i = 0; i < steps().size(); ++i) {
      if (infos_[i].type != "add") continue;
      infos_[i].is_residual = true;
      for (int input : steps()[i].inputs) {
        while (steps()[input].layer->passes_through()) input = steps()[input].inputs[0];
        infos_[input].is_residual = true;
      }
    }
  }

  static void eight_bits(TensorChoice& choice) { choice.bits = 8, choice.bits_given = false; }

  const std::vector<GraphModule::Step>& steps() const { return net_.steps(); }
  bool is_weighted(size_t i) const { return dynamic_cast<const nn::WeightedLayer*>(steps()[i].layer.get()) != nullptr; }

  /// A fused activation, or the layer's own.
  nn::Activation activation(size_t i) const {
    const nn::QLayer* layer = steps()[i].layer.get();
    if (const auto* weighted = dynamic_cast<const nn::WeightedLayer*>(layer)) return weighted->activation();
    if (const auto* add = dynamic_cast<const nn::QAdd*>(layer)) return add->activation();
    if (const auto* own = dynamic_cast<const nn::ActivationLayer*>(layer)) return own->activation();
    return {};
  }

  bool computes_on_codes(int i) const {
    if (choices_[i].exclude) return false;
    const auto* own = dynamic_cast<const nn::ActivationLayer*>(steps()[i].layer.get());
    if (own != nullptr) return own->is_table();
    static const std::set<std::string> types{"add", "mul", "concat", "requantize", "avg_pool2d", "global_avg_pool2d"};
    // What the layer's integer kernel does not compute after its accumulator keeps the layer in float.
    return activation(i).folds_into_range() && (is_weighted(i) || types.count(infos_[i].type) != 0);
  }

  /// Whether step i's output has its input's quantizer.
  bool passes_on(int i) const { return steps()[i].layer->passes_through() && !choices_[i].exclude; }

  /// The step whose quantizer step i's output uses: itself, or through layers that pass parameters on.
  int owner(int i) const {
    while (passes_on(i) && codes_[steps()[i].inputs[0]]) i = steps()[i].inputs[0];
    return i;
  }

  /// The step that computes the network's output, before dropout or a flatten.
  int maker_of_output() const {
    int i = net_.output_step();
    while (passes_on(i)) i = steps()[i].inputs[0];
    return i;
  }

  /// codes_[i]: whether the output of step i is quantized.
  void find_codes() {
    codes_.assign(steps().size(), false);
    const std::function<void(int)> need = [&](int i) {
      if (codes_[i]) return;
      codes_[i] = true;
      if (passes_on(i)) need(steps()[i].inputs[0]);
    };
    for (size_t i = 0; i < steps().size(); ++i) {
      if (!computes_on_codes(static_cast<int>(i))) continue;
      for (const int input : steps()[i].inputs) need(input);
      // Runtimes have no integer kernel with float output but that of a linear layer without ReLU.
      if (infos_[i].type != "linear" || activation(i)) need(static_cast<int>(i));
      if (infos_[i].type == "linear" && config_.logits && static_cast<int>(i) == maker_of_output()) {
        need(static_cast<int>(i));
        choices_[i].activation.bits = *config_.logits;
        choices_[i].activation.bits_given = choices_[i].activation.sets_bits = true;
      }
    }
    // What only tables of all codes read is 8 bits too: no product gets cheaper by fewer.
    for (size_t i = 0; i < steps().size(); ++i) {
      TensorChoice& choice = choices_[i].activation;
      if (codes_[i] && !choice.sets_bits && feeds_tables_alone(static_cast<int>(i))) eight_bits(choice);
    }
    // The network's output: 8 bits unless a rule says otherwise.
    const int last = owner(net_.output_step());
    if (codes_[last] && !choices_[last].activation.sets_bits) eight_bits(choices_[last].activation);
  }

  bool feeds_tables_alone(int i) const {
    bool found = false;
    for (size_t reader = 0; reader < steps().size(); ++reader) {
      const auto& inputs = steps()[reader].inputs;
      if (std::find(inputs.begin(), inputs.end(), i) == inputs.end()) continue;
      const auto* own = dynamic_cast<const nn::ActivationLayer*>(steps()[reader].layer.get());
      if (own == nullptr || !own->is_table() || choices_[reader].exclude) return false;
      found = true;
    }
    return found && i != net_.output_step();
  }

  /// non_negative_[i]: the output of step i cannot be below zero.
  void find_signs() {
    non_negative_.assign(steps().size(), false);
    for (size_t i = 0; i < steps().size(); ++i) {
      const nn::QLayer& layer = *steps()[i].layer;
      const auto& inputs = steps()[i].inputs;
      const auto all = [&] {
        return std::all_of(inputs.begin(), inputs.end(), [&](int input) { return non_negative_[input]; });
      };
      static const std::set<std::string> keep_sign{"add",        "mul",        "concat",
                                                   "requantize", "avg_pool2d", "global_avg_pool2d"};
      non_negative_[i] = activation(i).is_non_negative();
      if (layer.passes_through() || keep_sign.count(infos_[i].type) != 0) {
        non_negative_[i] = non_negative_[i] || (!inputs.empty() && all());
      }
    }
  }

  /// The activation settings of the tensor that step `i` owns: its own `activation:`, and the keys of its consumers'
  /// `input:`.
  TensorChoice activation_of(int i) const {
    TensorChoice result = choices_[i].activation;
    const std::string own = infos_[i].name + "'s activation (" + result.location + ")";
    std::string bits_by = result.sets_bits ? own : "", quantizer_by = result.sets_quantizer ? own : "";
    for (size_t reader = 0; reader < steps().size(); ++reader) {
      if (!choices_[reader].input || !computes_on_codes(static_cast<int>(reader))) continue;
      const TensorChoice& wanted = *choices_[reader].input;
      const auto refuse = [&](const auto& found, const std::string& by, const auto& expected, const char* what) {
        throw ConfigError(fmt::format(
            "{}: the tensor made by {} is set to {}{} by {} and to {}{} by {}'s input: one tensor has one quantizer, "
            "make the two equal",
            wanted.location, infos_[i].name, found, what, by, expected, what, infos_[reader].name));
      };
      for (const int input : steps()[reader].inputs) {
        if (!codes_[input] || owner(input) != i) continue;
        const std::string by = infos_[reader].name + "'s input (" + wanted.location + ")";
        if (wanted.sets_bits) {
          if (!bits_by.empty() && wanted.bits != result.bits) refuse(result.bits, bits_by, wanted.bits, " bits");
          result.bits = wanted.bits;
          result.bits_given = true;
          bits_by = by;
        }
        if (wanted.sets_quantizer) {
          if (!quantizer_by.empty() && wanted.quantizer != result.quantizer) {
            refuse(result.quantizer, quantizer_by, wanted.quantizer, "");
          }
          result.quantizer = wanted.quantizer;
          result.options = wanted.options;
          quantizer_by = by;
        }
        if (wanted.dtype) result.dtype = wanted.dtype;
        if (wanted.scheme) result.scheme = wanted.scheme;
      }
    }
    return result;
  }

  void insert(int i, bool owns) {
    nn::QLayer& layer = *steps()[i].layer;
    if (choices_[i].exclude) layer.exclude();
    std::string line;
    if (is_weighted(i) && computes_on_codes(i)) {
      auto& weighted = dynamic_cast<nn::WeightedLayer&>(layer);
      const TensorChoice& choice = choices_[i].weight;
      if (choice.dtype == "uint") {
        throw ConfigError(fmt::format("{}{}{}'s weight: dtype uint: the target stores weights as int8", choice.location,
                                      choice.location.empty() ? "" : ": ", infos_[i].name));
      }
      quant::QuantSpec spec{.role = quant::Role::kWeight, .bits = bits_of(choice), .is_signed = true};
      spec.affine = choice.scheme == "affine";
      spec.narrow_range = choice.narrow_range.value_or(spec.bits == 8);
      spec.channels = weighted.out_channels();
      spec.granularity = choice.granularity;
      spec.groups = choice.groups;
      spec.reduce_range = choice.reduce_range && spec.bits == kReducedBits;
      if (!choice.granularity_given && !support_of(choice).channels) spec.granularity = quant::Granularity::kTensor;
      const std::shared_ptr<quant::Quantizer> quantizer = make(i, "weight", choice, spec);
      if (choice.reduce_range && !spec.reduce_range && quantizer->traits().code_bits >= kReducedBits) {
        throw ConfigError(
            fmt::format("{}{}{}'s weight: reduce_range is for codes of 8 bits, those of {} with {} bits have "
                        "{}: set it to false there",
                        choice.location, choice.location.empty() ? "" : ": ", infos_[i].name, choice.quantizer,
                        spec.bits, quantizer->traits().code_bits));
      }
      net_.set_weight_quantizer(i, quantizer);
      weighted.set_saturates(config_.overflow == "saturate16");
      weighted.set_memory(config_.memory == "exact"       ? autograd::Memory::kExact
                          : config_.memory == "recompute" ? autograd::Memory::kRecompute
                                                          : autograd::Memory::kCompact);
      const std::string how = fmt::format("{} {} bits per {}", choice.quantizer, spec.bits,
                                          spec.granularity == quant::Granularity::kChannel ? "channel"
                                          : spec.granularity == quant::Granularity::kGroup ? "group"
                                                                                           : "tensor");
      weights_[how].push_back(layer.label());
      line += " weight " + how;
      if (choices_[i].bias && has_bias(weighted)) {
        const TensorChoice& of_bias = *choices_[i].bias;
        quant::QuantSpec bias{.role = quant::Role::kWeight, .bits = bits_of(of_bias), .is_signed = true};
        bias.narrow_range = of_bias.narrow_range.value_or(bias.bits == 8);
        bias.channels = weighted.out_channels();
        if (of_bias.granularity_given) bias.granularity = of_bias.granularity;
        bias.groups = of_bias.groups;
        net_.set_bias_quantizer(i, make(i, "bias", of_bias, bias));
        line += fmt::format(", bias {} {} bits", of_bias.quantizer, bias.bits);
      }
    }
    if (owns) {
      const TensorChoice choice = activation_of(i);
      if ((choice.granularity_given && choice.granularity != quant::Granularity::kTensor) || choice.narrow_range) {
        throw ConfigError(
            fmt::format("{}{}{}'s activation: the target has one scale a tensor and all codes: leave out "
                        "{}",
                        choice.location, choice.location.empty() ? "" : ": ", infos_[i].name,
                        choice.narrow_range ? "narrow_range" : "granularity"));
      }
      quant::QuantSpec spec{.role = quant::Role::kActivation, .bits = bits_of(choice)};
      spec.is_signed = choice.dtype ? *choice.dtype == "int" : !non_negative_[i];
      if (spec.is_signed && non_negative_[i]) {
        throw ConfigError(
            fmt::format("{}: dtype int: the output of {} is never negative, and the target stores it from "
                        "zero: leave dtype out",
                        choice.location, infos_[i].name));
      }
      spec.affine = spec.is_signed && choice.scheme != "symmetric";
      if (const nn::Activation clip = activation(i); clip.folds_into_range()) {
        spec.lowest = clip.lowest, spec.highest = clip.highest;
      }
      const std::shared_ptr<quant::Quantizer> quantizer = make(i, "activation", choice, spec);
      if (spec.has_limits() && !quantizer->traits().keeps_limits) {
        throw ConfigError(fmt::format(
            "{}{}'s activation: the range of {} cannot take the place of {}: use minmax or lsq there, or quantization."
            "rewrites",
            choice.location.empty() ? "" : choice.location + ": ", infos_[i].name, choice.quantizer,
            activation(i).name()));
      }
      net_.set_output_quantizer(i, quantizer);
      const std::string how =
          fmt::format("{} {} bits {}", choice.quantizer, spec.bits, spec.is_signed ? "signed" : "unsigned");
      activations_[how].push_back(layer.label());
      line += (line.empty() ? " output " : ", output ") + how;
    }
    if (computes_on_codes(i)) {
      ++report_.quantized_layers;
    } else if (i != 0 && !(passes_on(i) && codes_[steps()[i].inputs[0]])) {
      report_.float_layers.push_back(layer.label());
      report_.float_reasons.push_back(float_reason(i));
      line += line.empty() ? " float" : ", computed in float";
    } else if (line.empty()) {
      line = " passes on";
    }
    report_.lines.push_back(fmt::format("{:<28} {:<18}{}", layer.label(), layer.type(), line));
  }

  /// A layer whose weight, input or output has levels that are no codes computes on real values.
  void find_values(int i) {
    nn::QLayer& layer = *steps()[i].layer;
    if (!computes_on_codes(i)) return;
    const auto check = [&](const std::shared_ptr<quant::Quantizer>& quantizer, const char* what) {
      const std::string reason = quantizer ? quantizer->obstacle() : "";
      if (!reason.empty() && layer.values_reason().empty())
        layer.compute_on_values(fmt::format("{}: {}", what, reason));
    };
    check(layer.weight_quantizer(), "weight");
    check(layer.output_quantizer(), "output");
    for (const int input : steps()[i].inputs) {
      if (codes_[input]) check(steps()[owner(input)].layer->output_quantizer(), "input");
    }
    if (layer.values_reason().empty()) return;
    report_.lines[i] += ", computed in float (" + layer.values_reason() + ")";
    report_.float_layers.push_back(layer.label());
    report_.float_reasons.push_back(layer.values_reason());
    --report_.quantized_layers;
  }

  /// Why computes_on_codes() is false.
  std::string float_reason(int i) const {
    if (choices_[i].exclude) return "a rule excludes it";
    const nn::Activation fused = activation(i);
    if (is_weighted(i) || !fused.folds_into_range()) {
      return fmt::format("{} is no clip around zero, which a range of codes could do", fused.name());
    }
    return fmt::format("{} has no integer arithmetic", infos_[i].type);
  }

  void add_totals(const char* what, const std::map<std::string, std::vector<std::string>>& uses) {
    constexpr size_t kFew = 3;
    for (const auto& [how, layers] : uses) {
      report_.totals.push_back(
          fmt::format("{} {}: {}{}", layers.size(), what, how, layers.size() <= kFew ? " (" + join(layers) + ")" : ""));
    }
  }

  static bool has_bias(const nn::WeightedLayer& layer) {
    const nn::LayerTensors& t = layer.tensors();
    return t.bias.defined() || t.batch_norm || t.input_norm;
  }

  /// What needs weights of a certain kind finds some, and state of its own is made.
  void prepare_schedule() {
    const quant::ScheduleConfig& schedule = config_.schedule;
    const bool freezes = schedule.weight_freezing.initial.has_value();
    const bool dampens = schedule.dampening.initial > 0 || schedule.dampening.final.value_or(0) > 0;
    bool tracked = false, dampened = false;
    std::string obstacle = "no weight is quantized";
    for (size_t i = 0; i < steps().size(); ++i) {
      auto* layer = dynamic_cast<nn::WeightedLayer*>(steps()[i].layer.get());
      if (layer == nullptr || !layer->weight_quantizer()) continue;
      dampened = dampened || layer->can_be_dampened();
      const std::string found = layer->oscillation_obstacle();
      if (found.empty()) tracked = true;
      obstacle = found;
      if (freezes && found.empty()) layer->track_oscillations();
    }
    if (freezes && !tracked) throw ConfigError("quantization.schedule.weight_freezing: " + obstacle);
    if (dampens && !dampened) {
      throw ConfigError("quantization.schedule.dampening: no weight has evenly spaced levels");
    }
  }

  static const quant::Support& support_of(const TensorChoice& choice) {
    return quant::quantizers().get(choice.quantizer).support();
  }

  static int bits_of(const TensorChoice& choice) {
    const quant::Support& s = support_of(choice);
    return !choice.bits_given && s.min_bits == s.max_bits ? s.min_bits : choice.bits;
  }

  std::shared_ptr<quant::Quantizer> make(int i, const char* what, const TensorChoice& choice,
                                         const quant::QuantSpec& spec) const {
    try {
      return quant::quantizers().get(choice.quantizer)(spec, {.observer = config_.calibration.observer,
                                                              .observer_options = config_.calibration.options,
                                                              .options = choice.options});
    } catch (const ConfigError&) {
      throw;  // a key of the options: it knows its place
    } catch (const Error& error) {
      throw ConfigError(fmt::format("{}{}{}'s {}: {}", choice.location, choice.location.empty() ? "" : ": ",
                                    infos_[i].name, what, error.what()));
    }
  }

  GraphModule& net_;
  const quant::QuantizationConfig& config_;
  std::vector<quant::LayerInfo> infos_;
  std::vector<LayerChoice> choices_;
  std::vector<bool> codes_, non_negative_;
  int first_weighted_ = -1, last_weighted_ = -1;
  std::map<std::string, std::vector<std::string>> weights_, activations_;  // layers by how
  InsertReport report_;
};

}  // namespace

FuseOptions fuse_options(const quant::QuantizationConfig& config) {
  return {.batch_norm = config.batch_norm.mode != "none", .all_activations = false};
}

InsertReport insert_quantizers(GraphModule& net, const quant::QuantizationConfig& config) {
  static const std::map<std::string, nn::BatchNormMode> modes{{"live", nn::BatchNormMode::kLive},
                                                              {"batch_corrected", nn::BatchNormMode::kBatchCorrected},
                                                              {"ema", nn::BatchNormMode::kEma},
                                                              {"folded", nn::BatchNormMode::kFolded},
                                                              {"none", nn::BatchNormMode::kLive}};
  net.set_batch_norm_mode(modes.at(config.batch_norm.mode));
  return Inserter(net, config).run();
}

}  // namespace qat::graph
