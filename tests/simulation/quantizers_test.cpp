// Every method in a network: it trains, evaluates and freezes; its codes reach the engine bit for bit, or lowering says
// why not. The table is the decision per method.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/nn/weighted.h"
#include "tests/support/networks.h"
#include "tests/support/runtimes.h"

namespace qat::simulation {
namespace {

using at::Tensor;

constexpr int64_t kSize = 14;
/// Its depthwise convolution has an output that can be negative.
constexpr int kNet = 2;

struct Case {
  const char* name;
  const char* yaml;
  const char* refusal;  // "": lowered
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

const Case kCases[] = {
    {"minmax_group", "{rules: [{match: {type: conv2d}, weight: {bits: 4, granularity: group, groups: 2}}]}", ""},
    {"minmax_half_away", "{weight: {bits: 4, options: {round: half_away}}}", ""},
    {"minmax_stochastic", "{weight: {bits: 4, options: {round: stochastic}}}", ""},
    {"minmax_ewgs", "{weight: {bits: 4, options: {ewgs: 0.1}}, activation: {bits: 4, options: {ewgs: 0.1}}}", ""},
    {"minmax_symmetric", "{activation: {bits: 6, scheme: symmetric}, weight: {bits: 6, narrow_range: true}}", ""},
    {"minmax_percentile", "{calibration: {observer: percentile, options: {percentage: 99.9}}}", ""},
    {"lsq_ewgs", "{weight: {quantizer: lsq, bits: 3, options: {ewgs: 0.1}}, activation: {quantizer: lsq, bits: 4}}",
     ""},
    {"lsq_plus", "{weight: {quantizer: lsq_plus, bits: 4}, activation: {quantizer: lsq_plus, bits: 4}}", ""},
    {"pact", "{activation: {quantizer: pact, bits: 4, options: {alpha: 3, decay: 0.001}}}", ""},
    {"dorefa", "{weight: {quantizer: dorefa, bits: 4}, activation: {quantizer: dorefa, bits: 4}}", ""},
    {"dorefa_7", "{weight: {quantizer: dorefa, bits: 7}}", ""},
    {"dorefa_1", "{weight: {quantizer: dorefa, bits: 1}}", ""},
    {"dorefa_gradient", "{activation: {quantizer: dorefa, bits: 4, options: {gradient_bits: 6}}}", ""},
    {"tqt", "{weight: {quantizer: tqt, bits: 4}, activation: {quantizer: tqt, bits: 8}}", ""},
    {"pow2", "{weight: {quantizer: pow2, bits: 8}, activation: {quantizer: pow2, bits: 8}}", ""},
    {"bnn", "{weight: {quantizer: bnn}}", ""},
    {"xnor", "{weight: {quantizer: xnor}}", ""},
    {"twn", "{weight: {quantizer: ternary}}", ""},
    {"naive", "{weight: {quantizer: naive, bits: 8}}", ""},
    {"apot", "{weight: {quantizer: apot, bits: 4, options: {normalize: false, alpha: 0.5}}}", ""},
    {"learned_bits", "{weight: {quantizer: learned_bits, bits: 6}}", ""},
    {"bias_pow2", "{bias: {quantizer: pow2, bits: 8}}", ""},
    {"bias_lsq", "{weight: {granularity: tensor}, bias: {quantizer: lsq, bits: 5}}", ""},
    {"bias_float16", "{bias: {quantizer: float16}}", ""},
    // Wider codes, level tables, and codes that requantization does not give.
    {"minmax_12", "{weight: {bits: 12}}", "minmax with 12 bits needs 12-bit codes"},
    {"lsq_16", "{activation: {quantizer: lsq, bits: 16}}", "lsq with 16 bits needs 16-bit codes"},
    {"lsq_plus_real", "{activation: {quantizer: lsq_plus, bits: 4, options: {offset: real}}}", "levels of lsq_plus"},
    {"dorefa_8", "{weight: {quantizer: dorefa, bits: 8}}", "dorefa with 8 bits needs 9-bit codes"},
    {"ttq", "{weight: {quantizer: ternary, options: {levels: ttq}}}", "levels of ternary"},
    {"apot_7", "{weight: {quantizer: apot, bits: 7, options: {normalize: false, alpha: 0.5}}}", "levels of apot"},
    {"gfpq", "{weight: {quantizer: gfpq}, activation: {quantizer: gfpq}}", "weight: the levels of gfpq"},
    {"winograd", "{weight: {quantizer: winograd}}", "levels of winograd"},
    {"float16", "{weight: {quantizer: float16}, activation: {quantizer: float16}}", "levels of float16"},
    {"bfloat16", "{weight: {quantizer: bfloat16}, activation: {quantizer: bfloat16}}", "levels of bfloat16"},
    {"fp8", "{weight: {quantizer: fp8}, activation: {quantizer: fp8, options: {format: e5m2}}}", "levels of fp8"},
    {"bfp", "{weight: {quantizer: bfp}, activation: {quantizer: bfp, bits: 8}}", "levels of bfp"},
    {"n2uq_weight", "{weight: {quantizer: n2uq, bits: 4}}", ""},
    {"n2uq", "{activation: {quantizer: n2uq, bits: 4}}", "n2uq another one"},
    {"bnn_activation", "{weight: {quantizer: bnn}, rules: [{match: {name: depthwise}, activation: {quantizer: bnn}}]}",
     ""},
    {"bnn_activation_wide", "{rules: [{match: {name: depthwise}, activation: {quantizer: bnn}}]}", "exceeds int8"},
    {"bnn_input", "{rules: [{match: {name: stem}, input: {quantizer: bnn}}]}", "bnn another one"},
};

struct Data {
  Tensor images = at::randn({24, 3, kSize, kSize});
  Tensor labels = at::randint(0, 5, {24}, at::kLong);
  Tensor nhwc = images.permute({0, 2, 3, 1}).contiguous();

