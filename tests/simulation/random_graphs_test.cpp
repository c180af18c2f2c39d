// Promise 1 on 500 random networks of all operators: traced, quantized, calibrated, lowered, exported. Simulation,
// engine and ONNX Runtime give the same codes. A failure names the seed; QAT_RANDOM_NETS makes longer searches.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/export/onnx.h"
#include "core/judges/onnxruntime.h"
#include "core/judges/verify.h"
#include "core/lower/lower.h"
#include "core/simulation/simulation.h"
#include "tests/support/networks.h"
#include "tests/support/onnxruntime.h"

namespace qat::judges {
namespace {

using at::Tensor;

/// A list of steps on all tensors so far, as a user might have written them.
class RandomNet : public torch::nn::Module {
 public:
  explicit RandomNet(uint64_t seed) : random_(seed, 91) {
    values_.push_back(at::zeros({2, between(1, 4), between(6, 13), between(6, 13)}));
    conv(0);
    const int64_t operators = between(1, 7);
    for (int64_t i = 0; i < operators; ++i) grow(chance(0.7) ? last() : pick_map());
    finish();
  }

  Tensor forward(const Tensor& x) {
    std::vector<Tensor> values{x};
    for (const Step& step : steps_) values.push_back(step(values));
    return values.back();
  }

  std::vector<int64_t> image() const { return values_[0].sizes().slice(1).vec(); }

 private:
  using Step = std::function<Tensor(const std::vector<Tensor>&)>;

  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_.below(static_cast<uint64_t>(most - least + 1)));
  }
  bool chance(double p) { return random_.uniform() < p; }

  size_t last() const { return values_.size() - 1; }
  size_t pick_map() { return static_cast<size_t>(between(1, static_cast<int64_t>(last()))); }
  int64_t size(size_t x, int64_t dim) const { return values_[x].size(dim); }

  size_t append(Step step) {
    values_.push_back(step(values_));
    steps_.push_back(std::move(step));
    return last();
  }
  size_t append(size_t x, const std::function<Tensor(const Tensor&)>& f) {
    return append([=](const std::vector<Tensor>& v) { return f(v[x]); });
  }

  size_t conv(size_t x, bool same = false) {
    const int64_t in = size(x, 1);
    std::vector<int64_t> divisors;
    for (int64_t d = 1; d <= in; ++d) {
      if (in % d == 0) divisors.push_back(d);
    }
    const int64_t groups = chance(0.6) ? 1 : divisors[static_cast<size_t>(between(0, std::ssize(divisors) - 1))];
    const int64_t out = same ? in : groups * between(1, groups > 2 ? 2 : 6);
    std::vector<int64_t> kernel, stride, padding, dilation;
    for (int64_t d = 2; d < 4; ++d) {
      const int64_t room = size(x, d);
      const int64_t k = std::min<int64_t>(same ? 3 : between(1, 5), room | 1);
      const bool wide = !same && chance(0.2) && 2 * (k - 1) < room;
      kernel.push_back(k);
      dilation.push_back(wide ? 2 : 1);
      padding.push_back(same || k > room ? k / 2 : between(0, k / 2));
      stride.push_back(same ? 1 : between(1, 2));
    }
    const Tensor weight = at::randn({out, in / groups, kernel[0], kernel[1]}) / std::sqrt(in / groups * kernel[0]);
    const std::string name = fmt::format("conv{}", steps_.size());
    const bool transposed = !same && size(x, 2) < 14 && size(x, 3) < 14 && chance(0.2);
    if (!transposed) register_parameter(name + "_weight", weight);
    Tensor bias;
    if (chance(0.5)) bias = register_parameter(name + "_bias", at::randn({out}) * 0.2);
    size_t y = 0;
    if (transposed) {
      // The other way round: kernel - 1 - padding may be negative.
      const std::vector<int64_t> extra{between(0, stride[0] - 1), between(0, stride[1] - 1)};
      const Tensor turned = weight.view({groups, out / groups, in / groups, kernel[0], kernel[1]})
                                .transpose(1, 2)
                                .reshape({in, out / groups, kernel[0], kernel[1]})
                                .contiguous();
      register_parameter(name + "_weight", turned);
      y = append(x, [=](const Tensor& t) {
        return at::conv_transpose2d(t, turned, bias, stride, padding, extra, groups, dilation);
      });
    } else {
      y = append(x, [=](const Tensor& t) {
        return at::conv2d(t, weight, bias, stride, at::IntArrayRef(padding), dilation, groups);
      });
    }
    if (chance(0.6)) {
      const auto norm = register_module(fmt::format("norm{}", steps_.size()), torch::nn::BatchNorm2d(out));
      const at::NoGradGuard no_grad;
      norm->weight.copy_(at::randn({out}));
      norm->bias.copy_(at::randn({out}) * 0.3);
      norm->running_mean.copy_(at::randn({out}) * 0.3);
      norm->running_var.copy_(at::rand({out}) + 0.5);
      y = append([=](const std::vector<Tensor>& v) { return torch::nn::BatchNorm2d(norm)->forward(v[y]); });
    }
    switch (between(0, 4)) {
      case 0:
        return append(y, [](const Tensor& t) { return at::relu(t); });
      case 1:
        return append(y, [](const Tensor& t) { return at::hardtanh(t, 0, 6); });
      case 2:
        return append(y, [](const Tensor& t) { return at::hardtanh(t, -0.5, 1); });
      default:
        return y;
    }
  }

