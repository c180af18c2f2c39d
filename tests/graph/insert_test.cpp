// Who owns which quantizer, and what rules do (DESIGN section 4).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/nn/weighted.h"
#include "models/model.h"
#include "tests/support/networks.h"

namespace qat::graph {
namespace {

using testing::HasSubstr;

struct Resnet {
  models::Model model;
  std::shared_ptr<GraphModule> net;
  InsertReport report;

  explicit Resnet(const std::string& yaml) {
    quantizers::register_builtin();
    const auto options = config::load_text("{in_channels: 1, width: 4}", "model", {});
    model = models::registry().get("resnet20")(options.root());
    Graph graph = trace(*model.module, model.forward, {1, 28, 28});
    canonicalize(graph);
    net = std::make_shared<GraphModule>(graph, *model.module);
    report = insert_quantizers(*net, config::load_text(yaml, "test.yaml", {}).root().as<quant::QuantizationConfig>());
  }

  const nn::QLayer& layer(const std::string& name) const {
    for (const auto& step : net->steps()) {
      if (step.layer->label() == name) return *step.layer;
    }
    throw Error("no layer " + name);
  }
  int output_bits(const std::string& name) const { return layer(name).output_quantizer()->spec().bits; }
  int weight_bits(const std::string& name) const { return layer(name).weight_quantizer()->spec().bits; }
};

std::string refusal(const std::string& yaml) {
  try {
    Resnet net(yaml);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Insert, EveryEdgeHasOneOwner) {
  const Resnet r("{weight: {quantizer: lsq, bits: 4}, activation: {quantizer: lsq, bits: 4}}");
  EXPECT_EQ(r.output_bits("input"), 8);  // network inputs
  EXPECT_EQ(r.output_bits("conv1"), 4);
  EXPECT_FALSE(r.layer("conv1").output_quantizer()->spec().is_signed);  // behind a ReLU
  EXPECT_TRUE(r.layer("layer1.0.conv2").output_quantizer()->spec().is_signed);
  EXPECT_FALSE(r.layer("add").output_quantizer()->spec().is_signed);
  EXPECT_EQ(r.layer("flatten").output_quantizer(), nullptr);  // passes the pool's on
  EXPECT_EQ(r.layer("fc").output_quantizer(), nullptr);       // float logits
  EXPECT_EQ(r.weight_bits("fc"), 4);
  EXPECT_EQ(r.report.quantized_layers, 21 + 9 + 1 + 1);
  EXPECT_TRUE(r.report.float_layers.empty());
  // 19 convolutions of the stem and the blocks, 2 of shortcuts, fc; 9 adds' and 1 pool's output beside convolutions'.
  EXPECT_THAT(r.report.totals,
              testing::ElementsAre("22 weights: lsq 4 bits per channel", testing::_, testing::_, testing::_));
}

TEST(Insert, LastAtEightBitsMeansWeightAndInput) {
  const Resnet r(
      "{weight: {bits: 4}, activation: {bits: 4}, rules: ["
      "{match: {position: first}, weight: {bits: 8}}, {match: {position: last}, weight: {bits: 8}, input: {bits: 8}}, "
      "{match: {name: 'layer3.*.conv2'}, weight: {bits: 2}}, {match: {name: '/layer2.0/', type: conv2d}, weight: "
      "{bits: 3}}]}");
  EXPECT_EQ(r.weight_bits("conv1"), 8);
  EXPECT_EQ(r.weight_bits("fc"), 8);
  EXPECT_EQ(r.output_bits("avgpool"), 8);  // fc's input, through flatten
  EXPECT_EQ(r.weight_bits("layer3.1.conv2"), 2);
  EXPECT_EQ(r.weight_bits("layer3.1.conv1"), 4);
  EXPECT_EQ(r.weight_bits("layer2.0.downsample.0"), 3);
  EXPECT_EQ(r.weight_bits("layer2.1.conv1"), 4);
}

TEST(Insert, ARuleForAllLayersLeavesTheInputAlone) {
  const Resnet r("{rules: [{match: {name: '*'}, activation: {bits: 4}}]}");
  EXPECT_EQ(r.output_bits("input"), 8);
  EXPECT_EQ(r.output_bits("conv1"), 4);
}

TEST(Insert, TheLastMatchWinsPerKey) {
  const Resnet r(
      "{rules: [{match: {type: conv2d}, weight: {bits: 4, quantizer: lsq}}, {match: {name: conv1}, weight: {bits: "
      "6}}]}");
  EXPECT_EQ(r.weight_bits("conv1"), 6);
  EXPECT_EQ(r.layer("conv1").weight_quantizer()->method(), "lsq");
  EXPECT_EQ(r.weight_bits("layer1.0.conv1"), 4);
}

TEST(Insert, AnExcludedLayerIsAnIslandOfFloats) {
  const Resnet r("{rules: [{match: {name: layer1.1.conv1}, exclude: true}]}");
  EXPECT_EQ(r.layer("layer1.1.conv1").weight_quantizer(), nullptr);
  ASSERT_NE(r.layer("layer1.1.conv1").output_quantizer(), nullptr);  // its reader computes on codes
  EXPECT_THAT(r.report.float_layers, testing::ElementsAre("layer1.1.conv1"));
  EXPECT_THAT(r.report.float_reasons, testing::ElementsAre("a rule excludes it"));
  const Resnet last("{rules: [{match: {type: linear}, exclude: true}]}");
  EXPECT_EQ(last.layer("fc").output_quantizer(), nullptr);
}

struct SumOfFloats : torch::nn::Module {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 3, 3)));
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor a = at::sigmoid(x);
    return conv(a + x);
  }
};

