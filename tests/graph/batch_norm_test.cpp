// Batch norm in quantization-aware training: what would have caught the defects of earlier systems, for every mode and
// layer type, on a network with negative, zero and tiny gamma, groups and a residual.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/lower/lower.h"
#include "core/simulation/simulation.h"
#include "tests/graph/batch_norm_net.h"
#include "tests/support/networks.h"

namespace qat::graph {
namespace {

using at::Tensor;
using nn::WeightedLayer;
using test::Case;
using test::cases;
using test::kBatch;
using test::kChannels;
using test::Net;

/// A fresh network and what the tests ask of it.
class Setup {
 public:
  explicit Setup(Case c) : case_(std::move(c)) {
    quantizers::register_builtin();
    at::manual_seed(11);
    net_ = std::make_shared<Net>(case_.type);
    config_.batch_norm.mode = case_.mode;
    config_.weight.granularity = case_.granularity;
    std::vector<int64_t> sizes = net_->input();
    sizes.insert(sizes.begin(), kBatch);
    images_ = at::randn(sizes);
    labels_ = at::randint(0, 5, {kBatch}, at::kLong);
  }

  std::shared_ptr<GraphModule> quantized() { return test::quantize(*net_, net_->input(), config_, images_); }

  static std::vector<WeightedLayer*> weighted(const GraphModule& net) {
    std::vector<WeightedLayer*> layers;
    for (const auto& step : net.steps()) {
      if (auto* layer = dynamic_cast<WeightedLayer*>(step.layer.get())) layers.push_back(layer);
    }
    return layers;
  }

  static std::vector<Tensor> copies(const std::vector<Tensor>& tensors) {
    std::vector<Tensor> result;
    for (const Tensor& t : tensors) result.push_back(t.detach().clone());
    return result;
  }

  static std::map<std::string, Tensor> codes(GraphModule& net, const Tensor& x) {
    std::map<std::string, Tensor> result;
    net.forward(x, [&](const nn::QLayer& layer, const nn::Value& value) {
      const auto* q = std::get_if<nn::QuantizedTensor>(&value);
      result[layer.label()] = q != nullptr ? q->codes().clone() : nn::to_float(value).detach().clone();
    });
    return result;
  }

  bool lowers() const {
    return case_.mode != "none" && (case_.type == "conv2d" || case_.type == "conv_transpose2d" ||
                                    case_.type == "depthwise" || case_.type == "linear");
  }