  judges::BatchSource source() const {
    return [this, done = false](judges::VerifyBatch& batch) mutable {
      if (done) return false;
      done = true;
      batch = {images.size(0), nhwc.const_data_ptr<float>(), labels.const_data_ptr<int64_t>()};
      return true;
    };
  }
};

class Methods : public testing::TestWithParam<Case> {};

TEST_P(Methods, TrainsAndLowersOrIsRefused) {
  const Case& c = GetParam();
  at::manual_seed(7);
  test::MixedNet float_net(kNet);
  const Data data;
  const auto config = config::load_text(c.yaml, "test.yaml", {}).root().as<quant::QuantizationConfig>();
  auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
  const auto latent = [&] { return net->named_parameters()["pointwise.weight"].detach().clone(); };

  for (const nn::Phase phase : {nn::Phase::kLive, nn::Phase::kFrozen}) {
    SCOPED_TRACE(static_cast<int>(phase));
    net->set_phase(phase);
    const Tensor before = latent();
    for (int step = 0; step < 3; ++step) {
      ASSERT_TRUE(std::isfinite(test::train_step(*net, data.images, data.labels, 0.01)));
      if (const Tensor penalty = net->penalty(); penalty.defined()) {
        EXPECT_GT(penalty.item<double>(), 0);
      }
    }
    EXPECT_FALSE(at::equal(latent(), before)) << "the latent weight does not train";
    const Tensor trained = latent();
    net->eval();
    {
      const at::NoGradGuard no_grad;
      const Tensor evaluated = net->forward(data.images);
      EXPECT_TRUE(evaluated.isfinite().all().item<bool>());
      EXPECT_TRUE(at::equal(net->forward(data.images), evaluated));
      EXPECT_TRUE(at::equal(latent(), trained)) << "evaluation changes the latent weight";
    }
    try {
      const judges::VerifyResult result = test::verify_everywhere(*net, data.source());
      EXPECT_STREQ(c.refusal, "") << "was lowered";
      EXPECT_TRUE(result.passed()) << result.mismatches << " codes differ";
    } catch (const ExportError& error) {
      EXPECT_STRNE(c.refusal, "") << error.what();
      EXPECT_THAT(error.what(), testing::HasSubstr(c.refusal));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Methods, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Methods, TheTableHasEveryMethod) {
  quantizers::register_builtin();
  std::string all;
  for (const Case& c : kCases) all += c.yaml;
  for (const std::string& method : quant::quantizers().names()) {
    if (method != "minmax") {
      EXPECT_THAT(all, testing::HasSubstr("quantizer: " + method));
    }
  }
}

// Where ONNX Runtime's default session saturates pairs of products, weights within 64 keep it exact.
TEST(Methods, ReducedRangesHoldInEveryMethodThatHasThem) {
  for (const char* method : {"minmax", "lsq", "lsq_plus", "tqt", "pow2", "naive", "learned_bits"}) {
    SCOPED_TRACE(method);
    at::manual_seed(7);
    test::MixedNet float_net(kNet);
    const Data data;
    const auto config =
        config::load_text(fmt::format("{{weight: {{quantizer: {}, reduce_range: true}}}}", method), "test.yaml", {})
            .root()
            .as<quant::QuantizationConfig>();
    auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
    net->set_phase(nn::Phase::kFrozen);
    for (int step = 0; step < 2; ++step) test::train_step(*net, data.images, data.labels, 0.01);
    net->eval();
    const integer::IntegerModel model = lower::lower(*net, {});
    int largest = 0;
    for (const integer::Node& node : model.nodes) {
      for (const int code : node.weight.codes) largest = std::max(largest, std::abs(code));
    }
    EXPECT_LE(largest, 64);
    if (std::string_view(method) == "minmax") {
      EXPECT_EQ(largest, 64);
    }
    const judges::VerifyResult result = test::verify_everywhere(*net, data.source());
    EXPECT_TRUE(result.passed()) << result.mismatches << " codes differ";
  }
}

// Running statistics settle on those of the batches, whatever a method makes of a weight's magnitude: evaluation with
// them is close to training with the batch's.
TEST(Methods, RunningStatisticsSettle) {
  for (const Case& c : kCases) {
    for (const char* granularity : {"", "weight.granularity=tensor"}) {
      SCOPED_TRACE(std::string(c.name) + " " + granularity);
      at::manual_seed(7);
      test::MixedNet float_net(kNet);
      const Data data;
      const std::vector<std::string> overrides =
          *granularity == 0 ? std::vector<std::string>() : std::vector<std::string>{granularity};
      const auto config = config::load_text(c.yaml, "test.yaml", overrides).root().as<quant::QuantizationConfig>();
      auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
      net->set_phase(nn::Phase::kLive);
      net->train();
      const at::NoGradGuard no_grad;
      Tensor trained;
      for (int step = 0; step < 60; ++step) trained = net->forward(data.images);
      net->eval();
      const Tensor evaluated = net->forward(data.images);
      EXPECT_LT((evaluated - trained).norm().item<double>(), 0.25 * trained.norm().item<double>());
    }
  }
}

// After the freeze the training forward is the evaluation, also where gradients come from forward().
TEST(Methods, FrozenTrainingIsEvaluation) {
  for (const char* yaml :
       {"{weight: {bits: 4, options: {round: stochastic}}}", "{activation: {quantizer: pact, bits: 4}}",
        "{weight: {quantizer: gfpq}}", "{activation: {quantizer: n2uq, bits: 4}, weight: {quantizer: xnor}}"}) {
    SCOPED_TRACE(yaml);
    at::manual_seed(8);
    test::MixedNet float_net(kNet);
    const Data data;
    const auto config = config::load_text(yaml, "test.yaml", {}).root().as<quant::QuantizationConfig>();
    auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
    net->set_phase(nn::Phase::kFrozen);
    net->eval();
    const Tensor evaluated = net->forward(data.images).detach();
    net->train();
    EXPECT_TRUE(at::equal(net->forward(data.images).detach(), evaluated));
  }
}

// The gradient of the slow path is that of the fast one where both exist.
TEST(Methods, ForwardSuppliesTheSameGradientAsCodes) {
  const auto gradient = [](const char* yaml) {
    at::manual_seed(9);
    test::MixedNet float_net(kNet);
    const Data data;
    const auto config = config::load_text(yaml, "test.yaml", {}).root().as<quant::QuantizationConfig>();
    auto net = test::quantize(float_net, {3, kSize, kSize}, config, data.images);
    net->set_phase(nn::Phase::kFrozen);
    net->train();
    at::cross_entropy_loss(net->forward(data.images), data.labels).backward();
    return net->named_parameters()["stem.weight"].grad().clone();
  };
  // A tiny EWGS factor switches the fast path off and changes the gradient by nothing to speak of.
  const Tensor fast = gradient("{activation: {quantizer: lsq, bits: 6}}");
  const Tensor slow = gradient("{activation: {quantizer: lsq, bits: 6, options: {ewgs: 1.0e-9}}}");
  EXPECT_LT((fast - slow).norm().item<double>(), 0.02 * fast.norm().item<double>());
}

}  // namespace
}  // namespace qat::simulation