TEST(Insert, AnExcludedAddIsComputedInFloat) {
  at::manual_seed(6);
  SumOfFloats net;
  const auto config =
      config::load_text("{rules: [{match: {type: add}, exclude: true}, {match: {type: sigmoid}, exclude: true}]}",
                        "test", {})
          .root()
          .as<quant::QuantizationConfig>();
  const at::Tensor x = at::rand({2, 2, 5, 5});
  const auto module = test::quantize(net, {2, 5, 5}, config, x);
  module->eval();
  std::vector<uint8_t> found;
  const nn::QLayer* add = nullptr;
  module->forward(x, [&](const nn::QLayer& layer, const nn::Value& value) {
    if (layer.type() != "add") return;
    add = &layer;
    const at::Tensor& codes = std::get<nn::QuantizedTensor>(value).codes();
    found.assign(codes.const_data_ptr<uint8_t>(), codes.const_data_ptr<uint8_t>() + codes.numel());
  });
  ASSERT_NE(add, nullptr);
  const auto expected = autograd::encode(at::sigmoid(x) + x, add->output_quantizer()->output(false));
  const uint8_t* data = expected.codes().const_data_ptr<uint8_t>();
  EXPECT_EQ(found, std::vector<uint8_t>(data, data + expected.codes().numel()));
}

TEST(Insert, AKeyThatNoRuleSetsKeepsItsDefault) {
  const Resnet r(
      "{activation: {bits: 4}, rules: [{match: {name: conv1}, input: {quantizer: lsq}}, {match: {name: "
      "layer1.0.conv1}, "
      "activation: {bits: 5}}, {match: {name: layer1.0.conv2}, input: {quantizer: lsq}}]}");
  EXPECT_EQ(r.output_bits("input"), 8);
  EXPECT_EQ(r.layer("input").output_quantizer()->method(), "lsq");
  EXPECT_EQ(r.output_bits("layer1.0.conv1"), 5);
  EXPECT_EQ(r.layer("layer1.0.conv1").output_quantizer()->method(), "lsq");
}

TEST(Insert, ALaterRuleCanTakeAnExclusionBack) {
  const Resnet r("{rules: [{match: {type: conv2d}, exclude: true}, {match: {name: conv1}, exclude: false}]}");
  EXPECT_NE(r.layer("conv1").weight_quantizer(), nullptr);
  EXPECT_EQ(r.layer("layer1.0.conv1").weight_quantizer(), nullptr);
}

TEST(Insert, LogitsCanBeQuantized) { EXPECT_EQ(Resnet("{logits: 8}").output_bits("fc"), 8); }

TEST(Insert, Refusals) {
  EXPECT_THAT(refusal("{rules: [{match: {name: conv9}, exclude: true}]}"),
              testing::AllOf(HasSubstr("test.yaml:1:"), HasSubstr("matches no layer"), HasSubstr("layer1.0.conv1")));
  EXPECT_THAT(refusal("{rules: [{match: {name: conv1}, activation: {bits: 4}}, {match: {name: layer1.0.conv1}, input: "
                      "{bits: 8}}]}"),
              testing::AllOf(HasSubstr("conv1's activation"), HasSubstr("layer1.0.conv1's input"),
                             HasSubstr("one tensor has one")));
  EXPECT_THAT(refusal("{weight: {bits: 17}}"), HasSubstr("test.yaml:1:17: weight.bits"));
  EXPECT_THAT(refusal("{rules: [{match: {name: conv1}, weight: {quantizer: lsg}}]}"), HasSubstr("did you mean 'lsq'"));
  EXPECT_THAT(refusal("{weight: {quantizer: lsg}}"), HasSubstr("did you mean 'lsq'"));
  EXPECT_THAT(refusal("{rules: [{match: {name: '/(/'}, exclude: true}]}"), HasSubstr("not a regular expression"));
}

