// Every operator with an integer form, from a traced network to the engine: the same codes in every tensor.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>

#include "core/engine/engine.h"
#include "core/lower/lower.h"
#include "tests/support/networks.h"

namespace qat::lower {
namespace {

using at::Tensor;

/// ReLU6, leaky ReLU, hardtanh, concatenation, squeeze-and-excitation with a sigmoid, dropout, three kinds of pools.
struct GatedNet : torch::nn::Module {
  torch::nn::Conv2d stem = register_module("stem", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
  torch::nn::BatchNorm2d stem_bn = register_module("stem_bn", torch::nn::BatchNorm2d(8));
  torch::nn::Conv2d branch = register_module("branch", torch::nn::Conv2d(8, 6, 1));
  torch::nn::Conv2d squeeze = register_module("squeeze", torch::nn::Conv2d(14, 4, 1));
  torch::nn::Conv2d excite = register_module("excite", torch::nn::Conv2d(4, 14, 1));
  torch::nn::Conv2d last = register_module("last", torch::nn::Conv2d(torch::nn::Conv2dOptions(14, 10, 3).stride(2)));
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(10, 5));

  Tensor forward(const Tensor& input) {
    const Tensor x = at::hardtanh(stem_bn(stem(input)), 0.0, 6.0);
    const Tensor a = at::leaky_relu(branch(x), 0.1);
    const Tensor y = at::cat({a, at::max_pool2d(x, {3, 3}, {1, 1}, {1, 1})}, 1);
    const Tensor gate = at::sigmoid(excite(at::relu(squeeze(at::adaptive_avg_pool2d(y, {1, 1})))));
    const Tensor z = at::hardtanh(last(at::avg_pool2d(y * gate, {2, 2}, {1, 1})), -0.5, 1.0);
    return fc(at::dropout(z.mean({2, 3}), 0.2, is_training()));
  }
};

/// Transposed convolutions: with a rest of the output, dilated in groups behind a batch norm, and of one tap whose
/// padding takes pixels away.
struct UpsamplingNet : torch::nn::Module {
  using Options = torch::nn::ConvTranspose2dOptions;
  torch::nn::Conv2d stem = register_module("stem", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).stride(2)));
  torch::nn::ConvTranspose2d up = register_module(
      "up", torch::nn::ConvTranspose2d(Options(8, 6, {3, 4}).stride({2, 3}).padding(1).output_padding(1)));
  torch::nn::ConvTranspose2d wide = register_module(
      "wide", torch::nn::ConvTranspose2d(Options(6, 4, 3).groups(2).dilation(2).padding({2, 1}).bias(false)));
  torch::nn::BatchNorm2d norm = register_module("norm", torch::nn::BatchNorm2d(4));
  torch::nn::ConvTranspose2d cut =
      register_module("cut", torch::nn::ConvTranspose2d(Options(4, 5, 1).stride(2).padding(1)));

  Tensor forward(const Tensor& x) { return cut(at::relu(norm(wide(at::relu(up(at::relu(stem(x)))))))).mean({2, 3}); }
};

/// Tensors by name: codes of the simulation in evaluation, NHWC.
std::map<std::string, std::vector<uint8_t>> simulate(graph::GraphModule& net, const Tensor& images, Tensor& logits) {
  net.eval();
  const at::NoGradGuard no_grad;
  std::map<std::string, std::vector<uint8_t>> codes;
  logits = net.forward(images, [&](const nn::QLayer& layer, const nn::Value& value) {
    const auto* q = std::get_if<nn::QuantizedTensor>(&value);
    if (q == nullptr || layer.type() == "dropout") return;
    const uint8_t* data = q->codes().const_data_ptr<uint8_t>();
    codes[layer.type() == "input" ? "input.codes" : layer.label()] = {data, data + q->codes().numel()};
  });
  return codes;
}

template <class Net>
void expect_the_engines_codes(size_t tensors) {
  for (int seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    at::manual_seed(seed);
    Net net;
    quant::QuantizationConfig config;
    config.weight.quantizer = config.activation.quantizer = seed % 2 == 0 ? "minmax" : "lsq";
    config.weight.bits = config.activation.bits = std::vector<int>{8, 4, 3}[static_cast<size_t>(seed % 3)];
    if (seed >= 4) config.weight.granularity = "tensor";
    const Tensor images = at::randn({9, 3, 11, 12}) * 2, labels = at::randint(0, 5, {9}, at::kLong);
    const auto quantized = test::quantize(net, {3, 11, 12}, config, images);
    for (int step = 0; step < 4; ++step) {
      if (step == 3) quantized->set_phase(nn::Phase::kFrozen);
      EXPECT_TRUE(std::isfinite(test::train_step(*quantized, images, labels, 0.02)));
    }
    Tensor logits;
    const auto expected = simulate(*quantized, images, logits);
    const engine::Engine engine(lower(*quantized, {}));

    engine::Value input{.batch = 9};
    const Tensor nhwc = images.permute({0, 2, 3, 1}).contiguous();
    input.values.assign(nhwc.const_data_ptr<float>(), nhwc.const_data_ptr<float>() + nhwc.numel());
    size_t compared = 0;
    const auto outputs = engine.run({input}, [&](int index, const engine::Value& value) {
      const auto found = expected.find(engine.model().tensors[static_cast<size_t>(index)].name);
      if (found == expected.end()) return;
      EXPECT_EQ(value.codes, found->second) << found->first;
      ++compared;
    });
    EXPECT_EQ(compared, expected.size());
    EXPECT_GE(compared, tensors);
    const Tensor flat = logits.contiguous();
    EXPECT_EQ(outputs[0].values,
              std::vector<float>(flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()));
  }
}

TEST(Operators, TrainedFrozenAndLoweredTheyGiveTheEnginesCodes) { expect_the_engines_codes<GatedNet>(15); }

TEST(Operators, SoDoTransposedConvolutions) { expect_the_engines_codes<UpsamplingNet>(6); }

TEST(Operators, AClipBecomesTheRangeOfItsCodes) {
  at::manual_seed(1);
  GatedNet net;
  const Tensor images = at::randn({9, 3, 11, 12}) * 20;
  for (const char* method : {"minmax", "lsq"}) {
    quant::QuantizationConfig config;
    config.weight.quantizer = config.activation.quantizer = method;
    const auto quantized = test::quantize(net, {3, 11, 12}, config, images);
    int clips = 0;
    for (const auto& step : quantized->steps()) {
      const auto* layer = dynamic_cast<const nn::WeightedLayer*>(step.layer.get());
      if (layer == nullptr || !layer->activation() || layer->activation().is_relu()) continue;
      const auto params = layer->output_quantizer()->qparams();
      const double s = params.scale.item<float>(), z = params.zero_point.item<int>();
      EXPECT_LE(s * (255 - z), layer->activation().highest * (1 + 1e-6)) << layer->label();
      EXPECT_GE(s * (0 - z), layer->activation().lowest * (1 + 1e-6) - 1e-9) << layer->label();
      ++clips;
    }
    EXPECT_EQ(clips, 2);
  }
}

}  // namespace
}  // namespace qat::lower
