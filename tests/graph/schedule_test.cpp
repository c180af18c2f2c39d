// What a step's settings do to layers, against numbers by hand or from the definition.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/base/random.h"
#include "tests/support/networks.h"

namespace qat::graph {
namespace {

using at::Tensor;
using nn::Phase;
using nn::QLayer;
using nn::Value;
using nn::WeightedLayer;

TEST(Schedule, RampsAreHalfACosine) {
  const quant::Ramp ramp{2.0, 1.0};
  EXPECT_EQ(ramp.at(0, 100), 2.0);
  EXPECT_NEAR(ramp.at(25, 100), 1 + (1 + std::sqrt(0.5)) / 2, 1e-12);
  EXPECT_NEAR(ramp.at(50, 100), 1.5, 1e-12);
  EXPECT_EQ(ramp.at(100, 100), 1.0);
  EXPECT_EQ((quant::Ramp{0.5, {}}.at(70, 100)), 0.5);
}

TEST(Schedule, SettingsOfAStep) {
  quant::ScheduleConfig c;
  c.observe_every = 3;
  c.dampening = {0, 0.2};
  c.weight_freezing = {0.1, 0.02, 0.05};
  const quant::StepSettings s = quant::settings_at(c, 5, 10, 77);
  EXPECT_FALSE(s.observe);
  EXPECT_TRUE(quant::settings_at(c, 6, 10, 77).observe);
  EXPECT_NEAR(s.dampening, 0.1, 1e-12);
  EXPECT_NEAR(*s.freezing_threshold, 0.06, 1e-12);
  EXPECT_EQ(s.freezing_momentum, 0.05);
  EXPECT_EQ(s.noise_key, 77U);
  EXPECT_FALSE(quant::settings_at({}, 5, 10, 77).freezing_threshold.has_value());
}

/// The quantized network of a test, on images of its own.
struct Case {
  explicit Case(const std::string& yaml, int variant = 2) : float_net(variant) {
    const auto config = config::load_text(yaml, "test.yaml", {}).root().as<quant::QuantizationConfig>();
    net = test::quantize(float_net, {3, 14, 14}, config, images);
  }
  WeightedLayer& layer(const std::string& name) {
    for (const auto& step : net->steps()) {
      if (step.layer->label() == name) return dynamic_cast<WeightedLayer&>(*step.layer);
    }
    throw Error("no layer " + name);
  }
  struct Seed {
    Seed() { at::manual_seed(5); }
  } seed;
  test::MixedNet float_net;
  Tensor images = at::randn({16, 3, 14, 14}), labels = at::randint(0, 5, {16}, at::kLong);
  std::shared_ptr<GraphModule> net;
};

TEST(Schedule, DampeningByItsFormula) {
  for (const char* yaml : {"{weight: {quantizer: lsq, bits: 3}}", "{weight: {bits: 4, granularity: tensor}}"}) {
    SCOPED_TRACE(yaml);
    Case c(yaml);
    c.net->set_phase(Phase::kFrozen);
    c.net->train();
    EXPECT_FALSE(c.net->penalty().defined());
    c.net->set_step({.dampening = 0.25});
    const Tensor penalty = c.net->penalty();
    penalty.backward();
    double expected = 0;
    for (const char* name : {"stem", "depthwise", "pointwise", "plain", "fc1", "fc2"}) {
      WeightedLayer& layer = c.layer(name);
      const auto [weight, call] = layer.quantized();
      const Tensor w = layer.tensors().weight.detach(), g = w.grad();
      const Tensor grad = layer.tensors().weight.grad();
      ASSERT_TRUE(grad.defined()) << name;
      const int64_t n = w[0].numel();
      for (int64_t row = 0; row < w.size(0); ++row) {
        const double gain = call.weight_gain.empty() ? 1 : static_cast<float>(call.weight_gain[row]);
        const double s = weight.scale[row].item<double>();
        for (int64_t i = 0; i < n; ++i) {
          const double v = w.reshape({-1, n})[row][i].item<double>() * gain;
          const double level = s * weight.codes.reshape({-1, n})[row][i].item<double>();
          const quant::QuantSpec& spec = layer.weight_quantizer()->spec();
          const bool inside = v >= s * spec.lo() && v <= s * spec.hi();
          if (inside) expected += 0.25 * (level - v) * (level - v);
          EXPECT_NEAR(grad.reshape({-1, n})[row][i].item<double>(), inside ? 0.5 * (v - level) * gain : 0,
                      1e-5 * std::max(1.0, std::abs(gain)));
        }
      }
    }
    EXPECT_NEAR(penalty.item<double>(), expected, 1e-5 * expected);
  }
}

TEST(Schedule, RangesSeeOnlySomeBatches) {
  Case c("{activation: {quantizer: minmax}, calibration: {observer: running_max}}");
  const auto scale = [&] { return c.layer("stem").output_quantizer()->qparams().scale.item<float>(); };
  const float before = scale();
  c.net->train();
  c.net->set_step({.observe = false});
  c.layer("stem").tensors().batch_norm->gamma.detach().mul_(5);
  c.net->forward(c.images);
  EXPECT_EQ(scale(), before);
  c.net->set_step({});
  c.net->forward(c.images);
  EXPECT_GT(scale(), 2 * before);
}

// With noise a layer multiplies with quantized weights where its random numbers say so, and with latent ones elsewhere.
TEST(Schedule, NoiseQuantizesAPartOfTheWeights) {
  Case c("{weight: {quantizer: lsq, bits: 2}}");
  const double p = 0.3;
  c.net->train();
  c.net->set_step({.noise_probability = p, .noise_key = 99});
  // fc2 is the last layer: its inputs' codes and its logits show the weight that was used.
  int index = -1;
  Tensor input, output;
  for (size_t i = 0; i < c.net->steps().size(); ++i) {
    if (c.net->steps()[i].layer->label() == "fc2") index = static_cast<int>(i);
  }
  c.net->forward(c.images, [&](const QLayer& layer, const Value& value) {
    if (layer.label() == "fc1") input = nn::to_float(value).detach();
    if (layer.label() == "fc2") output = nn::to_float(value);
  });
  WeightedLayer& fc2 = c.layer("fc2");
  const Tensor latent = fc2.tensors().weight.detach();
  Tensor used = fc2.weight_quantizer()->forward(latent).detach().clone();
  int64_t quantized = 0;
  for (int64_t i = 0; i < latent.numel(); ++i) {
    const double u = static_cast<double>(split_mix64(hash(uint64_t{99}, index), i) >> 11) * 0x1p-53;
    if (u < p) {
      ++quantized;
    } else {
      used.view({-1})[i] = latent.reshape({-1})[i];
    }
  }
  EXPECT_GT(quantized, 0);
  EXPECT_LT(quantized, latent.numel());
  EXPECT_TRUE(at::allclose(output, at::linear(input, used, fc2.tensors().bias), 1e-5, 1e-6));
  // Latent weights that are not quantized have the plain gradient, the others their quantizer's.
  output.sum().backward();
  EXPECT_GT(fc2.tensors().weight.grad().ne(0).sum().item<int64_t>(), 0);
  // Evaluation and frozen training quantize all.
  c.net->eval();
  const Tensor evaluated = c.net->forward(c.images);
  c.net->set_phase(Phase::kFrozen);
  c.net->train();
  EXPECT_TRUE(at::equal(c.net->forward(c.images).detach(), evaluated.detach()));
}

TEST(Schedule, FrozenWeightsKeepTheirCodes) {
  for (const char* weight :
       {"{quantizer: lsq, bits: 2}", "{bits: 3}", "{bits: 3, granularity: tensor}", "{quantizer: tqt, bits: 3}"}) {
    SCOPED_TRACE(weight);
    Case c(fmt::format("{{weight: {}, schedule: {{weight_freezing: {{initial: 0.2, momentum: 0.3}}}}}}", weight));
    std::map<std::string, Tensor> kept, frozen;
    int64_t total = 0;
    for (int step = 0; step < 24; ++step) {
      if (step == 16) c.net->set_phase(Phase::kFrozen);
      c.net->set_step({.freezing_threshold = 0.2, .freezing_momentum = 0.3});
      test::train_step(*c.net, c.images, c.labels, step % 2 == 0 ? 0.3 : 0.25);
      total = 0;
      for (const char* name : {"stem", "depthwise", "pointwise", "plain", "fc1", "fc2"}) {
        WeightedLayer& layer = c.layer(name);
        ASSERT_NE(layer.oscillations(), nullptr);
        const Tensor now = layer.quantized().first.codes, mask = layer.oscillations()->frozen().clone();
        EXPECT_TRUE(at::equal(now.masked_select(mask), layer.oscillations()->frozen_codes().masked_select(mask)))
            << name;
        if (frozen.count(name) != 0) {
          EXPECT_TRUE(at::equal(now.masked_select(frozen[name]), kept[name].masked_select(frozen[name]))) << name;
        }
        frozen[name] = mask, kept[name] = now.clone();
        total += mask.sum().item<int64_t>();
      }
    }
    EXPECT_GT(total, 0) << "nothing oscillates in this test";
  }
}

// The bias of the integer graph is the method's level, to the rounding of int32; its gradient is the method's.
TEST(Bias, LiesOnTheMethodsGrid) {
  Case c("{bias: {quantizer: minmax, bits: 4}, rules: [{match: {name: fc2}, bias: {bits: 2}}]}");
  c.net->set_phase(Phase::kFrozen);
  c.net->train();
  const float input = *c.net->steps()[0].layer->output_quantizer()->qparams().scale.const_data_ptr<float>();
  WeightedLayer& stem = c.layer("stem");
  stem.tensors().batch_norm->beta.detach().copy_(at::randn({stem.out_channels()}));
  stem.tensors().batch_norm->running_mean.copy_(at::randn({stem.out_channels()}));
  const auto [weight, call] = stem.quantized();
  const ops::Folded folded = autograd::fold(weight, call, input);
  const auto& norm = *stem.tensors().batch_norm;
  const Tensor k = norm.gamma.detach() / (norm.running_var + norm.eps).sqrt();
  const Tensor bias = norm.beta.detach() - norm.running_mean * k;
  const double step = bias.abs().max().item<double>() / 7;
  std::set<int64_t> levels;
  for (int64_t i = 0; i < bias.numel(); ++i) {
    const double accumulator_step = static_cast<double>(input) * folded.scale[i];
    const double level = std::nearbyint(bias[i].item<double>() / step) * step;
    EXPECT_NEAR(folded.bias[i] * accumulator_step, level, 0.51 * accumulator_step + 1e-6);
    levels.insert(std::lround(level / step));
  }
  EXPECT_GT(levels.size(), 1U);
  EXPECT_EQ(c.layer("fc2").bias_quantizer()->spec().bits, 2);
  // Straight through: beta's gradient is that of the network without a bias quantizer, but for the other forward.
  at::cross_entropy_loss(c.net->forward(c.images), c.labels).backward();
  EXPECT_TRUE(norm.beta.grad().defined());
  EXPECT_GT(norm.beta.grad().ne(0).sum().item<int64_t>(), bias.numel() / 2);
}

TEST(TensorKinds, WhatTheTargetHasNotIsRefused) {
  const auto error_of = [](const std::string& yaml) {
    try {
      Case refused(yaml);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no Error");
  };
  EXPECT_NE(error_of("{weight: {dtype: uint}}").find("stores weights as int8"), std::string::npos);
  EXPECT_NE(error_of("{weight: {scheme: affine}}").find("weights are symmetric"), std::string::npos);
  EXPECT_NE(error_of("{activation: {granularity: channel}}").find("one scale a tensor"), std::string::npos);
  EXPECT_NE(error_of("{activation: {narrow_range: true}}").find("narrow_range"), std::string::npos);
  EXPECT_NE(error_of("{bias: {quantizer: pact}}").find("quantizes activations only"), std::string::npos);
  EXPECT_NE(error_of("{bias: {quantizer: nothing}}").find("nothing"), std::string::npos);
}

TEST(Schedule, WhatHasNoEffectIsRefused) {
  EXPECT_THROW(Case("{weight: {quantizer: bnn}, schedule: {weight_freezing: {initial: 0.1}}}"), ConfigError);
  EXPECT_THROW(Case("{weight: {quantizer: gfpq}, schedule: {weight_freezing: {initial: 0.1}}}"), ConfigError);
  EXPECT_THROW(Case("{weight: {quantizer: xnor}, schedule: {dampening: {final: 0.1}}}"), ConfigError);
  EXPECT_THROW(Case("{schedule: {noise_probability: 0}}"), ConfigError);
  EXPECT_THROW(Case("{schedule: {observe_every: 0}}"), ConfigError);
}

}  // namespace
}  // namespace qat::graph