 protected:
  Case case_;
  std::shared_ptr<Net> net_;
  quant::QuantizationConfig config_;
  Tensor images_, labels_;
};

/// One test that runs for all cases: a program that loads LibTorch for each of them would take minutes.
#define EVERY_CASE(name)                       \
  struct name : Setup {                        \
    using Setup::Setup;                        \
    void check();                              \
  };                                           \
  TEST(QuantizedBatchNorm, name) {             \
    for (const Case& c : cases()) {            \
      SCOPED_TRACE(testing::PrintToString(c)); \
      name(c).check();                         \
    }                                          \
  }                                            \
  void name::check()

EVERY_CASE(A_EveryLatentWeightHasAGradientAndMoves) {
  const auto net = quantized();
  for (const nn::Phase phase : {nn::Phase::kLive, nn::Phase::kFrozen}) {
    net->set_phase(phase);
    std::vector<Tensor> before;
    for (const WeightedLayer* layer : weighted(*net)) before.push_back(layer->tensors().weight.detach().clone());
    test::train_step(*net, images_, labels_, 0.1);
    size_t i = 0;
    for (const WeightedLayer* layer : weighted(*net)) {
      SCOPED_TRACE(layer->label());
      const Tensor& weight = layer->tensors().weight;
      ASSERT_TRUE(weight.grad().defined());
      EXPECT_TRUE(weight.grad().isfinite().all().item<bool>());
      EXPECT_GT(weight.grad().abs().sum().item<double>(), 0.0);
      EXPECT_FALSE(at::equal(weight, before[i++]));
    }
  }
}

EVERY_CASE(B_EvaluationChangesNothing) {
  const auto net = quantized();
  const auto state = [&] {
    std::vector<Tensor> all = net->parameters();
    for (const Tensor& b : net->buffers()) all.push_back(b);
    return all;
  };
  const std::vector<Tensor> before = copies(state());
  net->eval();
  for (int i = 0; i < 3; ++i) net->forward(images_);
  size_t i = 0;
  for (const Tensor& t : state()) EXPECT_TRUE(at::equal(t, before[i++]));
}

EVERY_CASE(C_RunningStatisticsAreThoseOfTheFloatNetwork) {
  const auto initial = copies(net_->buffers());
  const auto restore = [&] {
    const at::NoGradGuard no_grad;
    size_t i = 0;
    for (Tensor& b : net_->buffers()) b.copy_(initial[i++]);
  };
  net_->train();
  for (int step = 0; step < 3; ++step) net_->forward(images_ + step);
  const auto expected = copies(net_->buffers());
  restore();
  GraphModule replay(test::trace_canonical(*net_, net_->input(), config_), *net_);
  replay.train();
  for (int step = 0; step < 3; ++step) replay.forward(images_ + step);
  size_t i = 0;
  for (const Tensor& b : net_->buffers()) EXPECT_TRUE(at::equal(b, expected[i++]));
  restore();

  // Quantized: those of a batch norm in double on what the quantized convolutions give.
  const auto net = quantized();
  const auto unfused = copies(net_->buffers());
  if (case_.mode == "folded") {  // nothing is left to follow
    test::train_step(*net, images_, labels_, 0.0);
    i = 0;
    for (const Tensor& b : net_->buffers()) EXPECT_TRUE(at::equal(b, unfused[i++]));
    return;
  }
  std::set<std::string> checked;
  std::map<std::string, nn::Value> outputs;
  std::map<std::string, std::pair<autograd::QuantizedWeight, autograd::ConvCall>> layers;
  net->train();
  for (const WeightedLayer* layer : weighted(*net)) {
    if (layer->tensors().batch_norm) layers[layer->label()] = layer->quantized();
  }
  net->forward(images_,
               [&](const nn::QLayer& layer, const nn::Value& value) { outputs.emplace(layer.label(), value); });
  for (size_t s = 0; s < net->steps().size(); ++s) {
    const auto& step = net->steps()[s];
    const auto* layer = dynamic_cast<const WeightedLayer*>(step.layer.get());
    Tensor y;
    const autograd::BatchNorm* norm = nullptr;
    if (layer != nullptr && layers.count(layer->label()) != 0) {
      const auto& [weight, call] = layers[layer->label()];
      const auto& x = std::get<nn::QuantizedTensor>(outputs.at(net->steps()[step.inputs[0]].layer->label()));
      const Tensor xr = (x.codes().to(at::kDouble) - x.zero_point()) * static_cast<double>(x.scale());
      std::vector<int64_t> rows(static_cast<size_t>(weight.codes.dim()), 1);
      rows[0] = -1;
      Tensor w = weight.codes.to(at::kDouble) * weight.scale.to(at::kDouble).view(rows);
      if (!call.weight_gain.empty()) w = w / at::tensor(call.weight_gain, at::kDouble).view(rows);
      const Tensor b = layer->tensors().bias.defined() ? layer->tensors().bias.to(at::kDouble) : Tensor();
      const auto& g = layer->geometry();
      if (layer->is_linear()) {
        y = at::linear(xr, w, b);
      } else {
        const std::vector<int64_t> zero(g.stride.size(), 0);
        y = at::convolution(xr, g.transposed ? autograd::output_first(w, g.groups) : w, b, g.stride, g.padding,
                            g.dilation, g.transposed, zero, g.groups);
      }
      norm = &*layer->tensors().batch_norm;
    } else if (step.layer->type() == "batch_norm") {
      y = nn::to_float(outputs.at(net->steps()[step.inputs[0]].layer->label())).to(at::kDouble);
    } else {
      continue;
    }
    // The buffers of this batch norm, by the order of layers.
    const std::string index = norm != nullptr ? layer->label().substr(5) : step.layer->label().substr(2);
    const Tensor mean = net_->named_buffers()["bn" + index + ".running_mean"];
    const Tensor var = net_->named_buffers()["bn" + index + ".running_var"];
    const size_t at = 2 * static_cast<size_t>(std::stoi(index));
    Tensor expected_mean = unfused[at].to(at::kDouble), expected_var = unfused[at + 1].to(at::kDouble);
    at::batch_norm(y.detach(), Tensor(), Tensor(), expected_mean, expected_var, true, 0.1, 1e-5, false);
    EXPECT_TRUE(at::allclose(mean.to(at::kDouble), expected_mean, 1e-5, 1e-5)) << index;
    EXPECT_TRUE(at::allclose(var.to(at::kDouble), expected_var, 1e-5, 1e-5)) << index;
    checked.insert(index);
  }
  EXPECT_EQ(checked.size(), 3u);
}

EVERY_CASE(D_FusedParametersAreTheOptimizers) {
  const auto net = quantized();
  const auto contains = [&](const Tensor& tensor) {
    const auto parameters = net->parameters();
    return std::any_of(parameters.begin(), parameters.end(), [&](const Tensor& p) { return p.is_same(tensor); });
  };
  for (const Tensor& p : net_->parameters()) EXPECT_TRUE(contains(p));
  int norms = 0;
  for (const WeightedLayer* layer : weighted(*net)) {
    EXPECT_TRUE(contains(layer->tensors().weight)) << layer->label();
    if (!layer->tensors().batch_norm) continue;
    EXPECT_TRUE(contains(layer->tensors().batch_norm->gamma));
    EXPECT_TRUE(contains(layer->tensors().batch_norm->beta));
    ++norms;
  }
  EXPECT_EQ(norms, case_.mode == "none" ? 0 : 3);
}

EVERY_CASE(E_BeforeQuantizationStartsItIsTheFloatNetwork) {
  net_->eval();
  const Tensor expected = net_->forward(images_);
  GraphModule net(test::trace_canonical(*net_, net_->input(), config_), *net_);
  insert_quantizers(net, config_);
  net.eval();
  EXPECT_TRUE(at::equal(net.forward(images_), expected));
}

EVERY_CASE(F_ZerosStayZerosAndFinite) {
  {
    const at::NoGradGuard no_grad;
    net_->named_parameters()["layer1.weight"].zero_();
  }
  const auto net = quantized();
  for (const WeightedLayer* layer : weighted(*net)) {
    if (layer->label() == "layer1") {
      EXPECT_EQ(layer->quantized().first.codes.abs().max().item<int>(), 0);
    }
  }
  for (const bool training : {true, false}) {
    net->train(training);
    const Tensor y = net->forward(at::zeros_like(images_));
    EXPECT_TRUE(y.isfinite().all().item<bool>());
    if (training) y.sum().backward();
  }
  for (const Tensor& p : net->parameters()) {
    if (p.grad().defined()) {
      EXPECT_TRUE(p.grad().isfinite().all().item<bool>());
    }
  }
  for (const Tensor& b : net->buffers()) EXPECT_TRUE(b.to(at::kDouble).isfinite().all().item<bool>());
}

EVERY_CASE(G_QuantizingTwiceIsQuantizingOnce) {
  const auto net = quantized();
  net->eval();
  for (const auto& step : net->steps()) {
    SCOPED_TRACE(step.layer->label());
    if (const auto& q = step.layer->weight_quantizer()) {
      const auto* layer = dynamic_cast<const WeightedLayer*>(step.layer.get());
      const Tensor once = autograd::dequantize(layer->quantized().first).detach();
      EXPECT_TRUE(at::equal(q->forward(once).detach(), once));
    }
    if (const auto& q = step.layer->output_quantizer()) {
      const Tensor once = q->forward(at::randn({4, 30}) * 3).detach();
      EXPECT_TRUE(at::equal(q->forward(once).detach(), once));
    }
  }
}

EVERY_CASE(H_ExportedIntegersTimesTheirScaleAreTheWeightsInUse) {
  const auto net = quantized();
  test::train_step(*net, images_, labels_, 0.05);
  if (!lowers()) {
    EXPECT_THROW(lower::lower(*net, {}), ExportError);
    return;
  }
  net->eval();
  const integer::IntegerModel model = lower::lower(*net, {});
  int checked = 0;
  for (const integer::Node& node : model.nodes) {
    for (const WeightedLayer* layer : weighted(*net)) {
      if (layer->label() != node.name) continue;
      // Independently: gamma / sigma * W, to half a step of the exported scale (one where the floor rescaled codes).
      const auto& norm = layer->tensors().batch_norm;
      Tensor w = layer->tensors().weight.detach().to(at::kDouble);
      const nn::ConvGeometry& g = layer->geometry();
      if (g.transposed) w = autograd::output_first(w, g.groups).flip({2, 3});  // read as an ordinary convolution
      Tensor k = at::ones({w.size(0)}, at::kDouble);
      if (norm) k = norm->gamma.detach().to(at::kDouble) / (norm->running_var.to(at::kDouble) + norm->eps).sqrt();
      const Tensor wanted =
          (w * k.view(w.dim() == 4 ? std::vector<int64_t>{-1, 1, 1, 1} : std::vector<int64_t>{-1, 1})).flatten();
      const int64_t depth = w.numel() / w.size(0);
      for (int64_t i = 0; i < w.numel(); ++i) {
        const double s = node.weight.scale[static_cast<size_t>(node.weight.scale.size() == 1 ? 0 : i / depth)];
        const double exported = node.weight.codes[static_cast<size_t>(i)] * s;
        ASSERT_NEAR(exported, wanted[i].item<double>(), s * 1.001) << node.name << " " << i;
      }
      ++checked;
    }
  }
  EXPECT_EQ(checked, 4);
}

EVERY_CASE(I_ForwardAndBackwardRoundTiesAlike) {
  config_.weight.quantizer = config_.activation.quantizer = "lsq";
  const auto net = quantized();
  for (const WeightedLayer* layer : weighted(*net)) {
    quant::Quantizer& q = *layer->weight_quantizer();
    const Tensor scale = q.qparams().scale;
    {
      const at::NoGradGuard no_grad;
      q.qparams().scale.fill_(0.5f);
    }
    std::vector<int64_t> sizes{layer->out_channels(), 4};
    // t = 0.5, 1.5, 2.5, -0.5: half to even gives 0, 2, 2, 0, and t' = code - t is -0.5, 0.5, -0.5, 0.5.
    const Tensor w = at::tensor({0.25f, 0.75f, 1.25f, -0.25f}).expand(sizes).contiguous().set_requires_grad(true);
    const Tensor y = q.forward(w);
    EXPECT_TRUE(at::equal(y[0].detach(), at::tensor({0.0f, 1.0f, 1.0f, 0.0f})));
    scale.mutable_grad() = Tensor();
    (y * at::tensor({1.0f, 2.0f, 4.0f, 8.0f})).sum().backward();
    const double per_scale = static_cast<double>(w.numel() / scale.numel());
    const double sum = (-0.5 + 1.0 - 2.0 + 4.0) * per_scale / 4;
    const double g = 1.0 / std::sqrt(per_scale * q.spec().positive_levels());
    EXPECT_NEAR(scale.grad()[0].item<double>(), sum * g, 1e-5) << layer->label();
  }
}

EVERY_CASE(J_LaterRulesWinAndExclusionStays) {
  const auto rule = [](const char* text) { return config::load_text(text, "rules", {}).root(); };
  config_.weight.bits = 4;
  config_.rules = {rule("{match: {name: 'layer*'}, weight: {bits: 5}}"),
                   rule("{match: {name: layer1}, weight: {bits: 3}}"), rule("{match: {name: layer2}, exclude: true}"),
                   rule("{match: {name: '*'}, activation: {bits: 6}}")};
  const auto net = quantized();
  const std::map<std::string, int> bits{{"layer0", 5}, {"layer1", 3}, {"head", 4}};
  for (const WeightedLayer* layer : weighted(*net)) {
    if (layer->label() == "layer2") {
      EXPECT_TRUE(layer->excluded());
      EXPECT_EQ(layer->weight_quantizer(), nullptr);
      continue;
    }
    EXPECT_EQ(layer->weight_quantizer()->spec().bits, bits.at(layer->label())) << layer->label();
    if (layer->output_quantizer()) {
      EXPECT_EQ(layer->output_quantizer()->spec().bits, 6);
    }
  }
}

EVERY_CASE(AfterTheFreezeTrainingEvaluationAndEngineAgree) {
  const auto net = quantized();
  for (int step = 0; step < 3; ++step) test::train_step(*net, images_, labels_, 0.05);
  net->set_phase(nn::Phase::kFrozen);
  test::train_step(*net, images_, labels_, 0.05);
  net->train();
  const auto trained = codes(*net, images_);
  net->eval();
  const auto evaluated = codes(*net, images_);
  for (const auto& [name, values] : trained) EXPECT_TRUE(at::equal(values, evaluated.at(name))) << name;
  if (!lowers()) return;
  if (case_.type == "linear") {  // verify() runs images
    EXPECT_NO_THROW(lower::lower(*net, {}));
    return;
  }
  const Tensor nhwc = images_.permute({0, 2, 3, 1}).contiguous();
  bool done = false;
  const auto result = simulation::verify(*net, lower::lower(*net, {}), [&](judges::VerifyBatch& batch) {
    if (done) return false;
    done = true;
    batch = {kBatch, nhwc.const_data_ptr<float>(), labels_.const_data_ptr<int64_t>()};
    return true;
  });
  EXPECT_TRUE(result.passed());
  EXPECT_EQ(result.mismatches, 0);
  EXPECT_GT(result.compared, 0);
}

TEST(Reestimation, StatisticsBecomeTheMeansOverBatches) {
  at::manual_seed(2);
  Net net("conv2d");
  quant::QuantizationConfig config;
  const Tensor images = at::randn({12, 4, 6, 5});
  const auto quantized = test::quantize(net, net.input(), config, images);
  std::vector<Tensor> parameters;
  for (const Tensor& p : quantized->parameters()) parameters.push_back(p.detach().clone());
  int given = 0;
  quantized->reestimate_batch_norm([&] { return given == 3 ? Tensor() : images.narrow(0, 4 * given++, 4); });
  // The first layer's input does not depend on any statistics: its own are plain means over the three batches.
  const auto* layer = dynamic_cast<const WeightedLayer*>(quantized->steps()[1].layer.get());
  ASSERT_EQ(layer->label(), "layer0");
  const auto& q = *quantized->steps()[0].layer->output_quantizer();
  const Tensor w = autograd::dequantize(layer->quantized().first).detach().to(at::kDouble);
  Tensor mean = at::zeros({kChannels}, at::kDouble), var = at::zeros({kChannels}, at::kDouble);
  for (int i = 0; i < 3; ++i) {
    const double s = q.qparams().scale.item<float>();
    const int z = q.qparams().zero_point.item<int>();
    const Tensor x = ((images.narrow(0, 4 * i, 4).to(at::kDouble) / s).round() + z).clamp(0, 255) * s - z * s;
    const Tensor y = at::conv2d(x, w, layer->tensors().bias.to(at::kDouble), {1, 1}, at::IntArrayRef{1, 1})
                         .transpose(0, 1)
                         .flatten(1);
    mean += y.mean(1) / 3;
    var += y.var(1, true) / 3;
  }
  EXPECT_TRUE(at::allclose(net.named_buffers()["bn0.running_mean"].to(at::kDouble), mean, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(net.named_buffers()["bn0.running_var"].to(at::kDouble), var, 1e-5, 1e-5));
  size_t i = 0;
  for (const Tensor& p : quantized->parameters()) EXPECT_TRUE(at::equal(p, parameters[i++]));
  // A source that fails leaves nothing behind: evaluation changes no statistics.
  EXPECT_THROW(quantized->reestimate_batch_norm([]() -> Tensor { throw Error("no data"); }), Error);
  const Tensor kept = net.named_buffers()["bn1.running_mean"].clone();
  quantized->eval();
  quantized->forward(images);
  EXPECT_TRUE(at::equal(net.named_buffers()["bn1.running_mean"], kept));
}

}  // namespace
}  // namespace qat::graph
