// Promise 1 on random networks: training's forward, the engine and ONNX Runtime on the exported file give the same
// codes, and those codes are right (within one of a double-precision batch norm on the same quantized weights and
// inputs).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/base/error.h"
#include "core/judges/verify.h"
#include "core/lower/lower.h"
#include "core/nn/weighted.h"
#include "core/simulation/simulation.h"
#include "tests/support/networks.h"
#include "tests/support/runtimes.h"

namespace qat::judges {
namespace {

using at::Tensor;

using simulation::verify;
using test::verify_everywhere;

constexpr int64_t kSize = 14;

struct Data {
  Tensor images = at::randn({24, 3, kSize, kSize});
  Tensor labels = at::randint(0, 5, {24}, at::kLong);
  Tensor nhwc = images.permute({0, 2, 3, 1}).contiguous();

  BatchSource source() const {
    return [this, done = false](VerifyBatch& batch) mutable {
      if (done) return false;
      done = true;
      batch = {images.size(0), nhwc.const_data_ptr<float>(), labels.const_data_ptr<int64_t>()};
      return true;
    };
  }
};

quant::QuantizationConfig config_of(int seed) {
  quant::QuantizationConfig config;
  const char* methods[] = {"minmax", "lsq"};
  config.weight.quantizer = methods[seed % 2];
  config.activation.quantizer = methods[(seed / 2) % 2];
  config.weight.bits = config.activation.bits = std::vector<int>{8, 4, 3, 2}[seed % 4];
  if (seed % 5 == 0) config.weight.granularity = "tensor";
  config.memory = std::vector<std::string>{"compact", "exact", "recompute"}[seed % 3];
  return config;
}

/// Negative, zero and tiny gamma; a beta that must survive them.
void disturb_batch_norm(torch::nn::Module& net) {
  const at::NoGradGuard no_grad;
  for (const auto& item : net.named_parameters()) {
    if (item.key().find("_bn.weight") == std::string::npos) continue;
    Tensor gamma = item.value();
    const std::vector<float> values{-0.8f, 0.0f, 1e-20f, -1e-12f, 1e-6f};
    for (size_t i = 0; i < values.size(); ++i) gamma[static_cast<int64_t>(i)] = values[i];
  }
  for (const auto& item : net.named_parameters()) {
    if (item.key().find("_bn.bias") != std::string::npos)
      item.value().copy_(at::randn(item.value().sizes()) * 0.5 + 0.3);
  }
}

/// Codes of every weighted layer against a double evaluation of batch norm on the same weights codes and input codes.
void expect_right_codes(graph::GraphModule& net, const Tensor& images) {
  net.eval();
  const at::NoGradGuard no_grad;
  std::vector<nn::Value> outputs;
  net.forward(images, [&](const nn::QLayer&, const nn::Value& value) { outputs.push_back(value); });
  for (size_t i = 0; i < net.steps().size(); ++i) {
    const auto* layer = dynamic_cast<const nn::WeightedLayer*>(net.steps()[i].layer.get());
    if (layer == nullptr || !layer->output_quantizer()) continue;
    SCOPED_TRACE(layer->label());
    const auto& x = std::get<nn::QuantizedTensor>(outputs[net.steps()[i].inputs[0]]);
    const auto& y = std::get<nn::QuantizedTensor>(outputs[i]);
    const auto& [weight, bias, norm, begin, input_norm] = layer->tensors();
    const auto [quantized, call] = layer->quantized();
    std::vector<int64_t> rows(weight.dim(), 1);
    rows[0] = -1;
    Tensor w = quantized.codes.to(at::kDouble) * quantized.scale.to(at::kDouble).view(rows);
    if (!call.weight_gain.empty()) w = w / at::tensor(call.weight_gain, at::kDouble).view(rows);
    const Tensor xr = (x.codes().to(at::kDouble) - x.zero_point()) * static_cast<double>(x.scale());
    const Tensor b = bias.defined() ? bias.to(at::kDouble) : Tensor();
    Tensor v = weight.dim() == 4 ? at::conv2d(xr, w, b, layer->geometry().stride, layer->geometry().padding,
                                              layer->geometry().dilation, layer->geometry().groups)
                                 : at::linear(xr, w, b);
    if (norm) {
      v = at::batch_norm(v, norm->gamma.to(at::kDouble), norm->beta.to(at::kDouble), norm->running_mean.to(at::kDouble),
                         norm->running_var.to(at::kDouble), false, 0.1, norm->eps, false);
    }
    v = layer->activation()(v);
    const int z = y.zero_point();
    const Tensor expected = (v / static_cast<double>(y.scale())).clamp(y.range().lo - z, y.range().hi - z).round() + z;
    // The bias is a whole number of accumulator steps. At 2 bits one step can be worth m > 1 output codes, and rounding
    // the bias then moves the code by up to m / 2: a limit of int32 biases, not of the rule.
    const ops::Folded folded = autograd::fold(quantized, call, x.scale());
    const std::vector<float> m = ops::multipliers(folded.scale, x.scale(), y.scale());
    const double allowed = 1.0 + std::floor(0.5 * *std::max_element(m.begin(), m.end()));
    EXPECT_LE((y.codes().to(at::kDouble) - expected).abs().max().item<double>(), allowed);
    if (layer->weight_quantizer()->spec().bits == 8) {
      EXPECT_EQ(allowed, 1.0);
    }
  }
}

std::string describe(const VerifyResult& result) {
  std::string text;
  for (const JudgeResult& judge : result.judges) {
    for (const TensorResult& t : judge.tensors) {
      if (t.mismatches == 0) continue;
      text += fmt::format("{}: {} of {} differ by {}\n", t.name, t.mismatches, t.compared, judge.name);
    }
  }
  for (const std::string& name : result.skipped) text += "skipped " + name + "\n";
  return text;
}

class RandomNets : public testing::TestWithParam<int> {};

TEST_P(RandomNets, TrainFreezeLowerAndRunGiveTheSameCodes) {
  const int seed = GetParam();
  at::manual_seed(seed);
  test::MixedNet float_net(seed);
  disturb_batch_norm(float_net);
  const Data data;
  auto net = test::quantize(float_net, {3, kSize, kSize}, config_of(seed), data.images);

  // Calibrated only, live, and frozen: evaluation is the integer graph in every phase.
  for (int stage = 0; stage < 3; ++stage) {
    SCOPED_TRACE(stage);
    if (stage == 2) net->set_phase(nn::Phase::kFrozen);
    for (int step = 0; stage > 0 && step < 4; ++step) {
      const double loss = test::train_step(*net, data.images, data.labels, 0.01);
      ASSERT_TRUE(std::isfinite(loss));
    }
    const VerifyResult result = verify_everywhere(*net, data.source());
    EXPECT_TRUE(result.passed()) << describe(result);
    EXPECT_EQ(result.samples, 24);
    EXPECT_EQ(result.simulated.top1, result.integer.top1);
    for (const JudgeResult& judge : result.judges) EXPECT_GE(judge.tensors.size(), net->steps().size()) << judge.name;
    expect_right_codes(*net, data.images);
  }

  // After the freeze training's forward is the integer graph, bit for bit.
  net->eval();
  const at::NoGradGuard no_grad;
  const Tensor evaluated = net->forward(data.images);
  net->train();
  EXPECT_TRUE(at::equal(net->forward(data.images), evaluated));
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomNets, testing::Range(0, 24));

/// Power-of-two scales everywhere: exact ties are common, so a wrong tie rule or an off-by-one shows.
std::shared_ptr<graph::GraphModule> ties_net(test::MixedNet& float_net, const Data& data) {
  quant::QuantizationConfig config;
  auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
  net->set_phase(nn::Phase::kFrozen);
  const at::NoGradGuard no_grad;
  for (auto& item : net->named_buffers()) {
    if (item.key().ends_with("output_quantizer.scale")) item.value().copy_(item.value().log2().ceil().exp2());
    if (item.key().ends_with("running_var")) item.value().fill_(1.0 - 1e-5);
  }
  for (auto& item : net->named_parameters()) {
    Tensor p = item.value();
    if (p.dim() > 1) {
      // The largest weight of a channel is 127 steps of 2^-6.
      p.mul_(64).round_().clamp_(-127, 127).div_(64);
      p.flatten(1).select(1, 0).fill_(127.0 / 64);
    } else if (item.key().ends_with("_bn.weight")) {
      p.copy_(at::where(p < 0, at::full_like(p, -0.5), at::full_like(p, 0.25)));
    }
  }
  return net;
}

TEST(RandomNets, TiesAreRoundedAlike) {
  for (int seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    at::manual_seed(100 + seed);
    test::MixedNet float_net(seed);
    const Data data;
    auto net = ties_net(float_net, data);
    const VerifyResult result = verify_everywhere(*net, data.source());
    EXPECT_TRUE(result.passed()) << describe(result);
  }
}

TEST(RandomNets, AnInjectedErrorIsCaught) {
  at::manual_seed(5);
  test::MixedNet float_net(2);
  const Data data;
  auto net = ties_net(float_net, data);
  const integer::IntegerModel right = lower::lower(*net, {{0, 0, 0}, {1, 1, 1}});
  const auto mismatches = [&](const integer::IntegerModel& model) {
    const VerifyResult result = verify(*net, model, data.source());
    EXPECT_FALSE(result.passed());
    return result.mismatches;
  };
  int weighted = 0;
  for (size_t i = 0; i < right.nodes.size(); ++i) {
    if (right.nodes[i].weight.codes.empty()) continue;
    ++weighted;
    SCOPED_TRACE(right.nodes[i].name);
    integer::IntegerModel wrong = right;
    for (int32_t& b : wrong.nodes[i].bias) b += 1;  // one accumulator step: moves every tie
    EXPECT_GT(mismatches(wrong), 0);
    wrong = right;
    for (float& s : wrong.nodes[i].weight.scale)
      s = std::nextafter(s * (1 + 1.0f / 255), 2.0f);  // max / 127.5 for max / 127
    EXPECT_GT(mismatches(wrong), 0);
    wrong = right;
    wrong.nodes[i].weight.codes[0] += wrong.nodes[i].weight.codes[0] > 0 ? -1 : 1;
    EXPECT_GT(mismatches(wrong), 0);
    const integer::Tensor& y = right.tensors[right.nodes[i].output];
    if (y.type == integer::CodeType::kFloat32) continue;
    // Rounding down in place of to nearest: half an output step off.
    wrong = right;
    const std::vector<float> m = right.multipliers(right.nodes[i]);
    for (size_t c = 0; c < m.size(); ++c) wrong.nodes[i].bias[c] -= static_cast<int32_t>(0.5f / m[c]);
    EXPECT_GT(mismatches(wrong), 0);
  }
  EXPECT_EQ(weighted, 6);
}

TEST(RandomNets, LayersOfOnlyZerosAreExported) {
  struct Zeros : torch::nn::Module {
    torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3).bias(false)));
    torch::nn::Conv2d dead = register_module("dead", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3).bias(false)));
    torch::nn::Linear fc = register_module("fc", torch::nn::Linear(8, 5));
    Tensor forward(const Tensor& x) {
      const Tensor y = at::relu(conv(x)), zeros = at::relu(dead(x));
      const Tensor pooled = at::avg_pool2d(at::max_pool2d(zeros, 2), 2);
      return fc(at::cat({pooled.mean({2, 3}), (y + zeros).mean({2, 3})}, 1));
    }
  };
  at::manual_seed(9);
  Zeros float_net;
  {
    const at::NoGradGuard no_grad;
    float_net.dead->weight.zero_();
  }
  const Data data;
  for (const char* method : {"minmax", "lsq", "lsq_plus"}) {
    quant::QuantizationConfig config;
    config.weight.quantizer = config.activation.quantizer = method;
    const auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
    const VerifyResult result = verify_everywhere(*net, data.source());
    EXPECT_TRUE(result.passed()) << method << ": " << describe(result);
  }
}

