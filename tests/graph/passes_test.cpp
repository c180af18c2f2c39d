// Every pass against the graph before it: the same function within 1e-5.
#include "core/graph/passes.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/graph/builder.h"
#include "core/graph/graph_module.h"

namespace qat::graph {
namespace {

using at::Tensor;
using nn::Activation;
using testing::ElementsAre;
using testing::HasSubstr;
using Kind = Activation::Kind;

class Passes : public testing::Test {
 protected:
  Passes() { at::manual_seed(3); }

  static autograd::BatchNorm norm(int64_t channels) {
    return {.gamma = at::randn({channels}),
            .beta = at::randn({channels}),
            .running_mean = at::randn({channels}),
            .running_var = at::rand({channels}) + 0.2};
  }

  static nn::ConvGeometry geometry(int64_t padding) {
    return {.stride = {1, 1}, .padding = {padding, padding}, .dilation = {1, 1}};
  }

  static int conv(GraphBuilder& b, const std::string& name, int x, int64_t in, int64_t out, int64_t padding = 1,
                  bool bias = false) {
    return b.conv(name, x, at::randn({out, in, 3, 3}) * 0.2, bias ? at::randn({out}) : Tensor(), geometry(padding));
  }

  /// Output in evaluation, and in training with the gradients of all parameters.
  static std::vector<Tensor> results(const Graph& graph, const GraphBuilder& b, const Tensor& x, bool training) {
    GraphModule net(graph, b.module());
    net.train(training);
    std::vector<Tensor> kept;
    for (const Tensor& buffer : net.buffers()) kept.push_back(buffer.clone());
    for (Tensor& p : net.parameters()) p.set_requires_grad(true).mutable_grad() = Tensor();
    const Tensor y = net.forward(x);
    std::vector<Tensor> found{y.detach()};
    (y * at::arange(y.numel()).view_as(y)).sum().backward();
    for (const Tensor& p : net.parameters()) {
      found.push_back(p.grad().defined() ? p.grad() / p.grad().abs().max().clamp_min(1e-12) : at::zeros_like(p));
    }
    const at::NoGradGuard no_grad;
    size_t i = 0;
    for (Tensor& buffer : net.buffers()) buffer.copy_(kept[i++]);
    return found;
  }

  /// canonicalize() keeps the function; returns the new graph.
  Graph expect_same(const Graph& before, const GraphBuilder& b, std::vector<int64_t> sizes,
                    const FuseOptions& options = {}) {
    Graph after = before;
    report_.clear();
    canonicalize(after, options, &report_);
    sizes.insert(sizes.begin(), 3);
    const Tensor x = at::randn(sizes);
    for (const bool training : {false, true}) {
      const std::vector<Tensor> expected = results(before, b, x, training), found = results(after, b, x, training);
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-5, 1e-5)) << i << (training ? " training" : "");
      }
    }
    return after;
  }

  std::vector<std::string> report_;
};

TEST_F(Passes, ConvolutionBatchNormAndEveryActivationBecomeOneNode) {
  const std::vector<Activation> activations{Activation::relu(),         Activation::clip(0, 6),
                                            Activation::clip(-1, 1),    {.kind = Kind::kLeakyRelu, .slope = 0.1},
                                            {.kind = Kind::kHardswish}, {.kind = Kind::kSilu}};
  for (const Activation& activation : activations) {
    SCOPED_TRACE(activation.name());
    GraphBuilder b({3, 6, 6});
    const int c = b.batch_norm("bn", conv(b, "conv", b.input(), 3, 4), norm(4));
    const int a = b.activation("act", c, activation);
    const int f =
        b.activation("act2", b.linear("fc", b.flatten("flatten", a), at::randn({5, 144}), at::randn({5})), activation);
    const Graph graph = b.finish(f);
    const Graph after = expect_same(graph, b, {3, 6, 6});
    ASSERT_EQ(after.nodes.size(), 4u);
    EXPECT_TRUE(after.nodes[1].tensors.batch_norm.has_value());
    EXPECT_EQ(after.nodes[1].activation, activation);
    EXPECT_EQ(after.nodes[3].activation, activation);
    EXPECT_THAT(report_, ElementsAre("fused bn into conv", "fused act into conv", "fused act2 into fc"));
    // For integer kernels only what the range of the codes expresses.
    const Graph foldable = expect_same(graph, b, {3, 6, 6}, {.all_activations = false});
    EXPECT_EQ(foldable.nodes.size(), activation.folds_into_range() ? 4u : 6u);
  }
}

