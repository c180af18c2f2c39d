// A plug-in as a user writes one: a network with an option of its own, and a quantizer. tests/trainers/plugin.sh builds
// it outside the tree.
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "core/quant/plugin.h"
#include "core/quant/uniform.h"
#include "models/plugin.h"

struct TwoLayersOptions {
  int64_t num_classes = 10;
  int64_t in_channels = 3;
  int64_t width = 8;
};

template <>
struct qat::config::Schema<TwoLayersOptions> {
  static void describe(Fields<TwoLayersOptions>& f) {
    qat::models::describe_classifier(f);
    f.field("width", &TwoLayersOptions::width).doc("channels of the convolution").minimum(1);
  }
};

namespace {

class TwoLayers : public torch::nn::Module {
 public:
  using Options = TwoLayersOptions;

  explicit TwoLayers(const Options& options) {
    conv_ = register_module(
        "conv",
        torch::nn::Conv2d(torch::nn::Conv2dOptions(options.in_channels, options.width, 3).stride(2).bias(false)));
    bn_ = register_module("bn", torch::nn::BatchNorm2d(options.width));
    fc_ = register_module("fc", torch::nn::Linear(options.width, options.num_classes));
  }

  at::Tensor forward(const at::Tensor& x) {
    return fc_(at::adaptive_avg_pool2d(at::relu(bn_(conv_(x))), {1, 1}).flatten(1));
  }

 private:
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d bn_{nullptr};
  torch::nn::Linear fc_{nullptr};
};

/// The smallest power of two that reaches the largest magnitude seen.
class PowerOfTwo : public qat::quant::UniformQuantizer {
 public:
  PowerOfTwo(const qat::quant::QuantSpec& spec, const qat::quant::QuantizerOptions&)
      : UniformQuantizer(spec, {}, qat::quant::GradientRule::kStraightThrough),
        scale_(register_buffer("scale", at::ones({spec.scales()}, at::kFloat))),
        zero_point_(register_buffer("zero_point", at::full({spec.scales()}, spec.symmetric_zero_point(), at::kInt))) {}

  std::string method() const override { return "power_of_two"; }
  void observe(const at::Tensor& values) override {
    largest_ = std::max(largest_, values.detach().abs().max().item<double>());
  }

 private:
  void initialize_parameters() override {
    scale_.fill_(std::exp2(std::ceil(std::log2(largest_ / spec().positive_levels()))));
  }
  qat::quant::QParams parameters_now() const override { return {scale_, zero_point_}; }

  double largest_ = 1e-6;
  at::Tensor scale_, zero_point_;
};

/// Leaves a trace of being loaded in the file that the environment names.
[[maybe_unused]] const bool kLoaded = [] {
  const char* trace = std::getenv("TWO_LAYERS_TRACE");
  std::FILE* file = trace != nullptr ? std::fopen(trace, "w") : nullptr;
  return file != nullptr && std::fclose(file) == 0;
}();

}  // namespace

QAT_REGISTER_MODEL("two_layers", "a convolution and a linear layer", TwoLayers)
QAT_REGISTER_QUANTIZER("power_of_two", "scales that are powers of two", PowerOfTwo)
