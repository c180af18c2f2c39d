#include "core/lower/lower.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/support/networks.h"

namespace qat::lower {
namespace {

struct Small : torch::nn::Module {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 2, {1, 2})));
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(6, 2));
  bool with_tanh = false;
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor y = at::relu(conv(x));
    if (with_tanh) y = at::tanh(y);
    return fc(y.flatten(1));
  }
};

std::shared_ptr<graph::GraphModule> quantized(Small& net, const at::Tensor& x) {
  return test::quantize(net, {1, 1, 4}, {}, x);
}

TEST(Lower, NumbersByHand) {
  Small net;
  const at::NoGradGuard no_grad;
  net.conv->weight.copy_(at::tensor({1.27f, -0.5f, 0.0f, 2.54f}).view({2, 1, 1, 2}));
  net.conv->bias.copy_(at::tensor({0.25f, -1.0f}));
  net.fc->weight.copy_(at::full({2, 6}, 0.5f));
  net.fc->bias.zero_();
  // Input range [0, 2.55]: affine with z = 0, s = 0.01.
  const auto module = quantized(net, at::tensor({0.0f, 2.55f, 1.0f, 0.5f}).view({1, 1, 1, 4}));
  const integer::IntegerModel model = lower(*module, {{0.5f}, {0.25f}});

  ASSERT_EQ(model.nodes.size(), 4u);
  EXPECT_EQ(model.tensors[model.inputs[0]].name, "input");
  EXPECT_EQ(model.preprocessing.mean, std::vector<float>{0.5f});
  EXPECT_EQ(model.nodes[0].op, integer::Op::kQuantize);
  EXPECT_FLOAT_EQ(model.tensors[model.nodes[0].output].scale, 0.01f);
  EXPECT_EQ(model.tensors[model.nodes[0].output].zero_point, 0);
  const integer::Node& conv = model.nodes[1];
  EXPECT_EQ(conv.name, "conv");
  EXPECT_EQ(conv.weight.codes, (std::vector<int16_t>{127, -50, 0, 127}));
  EXPECT_FLOAT_EQ(conv.weight.scale[0], 0.01f);
  EXPECT_FLOAT_EQ(conv.weight.scale[1], 0.02f);
  EXPECT_EQ(conv.bias, (std::vector<int32_t>{2500, -5000}));  // 0.25 / (0.01 * 0.01), -1 / (0.01 * 0.02)
  // Outputs: 1.27 * 1 - 0.5 * 0.5 + 0.25 = 1.27, 3.2385 - 0.5 + 0.25 = 2.9885, ...; the largest: 2.54 * 2.55 - 1
  // = 5.477
  EXPECT_NEAR(model.tensors[conv.output].scale, 5.477 / 255, 1e-5);
  EXPECT_EQ(model.tensors[conv.output].zero_point, 0);
  EXPECT_EQ(model.nodes[2].op, integer::Op::kFlatten);
  EXPECT_EQ(model.nodes[3].op, integer::Op::kLinear);
  EXPECT_EQ(model.tensors[model.outputs[0]].type, integer::CodeType::kFloat32);
}

TEST(Lower, ALinearLayerWithReluAtTheEndGivesCodes) {
  struct Ends : torch::nn::Module {
    torch::nn::Linear fc = register_module("fc", torch::nn::Linear(6, 4));
    at::Tensor forward(const at::Tensor& x) { return at::relu(fc(x)); }
  } net;
  const auto module = test::quantize(net, {6}, {}, at::randn({8, 6}));
  const integer::IntegerModel model = lower(*module, {{0}, {1}});
  ASSERT_EQ(model.nodes.size(), 3u);
  EXPECT_EQ(model.nodes[2].op, integer::Op::kDequantize);  // a float linear kernel has no ReLU
  const integer::Tensor& codes = model.tensors[model.nodes[1].output];
  EXPECT_EQ(codes.zero_point, codes.lo);
}

