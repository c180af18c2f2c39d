#include "core/nn/modules.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/init.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace qat::nn {
namespace {

std::shared_ptr<quant::Quantizer> make_quantizer(const Choice& choice, quant::QuantSpec spec) {
  spec.bits = choice.bits;
  spec.groups = choice.groups;
  return quant::quantizers().get(choice.method)(spec, {.options = choice.options});
}

std::shared_ptr<quant::Quantizer> make_activation(const Choice& choice) {
  return make_quantizer(choice,
                        {.role = quant::Role::kActivation, .is_signed = choice.is_signed, .affine = choice.is_signed});
}

/// The first batch sets the first range.
void start(quant::Quantizer& quantizer, const at::Tensor& values) {
  if (quantizer.initialized()) return;
  quantizer.observe(values);
  quantizer.initialize();
}

/// LibTorch's default: kaiming uniform with a = sqrt(5), so both bounds are 1 / sqrt(fan_in).
void reset_parameters(const at::Tensor& weight, const at::Tensor& bias) {
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
  if (!bias.defined()) return;
  const double bound = 1.0 / std::sqrt(static_cast<double>(weight.numel() / weight.size(0)));
  torch::nn::init::uniform_(bias, -bound, bound);
}

}  // namespace

void HandWrittenLayer::choose_quantizers(const Choice& weight, const std::optional<Choice>& input,
                                         const std::optional<Choice>& output) {
  set_weight_quantizer(
      register_module("weight_quantizer", make_quantizer(weight, {.role = quant::Role::kWeight,
                                                                  .narrow_range = weight.bits == 8,
                                                                  .granularity = weight.granularity,
                                                                  .channels = tensors_.weight.size(0)})));
  if (input) input_quantizer_ = register_module("input_quantizer", make_activation(*input));
  if (output) {
    Choice choice = *output;
    choice.is_signed = choice.is_signed && !activation_;
    set_output_quantizer(register_module("output_quantizer", make_activation(choice)));
  }
  for (const quant::Quantizer* q : {input_quantizer_.get(), weight_quantizer().get(), output_quantizer().get()}) {
    if (q != nullptr && !q->obstacle().empty()) compute_on_values(q->obstacle());
  }
}

at::Tensor HandWrittenLayer::forward(const at::Tensor& x) {
  QAT_CHECK(input_quantizer_ != nullptr, "{}: forward() takes floats only where an input quantizer was chosen",
            label());
  start(*input_quantizer_, x);
  start(*weight_quantizer(), tensors_.weight);
  // After the optimizer's last step, which nobody else follows here.
  input_quantizer_->project();
  project();
  if (output_quantizer() && !output_quantizer()->initialized()) {
    const at::NoGradGuard no_grad;
    const bool training = is_training();
    train(false);
    start(*output_quantizer(), run_float({x}));
    train(training);
  }
  if (phase() == Phase::kFloat || phase() == Phase::kCalibrate) set_phase(Phase::kLive);
  return to_float(run({quantize_values(*input_quantizer_, x)}));
}

QConv2dImpl::QConv2dImpl(const QConv2dOptions& options) : HandWrittenLayer("QConv2d") {
  const auto& g = options.geometry;
  QAT_CHECK(g.groups > 0 && options.in_channels % g.groups == 0 && options.out_channels % g.groups == 0,
            "QConv2d: {} and {} channels do not divide into {} groups", options.in_channels, options.out_channels,
            g.groups);
  geometry_ = g;
  if (options.with_relu) activation_ = Activation::relu();
  tensors_.weight = register_parameter("weight", at::empty({options.out_channels, options.in_channels / g.groups,
                                                            options.kernel_size[0], options.kernel_size[1]},
                                                           at::kFloat));
  if (options.with_bias) tensors_.bias = register_parameter("bias", at::empty({options.out_channels}, at::kFloat));
  reset_parameters(tensors_.weight, tensors_.bias);
  if (options.with_batch_norm) {
    auto norm = register_module("bn", std::make_shared<torch::nn::Module>());
    const int64_t c = options.out_channels;
    tensors_.batch_norm =
        autograd::BatchNorm{.gamma = norm->register_parameter("weight", at::ones({c}, at::kFloat)),
                            .beta = norm->register_parameter("bias", at::zeros({c}, at::kFloat)),
                            .running_mean = norm->register_buffer("running_mean", at::zeros({c}, at::kFloat)),
                            .running_var = norm->register_buffer("running_var", at::ones({c}, at::kFloat))};
  }
  choose_quantizers(options.weight_choice, options.input_choice, options.output_choice);
}

QLinearImpl::QLinearImpl(const QLinearOptions& options) : HandWrittenLayer("QLinear") {
  if (options.with_relu) activation_ = Activation::relu();
  tensors_.weight = register_parameter("weight", at::empty({options.out_features, options.in_features}, at::kFloat));
  if (options.with_bias) tensors_.bias = register_parameter("bias", at::empty({options.out_features}, at::kFloat));
  reset_parameters(tensors_.weight, tensors_.bias);
  choose_quantizers(options.weight_choice, options.input_choice, options.output_choice);
}

QReLUImpl::QReLUImpl(const Choice& output) : ActivationLayer("QReLU", Activation::relu()) {
  Choice choice = output;
  choice.is_signed = false;
  set_output_quantizer(register_module("output_quantizer", make_activation(choice)));
}

at::Tensor QReLUImpl::forward(const at::Tensor& x) {
  start(*output_quantizer(), run_float({x}));
  output_quantizer()->project();
  if (phase() == Phase::kFloat || phase() == Phase::kCalibrate) set_phase(Phase::kLive);
  return to_float(run({x}));
}

}  // namespace qat::nn
