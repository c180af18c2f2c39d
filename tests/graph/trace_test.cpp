#include "core/graph/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/container/sequential.h>

#include "core/base/error.h"
#include "core/graph/passes.h"
#include "models/model.h"
#include "tests/support/networks.h"

namespace qat::graph {
namespace {

using at::Tensor;
using testing::HasSubstr;

/// The executable graph in float against the network itself: values and gradients.
void expect_same_function(torch::nn::Module& module, const std::function<Tensor(const Tensor&)>& forward,
                          const std::vector<int64_t>& input, bool fused) {
  Graph graph = trace(module, forward, input);
  if (fused) canonicalize(graph);
  GraphModule replay(graph, module);
  for (const bool training : {false, true}) {
    module.train(training);
    replay.train(training);
    for (const int64_t batch : {2, 7}) {
      std::vector<int64_t> sizes{batch};
      sizes.insert(sizes.end(), input.begin(), input.end());
      const Tensor x = at::randn(sizes);
      // Running statistics move in training: both runs start from the same ones.
      std::vector<Tensor> before;
      for (const Tensor& b : module.buffers()) before.push_back(b.clone());
      const auto run = [&](const std::function<Tensor(const Tensor&)>& f) {
        const at::NoGradGuard guard;
        size_t i = 0;
        for (Tensor& b : module.buffers()) b.copy_(before[i++]);
        for (Tensor& p : module.parameters()) p.mutable_grad() = Tensor();
        at::AutoGradMode grad(true);
        const Tensor y = f(x);
        (y * at::arange(y.numel(), at::kFloat).view_as(y)).sum().backward();
        std::vector<Tensor> results{y.detach().clone()};
        for (const Tensor& p : module.parameters()) results.push_back(p.grad().clone());
        return results;
      };
      const auto expected = run(forward);
      const auto found = run([&](const Tensor& t) { return replay.forward(t); });
      ASSERT_EQ(expected.size(), found.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-4, 1e-4))
            << i << " batch " << batch << " training " << training;
        if (!fused) {
          EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
        }
      }
    }
  }
}

TEST(Trace, SmallImageModelsReplayAsThemselves) {
  for (const std::string name : {"lenet5", "resnet20"}) {
    SCOPED_TRACE(name);
    at::manual_seed(1);
    const auto options = config::load_text("{in_channels: 1}", "test", {});
    models::Model model = models::registry().get(name)(options.root());
    expect_same_function(*model.module, model.forward, {1, 28, 28}, false);
    expect_same_function(*model.module, model.forward, {1, 28, 28}, true);
  }
}

TEST(Trace, ANetWrittenWithFunctionsReplaysAsItself) {
  for (int seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    at::manual_seed(seed);
    test::MixedNet net(seed);
    expect_same_function(
        net, [&](const Tensor& x) { return net.forward(x); }, {3, 14, 14}, false);
    expect_same_function(
        net, [&](const Tensor& x) { return net.forward(x); }, {3, 14, 14}, true);
  }
}

TEST(Trace, AUsersNetTrainsQuantized) {
  at::manual_seed(9);
  test::MixedNet net(0);
  // The class shows as the brightness of one channel.
  const Tensor labels = at::randint(0, 5, {60}, at::kLong);
  Tensor images = at::randn({60, 3, 14, 14}) * 0.3;
  images.select(1, 1).add_((labels.to(at::kFloat) - 2).view({60, 1, 1}));
  quant::QuantizationConfig config;
  config.weight.quantizer = config.activation.quantizer = "lsq";
  config.weight.bits = config.activation.bits = 4;
  auto quantized = test::quantize(net, {3, 14, 14}, config, images);
  const double first = test::train_step(*quantized, images, labels, 0.1);
  double last = first;
  for (int step = 0; step < 80; ++step) {
    if (step == 60) quantized->set_phase(nn::Phase::kFrozen);
    last = test::train_step(*quantized, images, labels, 0.1);
  }
  EXPECT_LT(last, 0.5 * first);
}