/// The mean of opposite values is zero: the pool's range has no width where its input's has.
TEST(RandomNets, APoolOfOnlyZerosIsExported) {
  struct Balanced : torch::nn::Module {
    torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 1).bias(false)));
    torch::nn::Linear fc = register_module("fc", torch::nn::Linear(4, 5));
    Tensor forward(const Tensor& x) { return fc(conv(x).mean({2, 3})); }
  };
  at::manual_seed(9);
  Balanced float_net;
  {
    const at::NoGradGuard no_grad;
    float_net.conv->weight.fill_(0.5);  // sums of halves are exact
  }
  const Data data;
  Tensor balanced = at::ones_like(data.images);
  balanced.slice(3, 0, kSize, 2).neg_();
  for (const char* method : {"minmax", "lsq"}) {
    quant::QuantizationConfig config;
    config.weight.quantizer = config.activation.quantizer = method;
    const auto net = test::quantize(float_net, {3, kSize, kSize}, config, balanced);
    const VerifyResult result = verify_everywhere(*net, data.source());
    EXPECT_TRUE(result.passed()) << method << ": " << describe(result);
  }
}

TEST(Verify, ATensorThatWasNotComparedIsAFailure) {
  at::manual_seed(6);
  test::MixedNet float_net(0);
  const Data data;
  auto net = test::quantize(float_net, {3, kSize, kSize}, {}, data.images);
  integer::IntegerModel model = lower::lower(*net, {{0, 0, 0}, {1, 1, 1}});
  model.tensors[model.nodes[2].output].name = "renamed";
  const VerifyResult result = verify(*net, model, data.source());
  EXPECT_FALSE(result.passed());
  EXPECT_EQ(result.skipped.size(), 2u);  // the simulation's name and the file's
}

