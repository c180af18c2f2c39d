#include "trainers/device_training.h"

#include <ATen/ops/empty_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "core/base/error.h"
#include "core/nn/pointwise.h"
#include "core/nn/weighted.h"
#include "trainers/gpu_library.h"

namespace qat::trainers {
namespace {

device::HostMemory memory_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data_ptr(), static_cast<int64_t>(tensor.nbytes())};
}

int64_t elements_of(const std::vector<int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

/// Turns a network's layers into those of core/device.
class Describer {
 public:
  /// calibrated: whether the quantizers have values yet; otherwise only the refusals count.
  Describer(const graph::GraphModule& net, bool calibrated)
      : net_(net), live_(net.phase() == nn::Phase::kLive), calibrated_(calibrated) {}

  device::Network describe() {
    device::Network network;
    const auto& steps = net_.steps();
    std::map<int, int> place;  // of the steps that run
    for (int i = 0; i < std::ssize(steps); ++i) {
      if (!net_.is_needed(i)) continue;
      place[i] = static_cast<int>(network.layers.size());
      device::Layer layer = describe(i);
      for (const int input : steps[static_cast<size_t>(i)].inputs) layer.inputs.push_back(place.at(input));
      // A broadcast operand comes second: the formula is symmetric.
      if (layer.kind == device::LayerKind::kMultiply &&
          elements_of(network.layers[layer.inputs[0]].sizes) < elements_of(network.layers[layer.inputs[1]].sizes)) {
        std::swap(layer.inputs[0], layer.inputs[1]);
      }
      network.layers.push_back(std::move(layer));
    }
    network.output = place.at(net_.output_step());
    return network;
  }

 private:
  [[noreturn]] void refuse(const nn::QLayer& layer, const std::string& why) const {
    throw ConfigError(fmt::format("device: {} ({}) trains on the CPU only: {}", layer.label(), layer.type(), why));
  }

  device::Layer describe(int index) const {
    const auto& step = net_.steps()[static_cast<size_t>(index)];
    const nn::QLayer& layer = *step.layer;
    device::Layer result;
    result.name = layer.label();
    result.sizes = step.sizes;
    if (layer.excluded()) refuse(layer, "it is left in float");
    if (!layer.values_reason().empty()) refuse(layer, "it computes on real values, " + layer.values_reason());
    if (result.sizes.size() != 3 && result.sizes.size() != 1) {
      refuse(layer, fmt::format("its output has {} dimensions beside the batch, expected 1 or 3", result.sizes.size()));
    }
    const auto* activation = dynamic_cast<const nn::ActivationLayer*>(&layer);
    if (dynamic_cast<const nn::QInput*>(&layer) != nullptr) {
      result.kind = device::LayerKind::kInput;
    } else if (const auto* weighted = dynamic_cast<const nn::WeightedLayer*>(&layer)) {
      describe(*weighted, step, index == net_.output_step(), result);
    } else if (const auto* add = dynamic_cast<const nn::QAdd*>(&layer)) {
      result.kind = device::LayerKind::kAdd;
      result.relu = add->activation().is_non_negative();
    } else if (activation != nullptr && activation->passes_through()) {
      result.kind = device::LayerKind::kRelu;
    } else if (const auto* pool = dynamic_cast<const nn::QMaxPool2d*>(&layer)) {
      result.kind = device::LayerKind::kMaxPool;
      result.pool = geometry_of(pool->pool(), step);
    } else if (dynamic_cast<const nn::QGlobalAvgPool2d*>(&layer) != nullptr) {
      result.kind = device::LayerKind::kGlobalAveragePool;
    } else if (const auto* dropout = dynamic_cast<const nn::QDropout*>(&layer)) {
      result.kind = device::LayerKind::kDropout;
      result.dropout = dropout->probability();
      result.drops_samples = dropout->per_sample();
    } else if (const auto* average = dynamic_cast<const nn::QAvgPool2d*>(&layer)) {
      result.kind = device::LayerKind::kAveragePool;
      result.pool = geometry_of(average->pool(), step);
      result.count_include_pad = average->pool().count_include_pad;
      if (result.pool.is_whole_map()) result.kind = device::LayerKind::kGlobalAveragePool;
    } else if (dynamic_cast<const nn::QMul*>(&layer) != nullptr) {
      result.kind = device::LayerKind::kMultiply;
    } else if (dynamic_cast<const nn::QConcat*>(&layer) != nullptr ||
               dynamic_cast<const nn::QRequantize*>(&layer) != nullptr) {
      result.kind = device::LayerKind::kConcat;
    } else if (activation != nullptr) {
      result.kind = device::LayerKind::kTable;
      std::tie(result.function, result.slope) = function_of(layer, activation->activation());
    } else if (layer.type() == "flatten" && result.sizes.size() == 1) {
      result.kind = device::LayerKind::kFlatten;
    } else if (layer.type() == "channel_shuffle" || layer.type() == "channel_slice") {
      result.kind = device::LayerKind::kMoveChannels;
      result.channels_from = channels_of(dynamic_cast<const nn::QMove&>(layer), step);
    } else {
      refuse(layer, "its operator has no kernel for training on a GPU");
    }
    const bool passes_through = layer.passes_through() || result.kind == device::LayerKind::kConvolution;
    if (!layer.output_quantizer() && !passes_through) refuse(layer, "its output is not quantized");
    if (layer.output_quantizer()) result.output = describe(layer, *layer.output_quantizer(), result.sizes);
    return result;
  }

  std::pair<device::Function, float> function_of(const nn::QLayer& layer, const nn::Activation& activation) const {
    switch (activation.kind) {
      case nn::Activation::Kind::kLeakyRelu:
        return {device::Function::kLeakyRelu, static_cast<float>(activation.slope)};
      case nn::Activation::Kind::kHardsigmoid:
        return {device::Function::kHardsigmoid, 0.0f};
      case nn::Activation::Kind::kHardswish:
        return {device::Function::kHardswish, 0.0f};
      case nn::Activation::Kind::kSigmoid:
      case nn::Activation::Kind::kSilu:
        refuse(layer, "its exponential has other last digits there");
      default:
        refuse(layer, "it computes in float");
    }
  }

  /// The input's channel of each of a move's.
  std::vector<int32_t> channels_of(const nn::QMove& move, const graph::GraphModule::Step& step) const {
    std::vector<int32_t> from(static_cast<size_t>(step.sizes.at(0)));
    const auto channels = static_cast<int32_t>(from.size()), parameter = static_cast<int32_t>(move.parameter());
    for (int32_t c = 0; c < channels; ++c) {
      from[static_cast<size_t>(c)] =
          move.type() == "channel_slice" ? parameter + c : c % parameter * (channels / parameter) + c / parameter;
    }
    return from;
  }

  std::vector<int64_t> input_sizes(const graph::GraphModule::Step& step) const {
    return net_.steps()[static_cast<size_t>(step.inputs.at(0))].sizes;
  }

  ops::PoolGeometry geometry_of(const autograd::Pool2d& pool, const graph::GraphModule::Step& step) const {
    const std::vector<int64_t> x = input_sizes(step);
    ops::PoolGeometry g;
    g.channels = x.at(0), g.in_h = x.at(1), g.in_w = x.at(2);
    g.kernel_h = pool.kernel[0], g.kernel_w = pool.kernel[1];
    g.stride_h = pool.stride[0], g.stride_w = pool.stride[1];
    g.pad_top = g.pad_bottom = pool.padding[0], g.pad_left = g.pad_right = pool.padding[1];
    g.dilation_h = pool.dilation[0], g.dilation_w = pool.dilation[1];
    g.ceil_mode = pool.ceil_mode;
    return g;
  }

  quant::DeviceForm form_of(const nn::QLayer& layer, const quant::Quantizer& quantizer, const char* what) const {
    if (const std::string obstacle = quantizer.obstacle(); !obstacle.empty()) refuse(layer, obstacle);
    const std::optional<quant::DeviceForm> form = quantizer.device_form();
    if (!form || !quantizer.rule()) {
      refuse(layer, fmt::format("the {} quantizer of its {}, with its options and observer, has no form for a GPU",
                                quantizer.method(), what));
    }
    return *form;
  }

  device::OutputQuantizer describe(const nn::QLayer& layer, const quant::Quantizer& quantizer,
                                   const std::vector<int64_t>& sizes) const {
    const quant::DeviceForm form = form_of(layer, quantizer, "output");
    const quant::QuantSpec& spec = quantizer.spec();
    device::OutputQuantizer result;
    if (!calibrated_) return result;
    const quant::QParams params = quantizer.qparams();
    result.scale = memory_of(params.scale), result.zero_point = memory_of(params.zero_point);
    result.lo = spec.lo(), result.hi = spec.hi();
    result.learns = live_ && quantizer.rule() == autograd::GradientRule::kLearnedStep;
    result.gradient_scale = quantizer.gradient_scale(elements_of(sizes));
    if (live_ && quantizer.follows_data()) {
      device::Following& follow = result.follow.emplace();
      follow.rule = form.range->rule;
      follow.averaging = form.range->averaging, follow.starts_here = form.range->starts_here;
      follow.is_signed = spec.is_signed, follow.affine = spec.affine;
      follow.symmetric_zero_point = spec.symmetric_zero_point();
      follow.lowest = spec.lowest, follow.highest = spec.highest;
      follow.range = memory_of(form.range->range), follow.batches = memory_of(form.range->batches);
    }
    return result;
  }

  void describe(const nn::WeightedLayer& layer, const graph::GraphModule::Step& step, bool is_output,
                device::Layer& result) const {
    const nn::LayerTensors& tensors = layer.tensors();
    result.kind = device::LayerKind::kConvolution;
    if (!layer.weight_quantizer()) refuse(layer, "its weight is not quantized");
    if (layer.bias_quantizer()) refuse(layer, "its bias has a quantizer of its own");
    if (tensors.input_norm || tensors.norm_begin) refuse(layer, "its batch norm stands before it, or is shared");
    if (layer.geometry().transposed) refuse(layer, "transposed convolutions have no kernel there");
    if (layer.oscillations()) refuse(layer, "its weights are frozen as they oscillate");
    if (tensors.weight.dim() != 4 && tensors.weight.dim() != 2) refuse(layer, "it has another number of dimensions");
    if (!layer.output_quantizer() && (!is_output || layer.activation())) refuse(layer, "its output is not quantized");
    if (!tensors.weight.is_contiguous(tensors.weight.dim() == 4 ? at::MemoryFormat::ChannelsLast
                                                                : at::MemoryFormat::Contiguous)) {
      refuse(layer, "its weight does not have channels last in memory");
    }
    const quant::Quantizer& quantizer = *layer.weight_quantizer();
    const quant::DeviceForm form = form_of(layer, quantizer, "weight");
    std::vector<at::Tensor> own{tensors.weight, tensors.bias};
    if (tensors.batch_norm) own.insert(own.end(), {tensors.batch_norm->gamma, tensors.batch_norm->beta});
    for (const at::Tensor& tensor : own) {
      if (tensor.defined() && !seen_.insert(tensor.data_ptr()).second) {
        refuse(layer, "another layer has its weight or batch norm too");
      }
    }
    if (layer.saturates()) refuse(layer, "quantization.overflow is not exact");
    if (!layer.output_quantizer() && tensors.batch_norm) refuse(layer, "the logits have a batch norm");
    describe_geometry(layer, input_sizes(step), result.geometry);
    if (!calibrated_) return;
    const auto [weight, call] = layer.quantized();
    result.weight = memory_of(tensors.weight), result.bias = memory_of(call.bias);
    result.live = call.live, result.relu = call.relu;
    result.gain_in_codes = !call.weight_gain.empty();
    if (call.batch_norm) {
      const autograd::BatchNorm& norm = *call.batch_norm;
      result.batch_norm = device::BatchNorm{memory_of(norm.gamma),
                                            memory_of(norm.beta),
                                            memory_of(norm.running_mean),
                                            memory_of(norm.running_var),
                                            norm.eps,
                                            norm.momentum,
                                            call.statistics == autograd::LiveStatistics::kRunning};
    }
    device::WeightQuantizer& q = result.weight_quantizer;
    const quant::QuantSpec& spec = quantizer.spec();
    q.scale = memory_of(quantizer.qparams().scale);
    q.scales = spec.scales(), q.lo = spec.lo(), q.hi = spec.hi();
    q.follows = form.follows_weight;
    q.learns = quantizer.rule() == autograd::GradientRule::kLearnedStep;
    q.gradient_scale = quantizer.gradient_scale(tensors.weight.numel() / std::max<int64_t>(spec.scales(), 1));
  }

  void describe_geometry(const nn::WeightedLayer& layer, const std::vector<int64_t>& x, ops::ConvGeometry& g) const {
    const at::Tensor& weight = layer.tensors().weight;
    g.in_c = x.at(0), g.out_c = weight.size(0);
    if (layer.is_linear()) {
      if (x.size() != 1) refuse(layer, "its input has more than one dimension beside the batch");
      return;
    }
    const nn::ConvGeometry& from = layer.geometry();
    g.in_h = x.at(1), g.in_w = x.at(2);
    g.kernel_h = weight.size(2), g.kernel_w = weight.size(3);
    g.stride_h = from.stride[0], g.stride_w = from.stride[1];
    g.pad_top = g.pad_bottom = from.padding[0], g.pad_left = g.pad_right = from.padding[1];
    g.dilation_h = from.dilation[0], g.dilation_w = from.dilation[1];
    g.groups = from.groups;
  }

  const graph::GraphModule& net_;
  const bool live_, calibrated_;
  mutable std::set<const void*> seen_;  // parameters of layers
};

/// What can have a gradient, by its memory, and the limits of scales.
std::map<const void*, std::pair<double, double>> trained_memory(const device::Network& network,
                                                                const graph::GraphModule& net) {
  std::map<const void*, std::pair<double, double>> trained;
  const auto add = [&](const device::HostMemory& memory) {
    if (memory) trained.try_emplace(memory.data, 0.0, 0.0);
  };
  for (const device::Layer& layer : network.layers) {
    add(layer.weight);
    add(layer.bias);
    if (layer.batch_norm) {
      add(layer.batch_norm->beta);
      // The frozen one is a constant.
      if (layer.live) add(layer.batch_norm->gamma);
    }
    if (layer.output && layer.output->learns) add(layer.output->scale);
    if (layer.weight_quantizer.learns) add(layer.weight_quantizer.scale);
  }
  for (const auto& step : net.steps()) {
    for (const auto& quantizer : {step.layer->output_quantizer(), step.layer->weight_quantizer()}) {
      const auto form = quantizer ? quantizer->device_form() : std::nullopt;
      if (!form || !(form->lowest_scale < form->highest_scale)) continue;
      const auto found = trained.find(quantizer->qparams().scale.data_ptr());
      if (found != trained.end()) found->second = {form->lowest_scale, form->highest_scale};
    }
  }
  return trained;
}

device::Memory memory_mode(const std::string& name) {
  if (name == "exact") return device::Memory::kExact;
  return name == "recompute" ? device::Memory::kRecompute : device::Memory::kCompact;
}

/// The rest of the options is the optimizer's.
void check_options(const Session& session, const TrainStage& stage) {
  const auto refuse = [](const std::string& key, const std::string& instead) {
    throw ConfigError(fmt::format("device: {} trains on the CPU only: {}", key, instead));
  };
  if (stage.accumulate != 1) refuse("accumulate", "set it to 1 and choose a larger batch");
  if (stage.ema) refuse("ema", "leave it out");
  if (stage.distillation) refuse("distillation", "leave it out");
  const quant::ScheduleConfig& schedule = session.experiment.quantization->schedule;
  if (schedule.observe_every != 1) refuse("quantization.schedule.observe_every", "set it to 1");
  if (schedule.noise_probability != 1) refuse("quantization.schedule.noise_probability", "set it to 1");
  if (schedule.dampening.initial > 0 || schedule.dampening.final.value_or(0) > 0) {
    refuse("quantization.schedule.dampening", "leave it out");
  }
  for (const quant::WidthPhase& phase : schedule.bits) {
    if (std::max(phase.weight.value_or(0), phase.activation.value_or(0)) > 8) {
      refuse("quantization.schedule.bits above 8", "choose fewer");
    }
  }
  if (session.model.forward_heads) refuse("a network with auxiliary heads", "choose one without");
}

void describe_optimizer(const Optimizer& optimizer, const TrainStage& stage, device::Options& options) {
  if (optimizer.describe(options)) return;
  throw ConfigError(fmt::format("device: the optimizer {} runs on the CPU only: choose sgd, adam or adamw",
                                stage.optimizer.at("name").text()));
}

}  // namespace

