#include "core/ops/cuda/optimizer.h"

#include <algorithm>
#include <memory>

#include "core/base/error.h"
#include "core/ops/sgd.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaOptimizer : public GpuTest {};

using Values = std::vector<float>;

/// Sizes around those of a thread's elements, a block's, and a piece.
constexpr int64_t kSizes[] = {1, 7, 8, 9, 2047, 4095, 4096, 4097, 10'001, 640};
constexpr int kParameters = static_cast<int>(std::size(kSizes));

/// Parameters and their gradients, on the device too. Of most of them an array, or all, are not aligned.
struct Network {
  explicit Network(bool with_first = true, bool with_second = false) {
    std::vector<ParameterUpdate> all;
    std::vector<UpdatePiece> cut;
    for (int i = 0; i < kParameters; ++i) {
      const int64_t n = kSizes[i];
      p.push_back(drawn<float>(n, i, std::normal_distribution<float>(0.0f, 0.1f)));
      g.push_back(drawn<float>(n, 100 + i, std::normal_distribution<float>()));
      const auto array = [&](int which, auto& arrays, const Values& values) {
        const int64_t shift = i % 6 == which || i % 6 == 5 ? 1 + i % 3 : 0;
        return arrays.emplace_back(std::make_unique<Array<float>>(values, shift))->data();
      };
      ParameterUpdate u;
      u.parameter = array(1, parameters, p.back());
      u.gradient = array(2, gradients, g.back());
      if (with_first) u.first = array(3, firsts, Values(n, 0.0f));
      if (with_second) u.second = array(4, seconds, Values(n, 0.0f));
      u.n = n;
      u.rate = i % 2;
      u.weight_decay = i % 3 == 0 ? 0.0f : 0.01f * static_cast<float>(i);
      if (i == 4) u.lowest = -0.05f, u.highest = 0.15f;
      if (i == 6) u.lowest = u.highest = 0.01f;  // not clipped
      all.push_back(u);
      for (int64_t begin = 0; begin < n; begin += kUpdatePiece) cut.push_back({i, begin});
    }
    options = all;
    all.emplace_back();  // one of no elements has no pieces
    updates = std::make_unique<Array<ParameterUpdate>>(all);
    pieces = std::make_unique<Array<UpdatePiece>>(cut);
    piece_count = static_cast<int64_t>(cut.size());
  }
  UpdateList list() const { return {updates->data(), pieces->data(), kParameters + 1, piece_count}; }
  void set_gradient(int i, const Values& values) {
    g[i] = values;
    check(cudaMemcpy(gradients[i]->data(), values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
  }

  std::vector<Values> p, g;
  std::vector<ParameterUpdate> options;
  std::vector<std::unique_ptr<Array<float>>> parameters, gradients, firsts, seconds;
  std::unique_ptr<Array<ParameterUpdate>> updates;
  std::unique_ptr<Array<UpdatePiece>> pieces;
  int64_t piece_count = 0;
};

const Values kRates{0.1f, 0.003f};

double measured(const Network& network, float clip_value, int32_t* failed) {
  const Array<double> norm(1), scratch(network.piece_count);
  const Array<int32_t> flag({*failed});
  measure_gradients(network.list(), clip_value, norm.data(), flag.data(), scratch.data(), nullptr);
  *failed = flag.host()[0];
  scratch.host();  // nothing behind it was written
  return norm.host()[0];
}

/// at::clamp, then at::mul.
Values clipped(Values g, float clip_value, double max_norm, double norm) {
  const double coefficient = max_norm > 0 ? max_norm / (norm + 1e-6) : 1.0;
  for (float& v : g) {
    if (clip_value > 0) v = std::min(std::max(v, -clip_value), clip_value);
    if (coefficient < 1) v *= static_cast<float>(coefficient);
  }
  return g;
}

TEST_F(CudaOptimizer, MeasuresTheNormOfWhatItClips) {
  for (const float clip_value : {0.0f, 0.5f, 100.0f}) {
    const Network network;
    long double squares = 0;
    for (const Values& g : network.g) {
      for (const float v : clipped(g, clip_value, 0, 0)) squares += static_cast<long double>(v) * v;
    }
    const auto expected = static_cast<double>(std::sqrt(squares));
    int32_t failed = 0;
    const double norm = measured(network, clip_value, &failed);
    EXPECT_NEAR(norm, expected, 1e-13 * expected);
    EXPECT_EQ(measured(network, clip_value, &failed), norm);
    EXPECT_EQ(failed, 0);
  }
  Network whole;  // sums of integers are exact
  double squares = 0;
  for (int i = 0; i < kParameters; ++i) {
    whole.set_gradient(i, Values(kSizes[i], static_cast<float>(i - 4)));
    squares += static_cast<double>(kSizes[i]) * (i - 4) * (i - 4);
  }
  int32_t failed = 0;
  EXPECT_EQ(measured(whole, 0.0f, &failed), std::sqrt(squares));
  for (int i = 0; i < kParameters; ++i) whole.set_gradient(i, Values(kSizes[i], i == 8 ? 3e38f : 0.0f));
  EXPECT_NEAR(measured(whole, 0.0f, &failed) / (static_cast<double>(3e38f) * std::sqrt(10'001.0)), 1.0, 1e-14);
  EXPECT_EQ(failed, 0);
}

TEST_F(CudaOptimizer, GradientsThatAreNotFiniteFail) {
  struct Place {
    int parameter;
    int64_t element;
  };
  for (const float wrong : {std::nanf(""), INFINITY, -INFINITY}) {
    for (const auto& [parameter, element] : {Place{0, 0}, Place{1, 6}, Place{7, 4096}, Place{8, 5000}, Place{9, 639}}) {
      for (const float clip_value : {0.0f, 0.5f}) {  // which hides an infinity from the norm
        Network network;
        Values g = network.g[parameter];
        g[element] = wrong;
        network.set_gradient(parameter, g);
        int32_t failed = 0;
        measured(network, clip_value, &failed);
        EXPECT_EQ(failed, 1) << wrong << " in " << parameter << " at " << element;
      }
    }
  }
  int32_t failed = 1;  // an earlier kernel's
  measured(Network(), 0.0f, &failed);
  EXPECT_EQ(failed, 1);
}

struct ClippingCase {
  float clip_value;
  double max_norm;
};
constexpr ClippingCase kClippings[] = {{0, 0}, {0.7f, 0}, {0, 1.5}, {0.7f, 1.5}, {0, 1e6}};

TEST_F(CudaOptimizer, SgdIsTheCpus) {
  for (const SgdOptions& options : {SgdOptions{}, SgdOptions{0.9f, false}, SgdOptions{0.9f, true}}) {
    for (const bool with_first : {true, false}) {  // without a momentum there is none to use
      for (const auto& [clip_value, max_norm] : kClippings) {
        SCOPED_TRACE(fmt::format("momentum {} {}, nesterov {}, clip {}, {}", options.momentum, with_first,
                                 options.nesterov, clip_value, max_norm));
        if (!with_first && clip_value != 0) continue;
        Network network(with_first);
        const bool has_momentum = with_first && options.momentum != 0;
        const Array<float> rates(kRates);
        const Array<int32_t> failed({0});
        std::vector<Values> v(kParameters);
        for (int step = 0; step < 3; ++step) {
          int32_t flag = 0;
          const double norm_now = measured(network, clip_value, &flag);
          const Array<double> norm({norm_now});
          sgd(network.list(), options, {clip_value, max_norm, norm.data()}, rates.data(), failed.data(), nullptr);
          for (int i = 0; i < kParameters; ++i) {
            const ParameterUpdate& u = network.options[i];
            Values& p = network.p[i];
            v[i].resize(p.size());
            ops::sgd_step({.learning_rate = kRates[u.rate],
                           .momentum = has_momentum ? options.momentum : 0.0f,
                           .weight_decay = u.weight_decay,
                           .nesterov = options.nesterov},
                          clipped(network.g[i], clip_value, max_norm, norm_now).data(), u.n, step == 0,
                          has_momentum ? v[i].data() : nullptr, p.data());
            for (float& value : p) {
              if (u.lowest < u.highest) value = std::clamp(value, u.lowest, u.highest);
            }
            SCOPED_TRACE(fmt::format("step {}, parameter {}", step, i));
            expect_equal(network.parameters[i]->host(), p);
            if (has_momentum) expect_equal(network.firsts[i]->host(), v[i]);
            if (!has_momentum && with_first) expect_equal(network.firsts[i]->host(), Values(p.size(), 0.0f));
            expect_equal(network.gradients[i]->host(), network.g[i]);
            network.set_gradient(i, drawn<float>(u.n, 1000 * step + i, std::normal_distribution<float>()));
          }
        }
      }
    }
  }
}

TEST_F(CudaOptimizer, SgdByHand) {
  const Array<float> p({1.0f, -2.0f}), g({0.5f, 8.0f}), v({2.0f, 4.0f}), rates({9.0f, 0.25f});
  const Array<ParameterUpdate> updates(
      std::vector<ParameterUpdate>{{p.data(), g.data(), v.data(), nullptr, 2, 1, 0.5f, -3.0f, 0.125f}});
  const Array<UpdatePiece> pieces(std::vector<UpdatePiece>{{0, 0}});
  const Array<int32_t> failed({0});
  const Array<double> norm({4.0 - 1e-6});
  // Clipped to 4 and halved: 0.25, 2; decayed: 0.75, 1; v = 1.75, 3; nesterov: 1.625, 2.5; p = 0.59375, -2.625.
  sgd({updates.data(), pieces.data(), 1, 1}, {0.5f, true}, {4.0f, 2.0, norm.data()}, rates.data(), failed.data(),
      nullptr);
  expect_equal(v.host(), {1.75f, 3.0f});
  expect_equal(p.host(), {0.125f, -2.625f});
}

/// A NaN is not hidden by a range.
TEST_F(CudaOptimizer, ParametersThatAreNotFiniteStaySo) {
  const Array<float> p({std::nanf(""), INFINITY}), g({1.0f, 1.0f}), rates({1.0f});
  const Array<ParameterUpdate> updates(
      std::vector<ParameterUpdate>{{p.data(), g.data(), nullptr, nullptr, 2, 0, 0, 0, 5}});
  const Array<UpdatePiece> pieces(std::vector<UpdatePiece>{{0, 0}});
  const Array<int32_t> failed({0});
  sgd({updates.data(), pieces.data(), 1, 1}, {}, {}, rates.data(), failed.data(), nullptr);
  expect_equal(p.host(), {std::nanf(""), 5.0f});
}

/// Kingma and Ba 2015 and Loshchilov and Hutter 2019 in double.
struct ReferenceAdam {
  void step(const AdamOptions& o, const ParameterUpdate& u, const Values& gradient, int t, double rate) {
    for (size_t i = 0; i < p.size(); ++i) {
      double g = gradient[i];
      if (o.decoupled) {
        p[i] -= rate * u.weight_decay * p[i];
      } else {
        g += u.weight_decay * p[i];
      }
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
      const double mean = m[i] / (1 - std::pow(o.beta1, t)), square = v[i] / (1 - std::pow(o.beta2, t));
      p[i] -= rate * mean / (std::sqrt(square) + o.eps);
      if (u.lowest < u.highest) p[i] = std::clamp<double>(p[i], u.lowest, u.highest);
    }
  }
  std::vector<double> p, m, v;
};

void expect_near(const Values& gpu, const std::vector<double>& expected, double relative, double absolute) {
  ASSERT_EQ(gpu.size(), expected.size());
  for (size_t i = 0; i < gpu.size(); ++i) {
    ASSERT_NEAR(gpu[i], expected[i], relative * std::abs(expected[i]) + absolute) << "at " << i;
  }
}

TEST_F(CudaOptimizer, AdamIsThatOfThePapers) {
  struct Case {
    AdamOptions options;
    ClippingCase clipping;
  };
  const Case cases[] = {{{}, {0, 0}},
                        {{.decoupled = true}, {0, 0}},
                        {{.beta1 = 0.3, .beta2 = 0.9, .eps = 1e-3}, {0.7f, 1.5}},
                        {{.beta1 = 0, .beta2 = 0.99, .eps = 1e-6, .decoupled = true}, {0, 1.5}}};
  for (const auto& [options, clipping] : cases) {
    SCOPED_TRACE(fmt::format("betas {}, {}, decoupled {}", options.beta1, options.beta2, options.decoupled));
    Network network(true, true);
    std::vector<ReferenceAdam> reference;
    for (const Values& p : network.p) {
      const std::vector<double> zero(p.size());
      reference.push_back({{p.begin(), p.end()}, zero, zero});
    }
    const Array<float> rates(kRates);
    const Array<int32_t> failed({0});
    constexpr int kAhead = 3;  // updates that the parameters of the other rate have had more
    for (int t = 1; t <= 4; ++t) {
      int32_t flag = 0;
      const double norm_now = measured(network, clipping.clip_value, &flag);
      const Array<double> norm({norm_now});
      const auto correct = [&](double at) {
        return std::pair(1 - std::pow(options.beta1, at), std::sqrt(1 - std::pow(options.beta2, at)));
      };
      const auto [first, second] = correct(t);
      const auto [first_later, second_later] = correct(t + kAhead);
      const Array<double> corrections({first, second, first_later, second_later});
      adam(network.list(), options, {clipping.clip_value, clipping.max_norm, norm.data()}, rates.data(),
           corrections.data(), failed.data(), nullptr);
      for (int i = 0; i < kParameters; ++i) {
        const ParameterUpdate& u = network.options[i];
        SCOPED_TRACE(fmt::format("step {}, parameter {}", t, i));
        const Values g = clipped(network.g[i], clipping.clip_value, clipping.max_norm, norm_now);
        reference[i].step(options, u, g, t + (u.rate == 0 ? 0 : kAhead), kRates[u.rate]);
        expect_near(network.parameters[i]->host(), reference[i].p, 1e-6, 1e-6 * kRates[u.rate]);
        expect_near(network.firsts[i]->host(), reference[i].m, 1e-6, 1e-6);
        expect_near(network.seconds[i]->host(), reference[i].v, 1e-6, 1e-9);
        network.set_gradient(i, drawn<float>(u.n, 1000 * t + i, std::normal_distribution<float>()));
      }
    }
  }
}

TEST_F(CudaOptimizer, AdamsFirstStepHasTheRatesLength) {
  const Array<float> p({1.0f, 2.0f, 3.0f}), g({1e-3f, -50.0f, 0.0f}), m({0, 0, 0}), v({0, 0, 0}), rates({0.5f});
  const Array<ParameterUpdate> updates(
      std::vector<ParameterUpdate>{{p.data(), g.data(), m.data(), v.data(), 3, 0, 0, 0, 0}});
  const Array<UpdatePiece> pieces(std::vector<UpdatePiece>{{0, 0}});
  const Array<int32_t> failed({0});
  const Array<double> corrections({1 - 0.9, std::sqrt(1 - 0.999), 1 - 0.9, std::sqrt(1 - 0.999)});
  adam({updates.data(), pieces.data(), 1, 1}, {}, {}, rates.data(), corrections.data(), failed.data(), nullptr);
  expect_near(p.host(), {0.5 + 0.5 * 1e-5, 2.5, 3.0}, 1e-6, 0);
  expect_near(m.host(), {1e-4, -5.0, 0.0}, 1e-6, 0);
  expect_near(v.host(), {1e-9, 2.5, 0.0}, 1e-6, 0);
}

TEST_F(CudaOptimizer, NothingMovesAfterAFailure) {
  const Network network(true, true);
  const Array<float> rates(kRates);
  const Array<int32_t> failed({1});
  const Array<double> corrections({0.1, 0.1, 0.1, 0.1});
  sgd(network.list(), {0.9f, true}, {}, rates.data(), failed.data(), nullptr);
  adam(network.list(), {}, {}, rates.data(), corrections.data(), failed.data(), nullptr);
  for (int i = 0; i < kParameters; ++i) {
    expect_equal(network.parameters[i]->host(), network.p[i]);
    expect_equal(network.firsts[i]->host(), Values(kSizes[i], 0.0f));
    expect_equal(network.seconds[i]->host(), Values(kSizes[i], 0.0f));
  }
}

TEST_F(CudaOptimizer, EmptyLists) {
  const Array<double> norm(1);
  const Array<int32_t> failed({0});
  measure_gradients({}, 0.0f, norm.data(), failed.data(), nullptr, nullptr);
  EXPECT_EQ(norm.host()[0], 0.0);
  sgd({}, {}, {}, nullptr, failed.data(), nullptr);
  adam({}, {}, {}, nullptr, nullptr, failed.data(), nullptr);
  EXPECT_EQ(failed.host()[0], 0);
}

TEST(CudaOptimizerArguments, RefusesImpossibleOnes) {
  const UpdateList many{nullptr, nullptr, 1, int64_t{1} << 31};
  EXPECT_THROW(measure_gradients(many, 0.0f, nullptr, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(measure_gradients({}, -1.0f, nullptr, nullptr, nullptr, nullptr), Error);
  EXPECT_THROW(sgd(many, {}, {}, nullptr, nullptr, nullptr), Error);
  const double norm = 1.0;
  for (const GradientClipping& clipping :
       {GradientClipping{-1.0f, 0, nullptr}, GradientClipping{0, -1.0, &norm},
        GradientClipping{std::nanf(""), 0, nullptr}, GradientClipping{0, 1, nullptr}}) {
    EXPECT_THROW(sgd({}, {}, clipping, nullptr, nullptr, nullptr), Error);
    EXPECT_THROW(adam({}, {}, clipping, nullptr, nullptr, nullptr, nullptr), Error);
  }
  for (const AdamOptions& options :
       {AdamOptions{.beta1 = 1.0}, AdamOptions{.beta2 = 1.0}, AdamOptions{.beta1 = -0.1}}) {
    EXPECT_THROW(adam({}, options, {}, nullptr, nullptr, nullptr, nullptr), Error);
  }
}

}  // namespace
}  // namespace qat::ops::cuda