TEST(Verify, AnOutputWithPixelsIsComparedInOneOrder) {
  struct Dense : torch::nn::Module {
    torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3)));
    Tensor forward(const Tensor& x) { return conv(x); }
  };
  at::manual_seed(6);
  Dense float_net;
  const Data data;
  auto net = test::quantize(float_net, {3, kSize, kSize}, {}, data.images);
  const VerifyResult result = verify(*net, lower::lower(*net, {{0, 0, 0}, {1, 1, 1}}), data.source());
  EXPECT_TRUE(result.passed()) << describe(result);
}

TEST(Verify, WhatOnlyTrainingDropsIsNoTensorOfEvaluation) {
  struct Residual : torch::nn::Module {
    torch::nn::Conv2d stem = register_module("stem", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3).padding(1)));
    torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 3).padding(1)));
    torch::nn::Linear fc = register_module("fc", torch::nn::Linear(4, 5));
    Tensor forward(const Tensor& images) {
      const Tensor x = at::relu(stem(images));
      Tensor y = conv(x);
      if (is_training()) y = y * at::empty({y.size(0), 1, 1, 1}).bernoulli_(0.75).div_(0.75);  // stochastic depth
      return fc(at::dropout((y + x).mean({2, 3}), 0.25, is_training()));
    }
  };
  at::manual_seed(6);
  Residual float_net;
  const Data data;
  auto net = test::quantize(float_net, {3, kSize, kSize}, {}, data.images);
  for (int step = 0; step < 2; ++step)
    EXPECT_TRUE(std::isfinite(test::train_step(*net, data.images, data.labels, 0.01)));
  const VerifyResult result = verify(*net, lower::lower(*net, {{0, 0, 0}, {1, 1, 1}}), data.source());
  EXPECT_TRUE(result.passed()) << describe(result);
}