device::Network describe_for_device(const graph::GraphModule& net) {
  const at::NoGradGuard no_grad;
  return Describer(net, true).describe();
}

void check_for_device(const Session& session, const TrainStage& stage) {
  check_options(session, stage);
  device::Options options;
  describe_optimizer(*optimizers().get(stage.optimizer.at("name").text()).make(stage.optimizer.without("name"), {}),
                     stage, options);
  Describer(*session.net, false).describe();
}

DeviceTraining::DeviceTraining(const Session& session, Optimizer& optimizer, const TrainStage& stage)
    : optimizer_(optimizer),
      rate_(optimizer.base_learning_rate()),
      quantizer_rate_(optimizer.quantizer_learning_rate()) {
  check_options(session, stage);
  device::Options options;
  describe_optimizer(optimizer, stage, options);
  options.memory = memory_mode(session.experiment.quantization->memory);
  options.bfloat16 = stage.autocast.has_value();
  options.label_smoothing = stage.label_smoothing;
  options.clip_value = stage.clip_grad_value.value_or(0);
  options.clip_norm = stage.clip_grad_norm.value_or(0);

  const device::Network network = describe_for_device(*session.net);
  const auto trained = trained_memory(network, *session.net);
  std::vector<device::Parameter> parameters;
  bool seen[2] = {};
  for (const Optimizer::Shared& shared : optimizer.share()) {
    const auto found = trained.find(shared.parameter.data_ptr());
    if (found == trained.end() || !shared.parameter.requires_grad()) continue;
    device::Parameter p{.value = memory_of(shared.parameter),
                        .is_quantizers = shared.is_quantizers,
                        .weight_decay = shared.weight_decay,
                        .lowest = found->second.first,
                        .highest = found->second.second};
    for (const at::Tensor& slot : shared.slots) {
      QAT_CHECK(slot.scalar_type() == at::kFloat && slot.sizes() == shared.parameter.sizes() &&
                    at::empty_like(slot).strides() == at::empty_like(shared.parameter).strides(),
                "{}: what the optimizer remembers does not lie as the parameter does", shared.name);
    }
    if (!shared.slots.empty()) p.first = memory_of(shared.slots[0]);
    if (shared.slots.size() > 1) p.second = memory_of(shared.slots[1]);
    parameters.push_back(p);
    int64_t& before = steps_before_[shared.is_quantizers ? 1 : 0];
    const bool is_first = !std::exchange(seen[shared.is_quantizers ? 1 : 0], true);
    if (options.optimizer != device::Options::Optimizer::kSgd && !is_first && shared.steps != before) {
      throw ConfigError(fmt::format(
          "device: {} had {} updates, other parameters had {}: adam on a GPU corrects all alike; choose sgd",
          shared.name, shared.steps, before));
    }
    before = shared.steps;
    updated_.push_back(shared.name);
  }
  step_ = make_gpu_training_step(network, parameters, options);
}

void DeviceTraining::step(const datasets::Batch& batch, const datasets::Mixture& mixture, double factor, uint64_t key) {
  ++updates_;
  step_->run({.size = batch.size,
              .images = batch.images.data(),
              .labels = batch.labels.data(),
              .others = mixture.others.empty() ? nullptr : mixture.others.data(),
              .share = static_cast<float>(mixture.share)},
             {.learning_rate = static_cast<float>(rate_ * factor),
              .quantizer_learning_rate = static_cast<float>(quantizer_rate_ * factor),
              .update = steps_before_[0] + updates_,
              .quantizer_update = steps_before_[1] + updates_,
              .key = key});
}

void DeviceTraining::download() {
  if (counted_ == updates_) return;  // an evaluation since then may have refreshed scales
  step_->download();
  for (const std::string& name : updated_) optimizer_.count_updates(name, updates_ - counted_);
  counted_ = updates_;
}

}  // namespace qat::trainers
