#include "core/quant/config.h"

#include <algorithm>
#include <regex>

#include "core/base/text.h"
#include "core/quant/quantizer.h"

namespace qat::quant {
namespace {

bool name_matches(const std::string& pattern, const std::string& name, const config::Node& rule) {
  if (pattern.size() < 2 || pattern.front() != '/' || pattern.back() != '/') return glob_match(pattern, name);
  try {
    return std::regex_search(name, std::regex(pattern.substr(1, pattern.size() - 2)));
  } catch (const std::regex_error& error) {
    throw rule.error(fmt::format("match.name: '{}' is not a regular expression: {}", pattern, error.what()));
  }
}

bool matches(const Match& match, const LayerInfo& layer, const config::Node& rule) {
  if (match.name && !name_matches(*match.name, layer.name, rule)) return false;
  if (match.type && *match.type != layer.type) return false;
  if (match.position) return *match.position == "first" ? layer.is_first : layer.is_last;
  return true;
}

void apply(TensorChoice& choice, const TensorConfig& config, const std::string& location, bool by_rule) {
  if (config.quantizer) {
    choice.quantizer = *config.quantizer, choice.sets_quantizer = by_rule;
    choice.options = {};  // those of another method
  }
  if (config.bits) choice.bits = *config.bits, choice.bits_given = true, choice.sets_bits = by_rule;
  if (config.granularity) {
    choice.granularity_given = true;
    choice.granularity = *config.granularity == "channel" ? Granularity::kChannel
                         : *config.granularity == "group" ? Granularity::kGroup
                                                          : Granularity::kTensor;
  }
  if (config.groups) choice.groups = *config.groups;
  if (config.dtype) choice.dtype = config.dtype;
  if (config.scheme) choice.scheme = config.scheme;
  if (config.narrow_range) choice.narrow_range = config.narrow_range;
  if (config.reduce_range) choice.reduce_range = *config.reduce_range;
  if (!config.options.is_null()) choice.options = config.options;
  choice.location = location;
}

void apply_default(TensorChoice& choice, const TensorConfig& config) {
  apply(choice, config, config.options.location(), /*by_rule=*/false);
}

void apply_rule(TensorChoice& choice, const TensorConfig& config, const config::Node& rule) {
  apply(choice, config, rule.location(), /*by_rule=*/true);
}

void check_method(const std::optional<TensorConfig>& config, const config::Node& parent, const char* key) {
  if (!config || !config->quantizer || quantizers().contains(*config->quantizer)) return;
  const std::optional<config::Node> node = parent.find(key);
  quantizers().get(*config->quantizer, node && node->find("quantizer") ? node->at("quantizer") : parent);
}

}  // namespace

std::string misplaced_keys(const char* key, const std::optional<TensorConfig>& config) {
  if (config && config->reduce_range) return fmt::format("{}.reduce_range: this key is for weights", key);
  return "";
}

std::vector<LayerChoice> resolve(const QuantizationConfig& config, const std::vector<LayerInfo>& layers) {
  LayerChoice defaults;
  for (const auto* tensor : {&config.weight, &config.activation, config.bias ? &*config.bias : &config.weight}) {
    if (tensor->quantizer) quantizers().get(*tensor->quantizer);
  }
  apply_default(defaults.weight, config.weight);
  apply_default(defaults.activation, config.activation);
  if (config.bias) apply_default(defaults.bias.emplace(), *config.bias);
  std::vector<LayerChoice> choices(layers.size(), defaults);
  if (config.residual) {
    if (config.residual->quantizer) quantizers().get(*config.residual->quantizer);
    for (size_t i = 0; i < layers.size(); ++i) {
      if (layers[i].is_residual) apply_default(choices[i].activation, *config.residual);
    }
  }

  for (const config::Node& node : config.rules) {
    const Rule rule = node.as<Rule>();
    check_method(rule.weight, node, "weight");
    check_method(rule.activation, node, "activation");
    check_method(rule.input, node, "input");
    check_method(rule.bias, node, "bias");
    bool used = false;
    for (size_t i = 0; i < layers.size(); ++i) {
      // The network's input is no layer: the first layer's `input:` is what sets it.
      if (layers[i].type == "input" || !matches(rule.match, layers[i], node)) continue;
      used = true;
      LayerChoice& choice = choices[i];
      if (rule.exclude) choice.exclude = *rule.exclude;
      if (rule.weight) apply_rule(choice.weight, *rule.weight, node);
      if (rule.activation) apply_rule(choice.activation, *rule.activation, node);
      if (rule.bias) apply_rule(choice.bias ? *choice.bias : choice.bias.emplace(), *rule.bias, node);
      if (rule.input) {
        if (!choice.input) choice.input.emplace();  // keys that no rule sets stay the producer's
        apply_rule(*choice.input, *rule.input, node);
      }
    }
    if (used) continue;
    std::vector<std::string> names;
    for (const LayerInfo& layer : layers) {
      if (layer.type != "input") names.push_back(layer.name);
    }
    throw node.error(fmt::format("this rule matches no layer; layers: {}", join(names, ", ")));
  }
  return choices;
}

}  // namespace qat::quant