TEST_F(Passes, BatchNormBehindAConcatenationGoesToItsBranches) {
  GraphBuilder b({3, 6, 6});
  const int left = conv(b, "left", b.input(), 3, 4), right = conv(b, "right", b.input(), 3, 2, 1, true);
  const int bn = b.batch_norm("bn", b.concat("concat", {left, right}), norm(6));
  const Graph after =
      expect_same(b.finish(b.activation("relu", bn, Activation::relu())), b, {3, 6, 6}, {.all_activations = false});
  ASSERT_EQ(after.nodes.size(), 4u);
  EXPECT_EQ(after.nodes[1].tensors.norm_begin, 0);
  EXPECT_EQ(after.nodes[2].tensors.norm_begin, 4);
  EXPECT_TRUE(after.nodes[2].activation.is_relu());
  EXPECT_THAT(report_,
              ElementsAre("fused bn into the 2 branches of concat", "fused relu into the 2 branches of concat"));
}

TEST_F(Passes, AConcatenationWithABranchThatIsReadTwiceKeepsItsBatchNorm) {
  GraphBuilder b({3, 6, 6});
  const int left = conv(b, "left", b.input(), 3, 4), right = conv(b, "right", b.input(), 3, 4);
  const int bn = b.batch_norm("bn", b.concat("concat", {left, right}), norm(8));
  const int out = b.concat("again", {bn, right});
  EXPECT_EQ(expect_same(b.finish(out), b, {3, 6, 6}).nodes.size(), 6u);
}

TEST_F(Passes, BatchNormInFrontOfAConvolutionIsFusedOnlyWithoutPadding) {
  for (const int64_t padding : {0, 1}) {
    GraphBuilder b({3, 6, 6});
    const int bn = b.batch_norm("bn", b.input(), norm(3));
    const Graph after = expect_same(b.finish(conv(b, "conv", bn, 3, 4, padding, true)), b, {3, 6, 6});
    EXPECT_EQ(after.nodes.size(), padding == 0 ? 2u : 3u);
    EXPECT_EQ(after.nodes.back().tensors.input_norm.has_value(), padding == 0);
  }
  GraphBuilder b({3, 6, 6});
  const int relu = b.activation("relu", b.batch_norm("bn", b.input(), norm(3)), Activation::relu());
  EXPECT_EQ(expect_same(b.finish(conv(b, "conv", relu, 3, 4, 0)), b, {3, 6, 6}).nodes.size(), 4u);
}

TEST_F(Passes, WhatIsReadTwiceIsNotFused) {
  GraphBuilder b({3, 6, 6});
  const int c = conv(b, "conv", b.input(), 3, 4);
  const int bn = b.batch_norm("bn", c, norm(4));
  EXPECT_EQ(expect_same(b.finish(b.add("add", bn, c)), b, {3, 6, 6}).nodes.size(), 4u);
}

TEST_F(Passes, GatesAreLifted) {
  GraphBuilder b({3, 6, 6});
  const int x = conv(b, "conv", b.input(), 3, 4);
  const int silu = b.mul("mul", x, b.activation("sigmoid", x, {.kind = Kind::kSigmoid}));
  const int swish = b.mul("mul_1", b.activation("hardsigmoid", silu, {.kind = Kind::kHardsigmoid}), silu);
  const Graph after = expect_same(b.finish(swish), b, {3, 6, 6});
  ASSERT_EQ(after.nodes.size(), 3u);
  EXPECT_EQ(after.nodes[1].activation.kind, Kind::kSilu);  // fused into the convolution
  EXPECT_EQ(after.nodes[2].activation.kind, Kind::kHardswish);
  EXPECT_THAT(report_, testing::Contains("lifted sigmoid and mul to silu"));
}

TEST_F(Passes, DropoutThatDoesNothingIsRemoved) {
  GraphBuilder b({3, 6, 6});
  const int none = b.dropout("none", conv(b, "conv", b.input(), 3, 4), 0.0);
  Graph graph = b.finish(b.dropout("half", none, 0.5));
  canonicalize(graph, {}, &report_);
  EXPECT_THAT(report_, ElementsAre("removed none: its probability is 0"));
  EXPECT_EQ(graph.nodes.size(), 3u);
  remove_dropout(graph, true, &report_);
  EXPECT_EQ(graph.nodes.size(), 2u);
  EXPECT_EQ(report_.back(), "removed half: the network no longer trains");
}

TEST_F(Passes, RewritesChangeTheFunctionAndSayIt) {
  GraphBuilder b({3, 6, 6});
  const int six = b.activation("relu6", conv(b, "conv", b.input(), 3, 4), Activation::clip(0, 6));
  Graph graph = b.finish(b.activation("silu", six, {.kind = Kind::kSilu}));
  canonicalize(graph);
  rewrite(graph, "relu6_to_relu", &report_);
  rewrite(graph, "silu_to_hardswish", &report_);
  EXPECT_THAT(report_, ElementsAre("rewrote conv: relu6 is now relu (another function)",
                                   "rewrote silu: silu is now hardswish (another function)"));
  EXPECT_TRUE(graph.nodes[1].activation.is_relu());
  try {
    rewrite(graph, "relu6_to_relo");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'relu6_to_relu'"));
  }
}

}  // namespace
}  // namespace qat::graph
