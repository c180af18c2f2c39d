// Promise 1 on torchvision's networks with the formula's weights at W8A8: training's forward, the engine and ONNX
// Runtime on the exported file give the same codes in every tensor, and ONNX Runtime computes nothing in float.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/export/onnx.h"
#include "core/judges/onnxruntime.h"
#include "core/judges/verify.h"
#include "core/lower/lower.h"
#include "core/simulation/simulation.h"
#include "models/model.h"
#include "tests/support/formula.h"
#include "tests/support/networks.h"
#include "tests/support/onnxruntime.h"

namespace qat::judges {
namespace {

using at::Tensor;
using testing::IsEmpty;

struct Case {
  const char* model;
  double weight_k;  // as in the goldens of tests/goldens/torchvision
};

/// Images that the formula names "input", "input1", ...
Tensor images(int64_t first, int64_t count, int64_t size) {
  std::vector<Tensor> all;
  for (int64_t i = first; i < first + count; ++i) {
    all.push_back(test::formula(i == 0 ? "input" : fmt::format("input{}", i), {1, 3, size, size}, "input", 1));
  }
  return at::cat(all);
}

class TorchvisionNets : public testing::TestWithParam<Case> {};

TEST_P(TorchvisionNets, GiveTheSameCodesEverywhere) {
  const Case& c = GetParam();
  constexpr int64_t kSize = 224;
  models::Model model = models::registry().get(c.model)(config::load_text("{}", "options", {}).root());
  test::set_formula_weights(*model.module, c.weight_k);

  quant::QuantizationConfig config;
  config.weight.quantizer = config.activation.quantizer = "minmax";
  quantizers::register_builtin();
  model.module->train();
  graph::Graph graph = graph::trace(*model.module, model.forward, {3, kSize, kSize});
  graph::canonicalize(graph, graph::fuse_options(config));
  graph::GraphModule net(graph, *model.module);
  EXPECT_THAT(graph::insert_quantizers(net, config).float_layers, IsEmpty());
  net.eval();
  net.set_phase(nn::Phase::kCalibrate);
  {
    const at::NoGradGuard no_grad;
    net.forward(images(1, 2, kSize));
  }
  net.initialize_quantizers();
  net.set_phase(nn::Phase::kFrozen);

  const Tensor nhwc = images(0, 1, kSize).permute({0, 2, 3, 1}).contiguous();
  const int64_t label = 0;
  for (const auto write : {exporter::onnx_qdq, exporter::onnx_qoperator}) {
    const std::string bytes = write(lower::lower(net, {{0, 0, 0}, {1, 1, 1}}));
    const integer::IntegerModel file = exporter::parse_onnx(bytes, "the export");
    std::vector<std::unique_ptr<Judge>> judges;
    judges.push_back(std::make_unique<EngineJudge>(file));
    auto runtime = std::make_unique<OnnxRuntimeJudge>(test::onnx_runtime(), bytes, file);
    EXPECT_THAT(runtime->float_nodes(), IsEmpty());
    judges.push_back(std::move(runtime));
    bool done = false;
    const VerifyResult result = verify(simulation::simulate(net, file), file, judges, [&](VerifyBatch& batch) {
      if (std::exchange(done, true)) return false;
      batch = {1, nhwc.const_data_ptr<float>(), &label};
      return true;
    });
    EXPECT_TRUE(result.passed());
    EXPECT_THAT(result.skipped, IsEmpty());
    EXPECT_GT(result.compared, 1000000);
    for (const JudgeResult& judge : result.judges) {
      EXPECT_EQ(judge.tensors.size(), file.nodes.size());
      for (const TensorResult& tensor : judge.tensors) {
        EXPECT_EQ(tensor.mismatches, 0) << judge.name << ": " << tensor.name << " of " << tensor.compared;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(W8A8, TorchvisionNets,
                         testing::Values(Case{"resnet18", 3}, Case{"resnet50", 3}, Case{"mobilenet_v2", 5},
                                         Case{"squeezenet1_1", 6}, Case{"shufflenet_v2_x1_0", 4},
                                         Case{"mobilenet_v3_small", 6}, Case{"googlenet", 5},
                                         Case{"efficientnet_b0", 6}, Case{"regnet_y_400mf", 4}),
                         [](const auto& info) { return std::string(info.param.model); });

}  // namespace
}  // namespace qat::judges
