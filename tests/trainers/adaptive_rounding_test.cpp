#include "trainers/adaptive_rounding.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/ops/rounding.h"
#include "tests/support/networks.h"

namespace qat::trainers {
namespace {

using at::Tensor;

/// Hundreds of thousands of steps on a few values: waking threads would cost more than all of it.
class AdaptiveRounding : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  int threads_ = at::get_num_threads();
};

TEST_F(AdaptiveRounding, TheRoundingPiece) {
  EXPECT_EQ(ops::round_adaptive(-1.25f, 0.0f), -2.0f);
  EXPECT_EQ(ops::round_adaptive(-1.25f, 1.0f), -1.0f);
  EXPECT_EQ(ops::adaptive_up(-20), 0);
  EXPECT_EQ(ops::adaptive_up(20), 1);
  EXPECT_NEAR(ops::adaptive_up(0), 0.5, 1e-12);
  for (const double up : {0.01, 0.3, 0.5, 0.99}) EXPECT_NEAR(ops::adaptive_up(ops::adaptive_variable(up)), up, 1e-12);
}

/// A linear layer of `inputs` features and one output, minmax weights of 3 bits.
struct OneLayer {
  explicit OneLayer(const Tensor& weight) : layer("layer", {.weight = weight.clone().set_requires_grad(true)}, {}, {}) {
    quantizers::register_builtin();
    const quant::QuantSpec spec{.role = quant::Role::kWeight, .bits = 3, .is_signed = true};
    layer.set_weight_quantizer(quant::quantizers().get("minmax")(spec, {}));
    layer.set_phase(nn::Phase::kCalibrate);
    layer.initialize_quantizers();
    layer.set_phase(nn::Phase::kLive);
    layer.eval();
  }
  nn::WeightedLayer layer;
};

// Correlated inputs: errors of neighbouring weights cancel only if they are rounded in opposite directions. All 2^n
// choices are tried: the stage finds the best, which nearest rounding is not.
TEST_F(AdaptiveRounding, FindsTheBestChoiceOfAll) {
  at::manual_seed(2);
  // Steps of 1; the first weight is the largest and fixes the scale.
  const Tensor w = at::tensor({3.0f, 0.2f, 1.3f, -0.9f, 0.45f, -1.65f, 0.05f}).view({1, 7});
  OneLayer one(w);
  const Tensor shared = at::randn({64, 1}), x = shared + 0.5 * at::randn({64, 7});
  const Tensor target = at::linear(x, w);
  const auto error_of = [&](const Tensor& weight) {
    return (at::linear(x, weight) - target).square().mean().item<double>();
  };
  double best = 1e9;
  Tensor choice;
  for (int bits = 0; bits < 64; ++bits) {
    Tensor tried = w.floor();
    for (int i = 0; i < 6; ++i) tried[0][i + 1] += (bits >> i) & 1;
    if (error_of(tried) < best) best = error_of(tried), choice = tried;
  }
  const Tensor nearest = w.round();
  ASSERT_LT(best, error_of(nearest) / 4);
  const AdaptiveRoundingStage options{.iterations = 600, .lr = 0.05};
  const Tensor found = adaptive_rounding(one.layer, x, target, options, 7);
  EXPECT_TRUE(at::equal(found, choice)) << found << choice;
  EXPECT_TRUE(at::equal(adaptive_rounding(one.layer, x, target, options, 7), found)) << "not deterministic";
}

TEST_F(AdaptiveRounding, AWholeNetworkKeepsItsChoices) {
  for (const char* yaml : {"{weight: {bits: 3}, activation: {bits: 8}}",
                           "{weight: {quantizer: lsq, bits: 3, granularity: tensor}, activation: {bits: 8}}"}) {
    SCOPED_TRACE(yaml);
    at::manual_seed(3);
    test::MixedNet float_net(2);
    const Tensor images = at::randn({64, 3, 14, 14});
    const auto config = config::load_text(yaml, "test.yaml", {}).root().as<quant::QuantizationConfig>();
    auto net = test::quantize(float_net, {3, 14, 14}, config, images);
    net->eval();
    net->set_phase(nn::Phase::kFloat);
    const Tensor reference = net->forward(images).detach();
    net->set_phase(nn::Phase::kLive);
    const double before = (net->forward(images) - reference).square().mean().item<double>();
    std::set<std::string> layers, changed;
    double nearest_sum = 0, adaptive_sum = 0;
    adaptive_rounding(*net, images, {.iterations = 200, .batch_size = 16}, 1,
                      [&](const nn::WeightedLayer& layer, double nearest, double adaptive) {
                        layers.insert(layer.label());
                        if (adaptive < nearest) changed.insert(layer.label());
                        nearest_sum += nearest, adaptive_sum += adaptive;
                      });
    EXPECT_EQ(layers.size(), 6U);
    EXPECT_LT(adaptive_sum, nearest_sum);
    EXPECT_LT((net->forward(images) - reference).square().mean().item<double>(), before);
    for (const auto& step : net->steps()) {
      const auto* layer = dynamic_cast<const nn::WeightedLayer*>(step.layer.get());
      if (layer == nullptr || changed.count(layer->label()) == 0) continue;
      const Tensor w = layer->weight_to_quantize().detach();
      EXPECT_TRUE(at::allclose(layer->weight_quantizer()->forward(w), w, 1e-5, 1e-7)) << layer->label();
    }
  }
}

TEST_F(AdaptiveRounding, NeedsEvenlySpacedLevels) {
  at::manual_seed(3);
  test::MixedNet float_net(2);
  const Tensor images = at::randn({8, 3, 14, 14});
  const auto config =
      config::load_text("{weight: {quantizer: gfpq}}", "test.yaml", {}).root().as<quant::QuantizationConfig>();
  auto net = test::quantize(float_net, {3, 14, 14}, config, images);
  EXPECT_THROW(adaptive_rounding(*net, images, {}, 1, [](const nn::WeightedLayer&, double, double) {}), ConfigError);
}

}  // namespace
}  // namespace qat::trainers
