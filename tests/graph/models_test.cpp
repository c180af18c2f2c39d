// Every registered network traces; its graph is the network: the same outputs and gradients at other batch sizes.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/graph/graph_module.h"
#include "core/graph/passes.h"
#include "core/graph/trace.h"
#include "models/blocks.h"
#include "models/model.h"

namespace qat::graph {
namespace {

using at::Tensor;

/// Fixed-size networks in small; the others take their smallest image.
const std::map<std::string, std::string> kOptions{{"vit_b_16", "{num_classes: 10, image_size: 32}"},
                                                  {"vit_b_32", "{num_classes: 10, image_size: 64}"},
                                                  {"vit_l_16", "{num_classes: 10, image_size: 32}"}};

models::Model make(const std::string& name) {
  const auto found = kOptions.find(name);
  const std::string options = found == kOptions.end() ? "{num_classes: 10}" : found->second;
  return models::registry().get(name)(config::load_text(options, "test", {}).root());
}

int64_t image_of(const std::string& name, const models::Model& model) {
  const auto found = kOptions.find(name);
  if (found == kOptions.end()) return model.smallest_image;
  return found->second.find("64") != std::string::npos ? 64 : 32;
}

/// Outputs and the gradients of all parameters (of a weighted sum of all outputs).
std::vector<Tensor> run(torch::nn::Module& module, const Forward& forward, const Tensor& x, bool training) {
  module.train(training);
  for (Tensor& p : module.parameters()) p.mutable_grad() = Tensor();
  std::vector<Tensor> buffers, results;
  for (const Tensor& b : module.buffers()) buffers.push_back(b.clone());
  Tensor sum = at::zeros({});
  for (const auto& [name, y] : forward(x)) {
    results.push_back(y.detach());
    sum = sum + (y * at::arange(y.numel(), at::kFloat).view_as(y)).mean();
  }
  if (training) sum.backward();
  for (const Tensor& p : module.parameters()) {
    if (p.grad().defined()) results.push_back(p.grad());
  }
  const at::NoGradGuard no_grad;
  size_t i = 0;
  for (Tensor& b : module.buffers()) b.copy_(buffers[i++]);
  return results;
}

void expect_replays(torch::nn::Module& module, const Forward& forward, int64_t image) {
  const Graph graph = trace(module, forward, {3, image, image});
  GraphModule replay(graph, module);
  for (const int64_t batch : {2, 4}) {
    at::manual_seed(batch);
    const Tensor x = at::rand({batch, 3, image, image});
    for (const bool training : {false, true}) {
      const bool heads = training && !graph.heads.empty();
      const auto expected = run(module, forward, x, training);
      replay.train(training);
      const auto found = run(
          module,
          [&](const Tensor& images) {
            return heads ? replay.forward_heads(images) : NamedTensors{{"logits", replay.forward(images)}};
          },
          x, training);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        const double scale = expected[i].abs().max().item<double>() + 1e-12;
        EXPECT_LE((found[i] - expected[i]).abs().max().item<double>(), 1e-5 * scale)
            << i << " batch " << batch << (training ? " training" : "");
      }
    }
  }
}

class Registered : public testing::TestWithParam<std::string> {};

TEST_P(Registered, ReplaysAsItself) {
  at::manual_seed(1);
  models::Model model = make(GetParam());
  models::set_dropout(*model.module, 0.0);
  expect_replays(
      *model.module,
      [&](const Tensor& x) {
        return NamedTensors{{"logits", model.forward(x)}};
      },
      image_of(GetParam(), model));
}

INSTANTIATE_TEST_SUITE_P(Models, Registered, testing::ValuesIn(models::registry().names()),
                         [](const auto& info) { return info.param; });

TEST(Heads, AuxiliaryClassifiersAreTracedWhereTheyTrain) {
  at::manual_seed(1);
  models::Model model = make("googlenet");
  ASSERT_TRUE(static_cast<bool>(model.forward_heads));
  models::set_dropout(*model.module, 0.0);
  const auto forward = [&](const Tensor& x) {
    NamedTensors outputs;
    for (models::HeadOutput& head : model.forward_heads(x)) outputs.emplace_back(head.name, head.logits);
    return outputs;
  };
  Graph graph = trace(*model.module, Forward(forward), {3, 128, 128});
  ASSERT_EQ(graph.heads.size(), 2u);
  EXPECT_EQ(graph.heads[0].name, "aux_logits1");
  expect_replays(*model.module, forward, 128);
  // Evaluation does not run what only the heads need.
  canonicalize(graph);
  GraphModule net(graph, *model.module);
  net.eval();
  std::vector<std::string> ran;
  net.forward(at::zeros({1, 3, 128, 128}),
              [&](const nn::QLayer& layer, const nn::Value&) { ran.push_back(layer.label()); });
  EXPECT_THAT(ran, testing::Contains("fc"));
  EXPECT_THAT(ran, testing::Not(testing::Contains("aux1.fc2")));
  EXPECT_LT(ran.size(), net.steps().size());
}

TEST(StochasticDepth, IsANodeThatDropsWholeSamples) {
  at::manual_seed(1);
  models::Model model = make("efficientnet_b0");
  const Graph graph = trace(*model.module, model.forward, {3, 32, 32});
  const auto nodes = std::count_if(graph.nodes.begin(), graph.nodes.end(),
                                   [](const Node& node) { return node.op == Op::kStochasticDepth; });
  EXPECT_EQ(nodes, 9);  // 16 blocks, 9 of them residual
  // The same random numbers in the same order.
  GraphModule replay(graph, *model.module);
  model.module->train();
  replay.train();
  const Tensor x = at::rand({4, 3, 32, 32});
  std::vector<Tensor> buffers;
  for (const Tensor& b : model.module->buffers()) buffers.push_back(b.clone());
  const at::NoGradGuard no_grad;
  at::manual_seed(5);
  const Tensor expected = model.forward(x);
  size_t i = 0;
  for (Tensor& b : model.module->buffers()) b.copy_(buffers[i++]);
  at::manual_seed(5);
  EXPECT_TRUE(at::allclose(replay.forward(x), expected, 1e-5, 1e-5));
}

}  // namespace
}  // namespace qat::graph