/// Two blocks of a residual network, one of them with a convolution beside it.
struct ResidualNet : torch::nn::Module {
  using Conv = torch::nn::Conv2d;
  static Conv conv(int64_t in, int64_t out, int64_t kernel) {
    return Conv(torch::nn::Conv2dOptions(in, out, kernel).padding(kernel / 2));
  }
  Conv stem = register_module("stem", conv(3, 8, 3));
  Conv conv1 = register_module("conv1", conv(8, 8, 3)), conv2 = register_module("conv2", conv(8, 8, 3));
  Conv conv3 = register_module("conv3", conv(8, 8, 3)), beside = register_module("beside", conv(8, 8, 1));
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(8, 5));

  Tensor forward(const Tensor& images) {
    const Tensor x = at::max_pool2d(at::relu(stem(images)), 2);
    const Tensor first = at::relu(conv2(at::relu(conv1(x))) + x);
    return fc(at::relu(conv3(first) + beside(first)).mean({2, 3}));
  }
};

TEST(Residual, TheStreamHasAWidthOfItsOwn) {
  at::manual_seed(3);
  ResidualNet float_net;
  const Data data;
  for (const char* method : {"minmax", "lsq"}) {
    quant::QuantizationConfig config;
    config.weight.quantizer = config.activation.quantizer = method;
    config.weight.bits = config.activation.bits = 2;
    config.residual.emplace().bits = 8;
    auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
    std::map<std::string, int> bits;
    for (const auto& step : net->steps()) {
      if (const auto& q = step.layer->output_quantizer()) bits[step.layer->label()] = q->spec().bits;
    }
    const std::map<std::string, int> expected{{"input", 8},           {"stem", 8},   {"max_pool2d.requantized", 2},
                                              {"conv1", 2},           {"conv2", 8},  {"add", 8},
                                              {"add.requantized", 2}, {"conv3", 8},  {"beside", 8},
                                              {"add_1", 8},           {"avgpool", 2}};
    EXPECT_EQ(bits, expected);
    for (int step = 0; step < 3; ++step) {
      EXPECT_TRUE(std::isfinite(test::train_step(*net, data.images, data.labels, 0.01)));
    }
    const VerifyResult result = verify_everywhere(*net, data.source());
    EXPECT_TRUE(result.passed()) << describe(result);
    EXPECT_EQ(result.judges.size(), 2U);
    // The requantized tensor holds the nearest of its own levels to the stream's values.
    std::map<std::string, nn::Value> outputs;
    net->eval();
    const at::NoGradGuard no_grad;
    net->forward(data.images, [&](const nn::QLayer& layer, const nn::Value& v) { outputs.emplace(layer.label(), v); });
    const auto& fine = std::get<autograd::QuantizedTensor>(outputs.at("add"));
    const auto& coarse = std::get<autograd::QuantizedTensor>(outputs.at("add.requantized"));
    const Tensor nearest = (fine.dequantize() / coarse.scale()).round().clamp(0, 3);
    EXPECT_TRUE(at::equal(coarse.codes().to(at::kFloat), nearest));
  }
}

TEST(Verify, AnotherNetworkIsRefused) {
  at::manual_seed(6);
  test::MixedNet float_net(0), small(0);
  const Data data;
  auto net = test::quantize(float_net, {3, kSize, kSize}, {}, data.images);
  const integer::IntegerModel other =
      lower::lower(*test::quantize(small, {3, 10, 10}, {}, at::randn({4, 3, 10, 10})), {{0, 0, 0}, {1, 1, 1}});
  EXPECT_THROW(verify(*net, other, data.source()), Error);
  net->set_phase(nn::Phase::kFloat);
  EXPECT_THROW(verify(*net, other, data.source()), Error);
}

}  // namespace
}  // namespace qat::judges