  size_t activation(size_t x) {
    switch (between(0, 5)) {
      case 0:
        return append(x, [](const Tensor& t) { return at::sigmoid(t); });
      case 1:
        return append(x, [](const Tensor& t) { return at::silu(t); });
      case 2:
        return append(x, [](const Tensor& t) { return at::hardswish(t); });
      case 3:
        return append(x, [](const Tensor& t) { return at::hardsigmoid(t); });
      case 4:
        return append(x, [](const Tensor& t) { return at::leaky_relu(t, 0.1); });
      default:
        return append(x, [](const Tensor& t) { return at::relu(t); });
    }
  }

  void pool(size_t x) {
    const auto side = [&](int64_t d) { return std::min<int64_t>(between(2, 3), size(x, d)); };
    const std::vector<int64_t> k{side(2), side(3)}, s{between(1, 2), between(1, 2)};
    const std::vector<int64_t> p{between(0, k[0] / 2), between(0, k[1] / 2)};
    const bool count = chance(0.5);
    if (chance(0.5)) {
      append(x, [=](const Tensor& t) { return at::max_pool2d(t, k, s, p); });
    } else {
      append(x, [=](const Tensor& t) { return at::avg_pool2d(t, k, s, p, false, count); });
    }
  }

  void grow(size_t x) {
    const int64_t channels = size(x, 1);
    switch (between(0, 9)) {
      case 0:
      case 1:
        conv(x);
        return;
      case 2: {  // a residual block
        const size_t y = conv(x, true);
        append([=](const std::vector<Tensor>& v) { return v[y] + v[x]; });
        if (chance(0.5)) append(last(), [](const Tensor& t) { return at::relu(t); });
        return;
      }
      case 3: {  // squeeze and excitation, the gate on either side
        const size_t pooled = append(x, [](const Tensor& t) { return at::adaptive_avg_pool2d(t, {1, 1}); });
        const size_t gate = activation(conv(pooled, true));
        const bool first = chance(0.5);
        append([=](const std::vector<Tensor>& v) { return first ? v[gate] * v[x] : v[x] * v[gate]; });
        return;
      }
      case 4: {
        const size_t y = conv(x, true);
        append([=](const std::vector<Tensor>& v) { return at::cat({v[x], v[y]}, 1); });
        return;
      }
      case 5:
        return pool(x);
      case 6: {
        const int64_t length = between(1, channels), begin = between(0, channels - length);
        append(x, [=](const Tensor& t) { return t.narrow(1, begin, length); });
        return;
      }
      case 7: {
        if (channels % 2 != 0) break;
        append(x, [=](const Tensor& t) {
          const int64_t n = t.size(0), h = t.size(2), w = t.size(3);
          return t.view({n, 2, channels / 2, h, w}).transpose(1, 2).contiguous().view({n, -1, h, w});
        });
        return;
      }
      case 8: {
        const size_t y = conv(x, true);
        append([=](const std::vector<Tensor>& v) { return v[x] * v[y]; });
        return;
      }
      default:
        break;
    }
    activation(x);
  }

  void finish() {
    const size_t x = last();
    if (chance(0.7)) append(x, [](const Tensor& t) { return at::adaptive_avg_pool2d(t, {1, 1}); });
    append(last(), [](const Tensor& t) { return t.flatten(1); });
    if (chance(0.2)) return;
    const int64_t features = size(last(), 1);
    const Tensor weight = register_parameter("fc_weight", at::randn({5, features}) / std::sqrt(features));
    const Tensor bias = chance(0.5) ? register_parameter("fc_bias", at::randn({5})) : Tensor();
    append(last(), [=](const Tensor& t) { return at::linear(t, weight, bias); });
  }

