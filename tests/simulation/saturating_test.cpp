// `overflow: saturate16`: training, the lowered model, its file and, where this CPU's sums saturate, ONNX Runtime's
// default session give the same codes.
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "core/judges/onnxruntime.h"
#include "tests/support/networks.h"
#include "tests/support/runtimes.h"

namespace qat::simulation {
namespace {

using at::Tensor;

/// Every kind of convolution, of codes near the top of their range.
struct Net : torch::nn::Module {
  torch::nn::Conv2d stem = register_module("stem", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 12, 3).padding(1)));
  torch::nn::BatchNorm2d stem_bn = register_module("stem_bn", torch::nn::BatchNorm2d(12));
  torch::nn::Conv2d depthwise =
      register_module("depthwise", torch::nn::Conv2d(torch::nn::Conv2dOptions(12, 12, 3).groups(12).stride(2)));
  torch::nn::Conv2d grouped =
      register_module("grouped", torch::nn::Conv2d(torch::nn::Conv2dOptions(12, 6, {3, 2}).groups(2).padding(1)));
  torch::nn::ConvTranspose2d up = register_module(
      "up", torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(6, 5, 3).stride(2).padding(1)));
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(5, 5));

  Tensor forward(const Tensor& x) {
    Tensor y = at::relu(grouped(depthwise(at::relu(stem_bn(stem(x))))));
    y = up(y);
    return fc(y.mean({2, 3}));
  }
};

TEST(Saturating, TrainingAndTheEngineGiveTheSameCodes) {
  for (const char* method : {"minmax", "lsq"}) {
    for (const char* memory : {"compact", "recompute"}) {
      SCOPED_TRACE(fmt::format("{} {}", method, memory));
      at::manual_seed(5);
      Net float_net;
      quant::QuantizationConfig config;
      config.weight.quantizer = method;
      config.overflow = "saturate16";
      config.memory = memory;
      Tensor images = at::rand({6, 3, 12, 12}) * 0.3 + 0.7;
      images[0][0][0][0] = 0;
      const Tensor labels = at::randint(0, 5, {6}, at::kLong);
      const auto net = test::quantize(float_net, {3, 12, 12}, config, images);
      for (int step = 0; step < 4; ++step) {
        if (step == 2) net->set_phase(nn::Phase::kFrozen);
        EXPECT_TRUE(std::isfinite(test::train_step(*net, images, labels, 0.01)));
      }
      net->eval();
      const std::string bytes = exporter::onnx_qdq(lower::lower(*net, {{0, 0, 0}, {1, 1, 1}}));
      integer::IntegerModel model = exporter::parse_onnx(bytes, "the export");
      EXPECT_EQ(model.overflow, integer::Overflow::kSaturate16);
      const Tensor nhwc = images.permute({0, 2, 3, 1}).contiguous();
      const auto batches = [&] {
        return [&, done = false](judges::VerifyBatch& batch) mutable {
          batch = {6, nhwc.const_data_ptr<float>(), labels.const_data_ptr<int64_t>()};
          return !std::exchange(done, true);
        };
      };
      std::vector<std::unique_ptr<judges::Judge>> all;
      all.push_back(std::make_unique<judges::EngineJudge>(model));
      if (judges::obstacle(test::onnx_runtime(), model).empty()) {
        all.push_back(std::make_unique<judges::OnnxRuntimeJudge>(test::onnx_runtime(), bytes, model));
      }
      const judges::VerifyResult result = judges::verify(simulate(*net, model), model, all, batches());
      EXPECT_TRUE(result.passed()) << result.mismatches << " codes differ";
      model.overflow = integer::Overflow::kExact;
      // At 8 bits lsq's weights have codes too small to saturate.
      EXPECT_EQ(verify(*net, model, batches()).mismatches > 0, std::string(method) == "minmax");
    }
  }
}

}  // namespace
}  // namespace qat::simulation