TEST(Trace, NodesCarryTheModulesNames) {
  const auto options = config::load_text("{in_channels: 1}", "test", {});
  models::Model model = models::registry().get("resnet20")(options.root());
  Graph graph = trace(*model.module, model.forward, {1, 28, 28});
  std::vector<std::string> report;
  canonicalize(graph, {}, &report);
  std::vector<std::string> names;
  for (const Node& node : graph.nodes) names.push_back(node.name);
  EXPECT_EQ(names.front(), "input");
  EXPECT_THAT(names, testing::IsSupersetOf({"conv1", "layer1.0.conv1", "layer2.0.downsample.0", "add", "add_8",
                                            "avgpool", "flatten", "fc"}));
  // 19 convolutions and 2 shortcuts, 9 adds, pool, flatten, linear, input: all batch norms and ReLUs are fused.
  EXPECT_EQ(graph.nodes.size(), 21u + 9u + 4u);
  EXPECT_EQ(report.size(), 21u + 19u);
  EXPECT_THAT(graph.dump(), HasSubstr("layer1.0.conv1               conv2d+batch_norm+relu(conv1) -> [16, 28, 28]"));
}

struct SharedAndFree : torch::nn::Module {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 3).padding(1)));
  torch::nn::BatchNorm2d bn = register_module("bn", torch::nn::BatchNorm2d(4));
  Tensor forward(const Tensor& x) {
    Tensor y = conv->forward(x);
    return at::sigmoid(bn->forward(y)) * y + conv->forward(at::relu(y));
  }
};

TEST(Trace, SharedModulesAndSeveralReadersAreNotFused) {
  at::manual_seed(2);
  SharedAndFree net;
  expect_same_function(
      net, [&](const Tensor& x) { return net.forward(x); }, {4, 6, 6}, true);
  const Graph graph = test::trace_canonical(net, {4, 6, 6});
  for (const Node& node : graph.nodes) {
    EXPECT_FALSE(node.op == Op::kConv && (node.tensors.batch_norm || node.activation)) << node.name;
  }
}

/// Runs trace() on a forward and returns the error's text.
template <class F>
std::string refusal(F forward, torch::nn::Module& module) {
  try {
    Graph graph = trace(module, forward, {4, 6, 6});
  } catch (const GraphError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Trace, RefusalsNameOperatorAndLayer) {
  SharedAndFree net;
  const Tensor captured = at::ones({4, 1, 1});
  EXPECT_THAT(refusal([&](const Tensor& x) { return net.conv->forward(x) * captured; }, net),
              testing::AllOf(HasSubstr("aten::mul.Tensor (after conv)"), HasSubstr("register it as a buffer")));
  EXPECT_THAT(refusal(
                  [&](const Tensor& x) {
                    return net.conv->forward(x).view({x.size(0) + 1, -1});
                  },
                  net),
              testing::AllOf(HasSubstr("aten::view (near conv)"), HasSubstr("the size 6 depends on the batch")));
  EXPECT_THAT(refusal([&](const Tensor& x) { return x.size(0) > 6 ? at::relu(x) : at::sigmoid(x); }, net),
              HasSubstr("control flow must not depend on the batch"));
  EXPECT_THAT(refusal(
                  [&](const Tensor& x) {
                    const Tensor y = net.conv->forward(x);
                    auto halves = y.chunk(2, 1);
                    halves[0].relu_();
                    return y + 1;
                  },
                  net),
              HasSubstr("changed in place"));
  EXPECT_THAT(refusal(
                  [&](const Tensor& x) {
                    return at::conv2d(x, at::zeros({4, 9, 3, 3}));
                  },
                  net),
              HasSubstr("does not run on an input of sizes [N, 4, 6, 6]"));
}

TEST(Trace, WhatReturnsItsArgumentInEvaluationIsANodeOfItsOwn) {
  SharedAndFree net;
  Graph graph = trace(net,
                      [&](const Tensor& x) {
                        const Tensor y = net.conv->forward(x);
                        return at::dropout(y, 0.5, net.is_training()) + y;
                      },
                      {4, 6, 6});
  ASSERT_EQ(graph.nodes.size(), 4u);
  EXPECT_EQ(graph.nodes[2].op, Op::kDropout);
  EXPECT_EQ(graph.nodes[3].inputs, (std::vector<int>{2, 1}));  // the shortcut is not dropped
}

TEST(Trace, ATensorAddedToItselfInPlace) {
  SharedAndFree net;
  Graph graph = trace(net,
                      [&](const Tensor& x) {
                        Tensor y = net.conv->forward(x);
                        y += y;
                        return at::relu(y);
                      },
                      {4, 6, 6});
  ASSERT_EQ(graph.nodes.size(), 4u);
  EXPECT_EQ(graph.nodes[2].inputs, (std::vector<int>{1, 1}));
  EXPECT_EQ(graph.nodes[3].inputs, std::vector<int>{2});
}

TEST(Trace, WhatCannotBeReplayedInTrainingOrAtAnotherBatchIsRefused) {
  SharedAndFree net;
  EXPECT_THAT(refusal([&](const Tensor& x) { return net.conv->forward(x) * (1.0 / x.size(0)); }, net),
              testing::AllOf(HasSubstr("aten::mul"), HasSubstr("depends on the batch")));
  EXPECT_THAT(refusal(
                  [&](const Tensor& x) {
                    return net.conv->forward(x).mean({0}, true).expand({5, -1, -1, -1});
                  },
                  net),
              testing::AllOf(HasSubstr("aten::expand (near conv)"), HasSubstr("5 with every batch")));
  EXPECT_THAT(refusal([&](const Tensor& x) { return at::feature_dropout(x, 0.5, net.is_training()); }, net),
              HasSubstr("only aten::dropout is supported"));
}

TEST(Trace, BatchNormWithoutParametersOrStatisticsStaysALayer) {
  struct Net : torch::nn::Module {
    torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(4, 4, 3));
    torch::nn::BatchNorm2d plain =
        register_module("plain", torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(4).affine(false)));
    torch::nn::BatchNorm2d batch =
        register_module("batch", torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(4).track_running_stats(false)));
    Tensor forward(const Tensor& x) { return batch(plain(conv(x))); }
  };
  at::manual_seed(3);
  Net net;
  expect_same_function(
      net, [&](const Tensor& x) { return net.forward(x); }, {4, 6, 6}, true);
  EXPECT_EQ(test::trace_canonical(net, {4, 6, 6}).nodes.size(), 4u);
}