TEST(GraphModule, ParametersKeepTheirNamesAndIdentity) {
  const Resnet r("{weight: {quantizer: lsq, bits: 4}}");
  const auto parameters = r.net->named_parameters();
  for (const auto& item : r.model.module->named_parameters()) {
    ASSERT_NE(parameters.find(item.key()), nullptr) << item.key();
    EXPECT_TRUE(parameters[item.key()].is_same(item.value())) << item.key();
  }
  EXPECT_NE(parameters.find("layer1.0.conv1.weight_quantizer.scale"), nullptr);
  EXPECT_NE(r.net->named_buffers().find("add.output_quantizer.scale"), nullptr);
}

TEST(Insert, KeysOfEachTensorKind) {
  const Resnet r(
      "{weight: {bits: 4, granularity: group, groups: 2, narrow_range: true}, activation: {scheme: symmetric}, "
      "rules: [{match: {type: linear}, weight: {granularity: tensor}}, "
      "{match: {name: layer1.0.conv2}, activation: {dtype: uint, bits: 6}}]}");
  const quant::QuantSpec weight = r.layer("conv1").weight_quantizer()->spec();
  EXPECT_EQ(weight.granularity, quant::Granularity::kGroup);
  EXPECT_EQ(weight.scales(), 2);
  EXPECT_EQ(weight.lo(), -7);
  EXPECT_EQ(r.layer("fc").weight_quantizer()->spec().scales(), 1);
  EXPECT_TRUE(r.layer("layer1.1.conv2").output_quantizer()->spec().is_signed);
  EXPECT_FALSE(r.layer("layer1.1.conv2").output_quantizer()->spec().affine);
  EXPECT_FALSE(r.layer("layer1.0.conv2").output_quantizer()->spec().is_signed) << "negative values are clipped";
  EXPECT_EQ(r.output_bits("layer1.0.conv2"), 6);
  EXPECT_THAT(refusal("{rules: [{match: {name: conv1}, activation: {dtype: int}}]}"),
              AllOf(HasSubstr("test.yaml:1:"), HasSubstr("conv1 is never negative")));
  EXPECT_THAT(refusal("{rules: [{match: {name: conv1}, weight: {scheme: affine}}]}"),
              AllOf(HasSubstr("test.yaml:1:"), HasSubstr("conv1's weight: weights are symmetric")));
  EXPECT_THAT(refusal("{weight: {granularity: group, groups: 3}}"), HasSubstr("3 groups do not divide 4"));
}

TEST(Insert, ReducedRanges) {
  const Resnet r(
      "{weight: {quantizer: lsq, reduce_range: true}, rules: [{match: {position: last}, weight: {reduce_range: "
      "false}}, "
      "{match: {name: layer1.*}, weight: {bits: 4}}]}");
  const auto range = [&](const char* layer) {
    const quant::QuantSpec& spec = r.layer(layer).weight_quantizer()->spec();
    return std::pair(spec.lo(), spec.hi());
  };
  EXPECT_EQ(range("conv1"), std::pair(-64, 64));
  EXPECT_EQ(range("fc"), std::pair(-127, 127));
  EXPECT_EQ(range("layer1.0.conv1"), std::pair(-8, 7)) << "small anyhow";

  EXPECT_THAT(refusal("{weight: {bits: 4, reduce_range: true}}"),
              HasSubstr("test.yaml:1:10: weight: reduce_range is for weights of 8 bits"));
  EXPECT_THAT(refusal("{rules: [{match: {name: conv1}, weight: {bits: 9, reduce_range: true}}]}"),
              HasSubstr("test.yaml:1:41: rules[0].weight: reduce_range is for weights of 8 bits"));
  for (const char* kind : {"activation", "residual", "bias"}) {
    EXPECT_THAT(refusal(fmt::format("{{{}: {{reduce_range: true}}}}", kind)),
                HasSubstr(fmt::format("test.yaml:1:1: {}.reduce_range: this key is for weights", kind)));
  }
  for (const char* kind : {"activation", "input", "bias"}) {
    EXPECT_THAT(refusal(fmt::format("{{rules: [{{match: {{name: conv1}}, {}: {{reduce_range: true}}}}]}}", kind)),
                HasSubstr(fmt::format("test.yaml:1:10: rules[0]: {}.reduce_range: this key is for weights", kind)));
  }
  // What the layers cannot do: at the place of the defaults or of the rule.
  EXPECT_THAT(refusal("{weight: {quantizer: gfpq, reduce_range: true}}"),
              HasSubstr("test.yaml:1:10: conv1's weight: reduce_range: the levels of gfpq do not follow"));
  EXPECT_THAT(refusal("{weight: {reduce_range: true}, rules: [{match: {type: linear}, weight: {quantizer: dorefa}}]}"),
              HasSubstr("test.yaml:1:40: fc's weight: reduce_range: the levels of dorefa do not follow"));
  EXPECT_THAT(refusal("{weight: {reduce_range: true}, rules: [{match: {type: linear}, weight: {bits: 9}}]}"),
              HasSubstr("test.yaml:1:40: fc's weight: reduce_range is for codes of 8 bits, those of minmax with 9 bits "
                        "have 9"));
  EXPECT_THAT(
      refusal("{weight: {reduce_range: true}, rules: [{match: {type: linear}, weight: {quantizer: dorefa, bits: "
              "7}}]}"),
      HasSubstr("those of dorefa with 7 bits have 8"));
}