  CounterRng random_;
  std::vector<Step> steps_;
  std::vector<Tensor> values_;  // of a batch of two zeros
};

/// Scales that are powers of two, and weights that are multiples of 2^-6: exact ties are common.
void make_ties(graph::GraphModule& net) {
  const at::NoGradGuard no_grad;
  for (auto& item : net.named_buffers()) {
    if (item.key().ends_with("output_quantizer.scale")) item.value().copy_(item.value().log2().ceil().exp2());
  }
  for (auto& item : net.named_parameters()) {
    Tensor p = item.value();
    if (p.dim() < 2) continue;
    p.mul_(64).round_().clamp_(-127, 127).div_(64);
    p.flatten(1).select(1, 0).fill_(127.0 / 64);
  }
}

uint64_t nets_per_test() {
  const char* given = std::getenv("QAT_RANDOM_NETS");
  return given == nullptr ? 50 : std::strtoull(given, nullptr, 10);
}

class RandomGraphs : public testing::TestWithParam<uint64_t> {};

TEST_P(RandomGraphs, GiveTheSameCodesEverywhere) {
  const uint64_t nets = nets_per_test();
  std::map<std::string, int> operators;
  uint64_t refused = 0;
  for (uint64_t seed = GetParam() * nets; seed < (GetParam() + 1) * nets; ++seed) {
    at::manual_seed(seed);
    RandomNet float_net(seed);
    quant::QuantizationConfig config;
    config.weight.quantizer = config.activation.quantizer = "minmax";
    config.weight.bits = std::vector<int>{8, 8, 4, 2}[seed % 4];
    config.activation.bits = std::vector<int>{8, 4, 8, 3, 2}[seed % 5];
    if (seed % 7 == 0) config.weight.granularity = "tensor";
    std::vector<int64_t> sizes = float_net.image();
    sizes.insert(sizes.begin(), 3);
    const Tensor images = at::randn(sizes) * 2;
    const auto net = test::quantize(float_net, float_net.image(), config, images);
    if (seed % 2 == 1) make_ties(*net);
    net->set_phase(nn::Phase::kFrozen);

    const integer::IntegerModel lowered = lower::lower(*net, {});
    std::string bytes;
    try {
      bytes = seed % 3 == 0 ? exporter::onnx_qoperator(lowered) : exporter::onnx_qdq(lowered);
    } catch (const ExportError&) {  // a pool of zeros alone has a scale that ONNX Runtime refuses
      ++refused;
      continue;
    }
    const integer::IntegerModel model = exporter::parse_onnx(bytes, "the export");
    SCOPED_TRACE(fmt::format("seed {}\n{}", seed, model.dump()));
    std::vector<std::unique_ptr<Judge>> judges;
    judges.push_back(std::make_unique<EngineJudge>(model));
    judges.push_back(std::make_unique<OnnxRuntimeJudge>(test::onnx_runtime(), bytes, model));
    const Tensor nhwc = images.permute({0, 2, 3, 1}).contiguous();
    const std::vector<int64_t> labels(3, 0);
    bool done = false;
    const VerifyResult result = verify(simulation::simulate(*net, model), model, judges, [&](VerifyBatch& batch) {
      if (std::exchange(done, true)) return false;
      batch = {3, nhwc.const_data_ptr<float>(), labels.data()};
      return true;
    });
    EXPECT_TRUE(result.passed());
    EXPECT_THAT(result.skipped, testing::IsEmpty());
    for (const JudgeResult& judge : result.judges) {
      EXPECT_EQ(judge.tensors.size(), model.nodes.size());
      EXPECT_THAT(judge.float_nodes, testing::IsEmpty());
      for (const TensorResult& t : judge.tensors) {
        EXPECT_EQ(t.mismatches, 0) << t.name << " of " << t.compared << " by " << judge.name;
      }
    }
    for (const integer::Node& node : model.nodes) {
      ++operators[node.is_spread() ? "transposed conv" : node.function.empty() ? to_string(node.op) : node.function];
    }
  }
  EXPECT_LE(refused, nets / 20);
  for (const char* op : {"conv", "transposed conv", "linear", "add", "mul", "concat", "max_pool", "average_pool", "global_average_pool",
                         "channel_slice", "channel_shuffle", "silu", "hardswish", "sigmoid"}) {
    EXPECT_GT(operators[op], 0) << op;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomGraphs, testing::Range<uint64_t>(0, 10));

}  // namespace
}  // namespace qat::judges