TEST(Trace, NumbersThatFollowTheBatchAreNotBakedIntoTypedNodes) {
  SharedAndFree net;
  EXPECT_THAT(refusal([&](const Tensor& x) { return net.conv->forward(x).slice(1, 0, x.size(0) - 4); }, net),
              testing::AllOf(HasSubstr("aten::slice.Tensor (near conv)"), HasSubstr("depends on the batch")));
  EXPECT_THAT(refusal([&](const Tensor& x) { return net.conv->forward(x).split(x.size(0) - 4, 1)[0]; }, net),
              HasSubstr("depends on the batch"));
  EXPECT_THAT(refusal([&](const Tensor& x) { return at::leaky_relu(net.conv->forward(x), 0.1 * x.size(0)); }, net),
              HasSubstr("depends on the batch"));
}

TEST(Trace, RestoresTheTrainingMode) {
  SharedAndFree net;
  net.train();
  net.conv->eval();
  trace(net, [&](const Tensor& x) { return net.forward(x); }, {4, 6, 6});
  EXPECT_TRUE(net.is_training());
  EXPECT_TRUE(net.bn->is_training());
  EXPECT_FALSE(net.conv->is_training());
  refusal([&](const Tensor& x) { return net.conv->forward(x.flatten()); }, net);
  EXPECT_TRUE(net.bn->is_training());
}

TEST(Trace, DeadCodeIsRemoved) {
  SharedAndFree net;
  const auto forward = [&](const Tensor& x) {
    const Tensor y = net.conv->forward(x);
    at::sigmoid(y);
    return at::relu(y);
  };
  Graph graph = trace(net, forward, {4, 6, 6});
  EXPECT_EQ(graph.nodes.size(), 4u);
  std::vector<std::string> report;
  canonicalize(graph, {}, &report);
  ASSERT_EQ(graph.nodes.size(), 2u);
  EXPECT_TRUE(graph.nodes[1].activation.is_relu());
  EXPECT_THAT(report, testing::ElementsAre("removed sigmoid: nothing reads it", "fused relu into conv"));
}

}  // namespace
}  // namespace qat::graph