TEST(Insert, OptionsBelongToTheirMethod) {
  // Another method in a rule drops the defaults' options; a method of one width needs no bits.
  const Resnet r(
      "{activation: {quantizer: pact, bits: 4, options: {alpha: 2}}, rules: [{match: {name: layer1.*}, activation: "
      "{quantizer: lsq}}, {match: {name: layer2.0.conv1}, weight: {quantizer: xnor}}]}");
  EXPECT_EQ(r.layer("conv1").output_quantizer()->named_parameters()["alpha"].item<float>(), 2.0f);
  EXPECT_EQ(r.layer("layer1.0.conv1").output_quantizer()->method(), "lsq");
  EXPECT_EQ(r.weight_bits("layer2.0.conv1"), 1);
  EXPECT_THAT(refusal("{weight: {quantizer: lsq, bits: 4, options: {alfa: 1}}}"),
              AllOf(HasSubstr("test.yaml:1:"), HasSubstr("alfa: unknown key")));
  EXPECT_THAT(refusal("{activation: {quantizer: pact, options: {alpha: -1}}}"), HasSubstr("options.alpha"));
  EXPECT_THAT(refusal("{weight: {quantizer: pact}}"), HasSubstr("pact quantizes activations only"));
  EXPECT_THAT(refusal("{weight: {quantizer: xnor, bits: 4}}"), HasSubstr("xnor takes 1 to 1 bits, found 4"));
}

TEST(Insert, LevelsThatAreNoCodesMakeLayersComputeInFloat) {
  const Resnet r(
      "{rules: [{match: {name: layer1.0.conv1}, activation: {quantizer: gfpq}}, {match: {name: layer3.0.conv1}, "
      "weight: {bits: 12}}]}");
  EXPECT_THAT(r.layer("layer1.0.conv1").values_reason(), HasSubstr("output: the levels of gfpq"));
  EXPECT_THAT(r.layer("layer1.0.conv2").values_reason(), HasSubstr("input: the levels of gfpq"));
  EXPECT_THAT(r.layer("layer3.0.conv1").values_reason(), HasSubstr("weight: minmax with 12 bits"));
  EXPECT_EQ(r.layer("layer1.1.conv1").values_reason(), "");
}

struct HardtanhNet : torch::nn::Module {
  explicit HardtanhNet(double limit) : limit(limit) {}
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3)));
  torch::nn::Conv2d next = register_module("next", torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 3)));
  at::Tensor forward(const at::Tensor& x) { return next(at::hardtanh(conv(x), -limit, limit)).mean({2, 3}); }
  double limit;
};

TEST(Insert, SignsAreTheSameBehindAClipAroundThem) {
  const auto quantized = [](double limit) {
    HardtanhNet float_net(limit);
    quant::QuantizationConfig config;
    config.rules.push_back(config::load_text("{match: {name: conv}, activation: {quantizer: bnn}}", "r", {}).root());
    return test::quantize(float_net, {3, 8, 8}, config, at::randn({2, 3, 8, 8}));
  };
  at::manual_seed(2);
  const auto net = quantized(1);
  const at::Tensor x = at::randn({2, 3, 8, 8});
  net->eval();
  net->forward(x, [](const nn::QLayer& layer, const nn::Value& value) {
    if (layer.label() != "conv") return;
    EXPECT_TRUE(nn::to_float(value).abs().eq(1).all().item<bool>());
  });
  try {
    quantized(0.5);
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("the range of bnn cannot take the place of clip(-0.5, 0.5)"));
  }
}

}  // namespace
}  // namespace qat::graph