TEST(Lower, ExcludedLayersAreFloat) {
  struct Sum : torch::nn::Module {
    torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, 1)));
    at::Tensor forward(const at::Tensor& x) { return conv(at::max_pool2d(conv(x) + x, {2, 2})); }
  } net;
  const auto excluding = [&](const std::string& type) {
    const auto root = config::load_text("{rules: [{match: {type: " + type + "}, exclude: true}]}", "test", {}).root();
    const auto module = test::quantize(net, {1, 4, 4}, root.as<quant::QuantizationConfig>(), at::randn({2, 1, 4, 4}));
    try {
      lower(*module, {{0}, {1}});
    } catch (const ExportError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(excluding("add"), testing::EndsWith("layers in float: add (add)"));
  EXPECT_THAT(excluding("max_pool2d"), testing::EndsWith("layers in float: max_pool2d (max_pool2d)"));
}

TEST(Lower, FloatLayersAreAllListed) {
  Small net;
  net.with_tanh = true;
  const auto module = quantized(net, at::rand({2, 1, 1, 4}));
  try {
    lower(*module, {{0}, {1}});
    FAIL();
  } catch (const ExportError& error) {
    EXPECT_STREQ(error.what(), "tanh (aten::tanh) cannot be lowered to integers: layers in float: tanh (aten::tanh)");
  }
}

/// What lowering says of a convolution behind which signs are taken; its weights are 1 and `other`.
std::string refusal_of_signs(const std::string& weight, float other, float bias, const char* overflow = "exact") {
  struct Signs : torch::nn::Module {
    torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, {1, 2})));
    torch::nn::Conv2d last = register_module("last", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, 1)));
    at::Tensor forward(const at::Tensor& x) { return last(conv(x)); }
  } net;
  const at::NoGradGuard no_grad;
  net.conv->weight.copy_(at::tensor({1.0f, other}).view({1, 1, 1, 2}));
  net.conv->bias.fill_(bias);
  const std::string yaml = "{weight: " + weight + ", rules: [{match: {name: conv}, activation: {quantizer: bnn}}]}";
  auto config = config::load_text(yaml, "test.yaml", {}).root().as<quant::QuantizationConfig>();
  config.overflow = overflow;
  // Input range [0, 255/256]: the scale 2^-8.
  const auto module =
      test::quantize(net, {1, 1, 4}, config, at::tensor({0.0f, 0.99609375f, 0.5f, 0.25f}).view({1, 1, 1, 4}));
  try {
    lower(*module, {{0}, {1}});
  } catch (const ExportError& error) {
    return error.what();
  }
  return "";
}

TEST(Lower, SignsNeedTwiceTheNumbersOfTheirAccumulator) {
  EXPECT_EQ(refusal_of_signs("{bits: 7}", -0.5f, 0.25f), "");
  EXPECT_EQ(
      refusal_of_signs("{bits: 8}", -0.5f, 0.25f),
      "conv: cannot be lowered: twice its weight's code 127 exceeds int8, and the sign of an accumulator needs it: "
      "use 7 bits there");
  EXPECT_EQ(refusal_of_signs("{bits: 8, reduce_range: true}", -0.5f, 0.25f),
            "conv: cannot be lowered: twice its weight's code 64 exceeds the reduced range, and the sign of an "
            "accumulator needs it: use 6 bits there");
  // Codes 63 and -32: a pair that saturates, 255 * 63 twice, is not half of one that saturates with twice the codes.
  EXPECT_EQ(refusal_of_signs("{bits: 7}", -0.5f, 0.25f, "saturate16"),
            "conv: cannot be lowered: twice its weight's code 63 exceeds what never saturates, and the sign of an "
            "accumulator needs it: use 6 bits there");
  EXPECT_EQ(refusal_of_signs("{bits: 6}", -0.5f, 0.25f, "saturate16"), "");
  // A bias far above the weights raises their scale until the bias is 2^30 steps of it: twice that is one too many.
  EXPECT_EQ(refusal_of_signs("{bits: 7}", -0.5f, 0x1p24f),
            "conv: cannot be lowered: twice the bias 1073741824 exceeds int32");
  EXPECT_EQ(refusal_of_signs("{bits: 7}", -0.5f, -0x1p24f), "") << "2 * -2^30 + 1 fits";
}

TEST(Lower, CodesThatRequantizationDoesNotGiveAreRefused) {
  Small net;
  const auto root = config::load_text("{rules: [{match: {name: conv}, input: {quantizer: bnn}}]}", "test", {}).root();
  const auto module = test::quantize(net, {1, 1, 4}, root.as<quant::QuantizationConfig>(), at::randn({2, 1, 1, 4}));
  try {
    lower(*module, {{0}, {1}});
    FAIL();
  } catch (const ExportError& error) {
    EXPECT_STREQ(error.what(),
                 "input.codes: cannot be lowered: the target gives a value its nearest code, bnn another one");
  }
}

TEST(Lower, LayersOnValuesSayWhy) {
  Small net;
  const auto root = config::load_text("{weight: {bits: 12}}", "test", {}).root();
  const auto module = test::quantize(net, {1, 1, 4}, root.as<quant::QuantizationConfig>(), at::randn({2, 1, 1, 4}));
  try {
    lower(*module, {{0}, {1}});
    FAIL();
  } catch (const ExportError& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("conv (conv2d; weight: minmax with 12 bits needs 12-bit codes, the "
                                                  "integer path has 8) cannot be lowered"));
  }
}

TEST(Lower, AnUncalibratedNetworkIsRefused) {
  Small net;
  quantizers::register_builtin();
  graph::GraphModule module(test::trace_canonical(net, {1, 1, 4}), net);
  graph::insert_quantizers(module, {});
  EXPECT_THROW(lower(module, {{0}, {1}}), Error);
}

TEST(Lower, AnAccumulatorThatCouldOverflowIsRefused) {
  struct Wide : torch::nn::Module {
    torch::nn::Linear fc = register_module("fc", torch::nn::Linear(torch::nn::LinearOptions(70000, 1).bias(false)));
    at::Tensor forward(const at::Tensor& x) { return fc(x); }
  } net;
  const at::NoGradGuard no_grad;
  net.fc->weight.fill_(1.0f);
  const auto module = test::quantize(net, {70000}, {}, at::rand({1, 70000}));
  EXPECT_THROW(lower(*module, {{0}, {1}}), Error);
}

}  // namespace
}  // namespace qat::lower
