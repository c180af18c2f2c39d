// What every registered method must keep, whatever it is: the loops know only the registry, supports and traits.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <set>

#include "core/autograd/fake_quantize.h"
#include "core/base/error.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

using at::Tensor;

/// Tensors of these tests are small: on a machine with other work, threads would wait for each other longer than they
/// compute.
class OneThread : public testing::Environment {
  void SetUp() override { at::set_num_threads(1); }
};
const auto* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

/// Why a method does not take part in a check; printed by the first test.
struct Exemption {
  const char *method, *check, *why;
};
const Exemption kExemptions[] = {
    {"bfp", "levels", "every block has its own step: 2^bits levels a block (BlockFloatingPoint test)"},
    {"winograd", "levels", "levels exist in the transform domain (Winograd test)"},
    {"float16", "levels", "2^16 levels: more than the test's values"},
    {"bfloat16", "levels", "2^16 levels: more than the test's values"},
    {"bnn", "unsigned", "the sign of values that cannot be negative is always 1: refused"},
    {"apot", "bits", "terms must divide the magnitude bits: widths without a default need base_bits"},
    {"dorefa", "bits", "a signed activation of one bit would have three levels: refused"},
    {"gfpq", "reduced", "levels that are no codes: refused"},
    {"dorefa", "reduced", "odd codes up to 255: refused"},
    {"n2uq", "reduced", "odd codes up to 255: refused"},
    {"winograd", "reduced", "levels that are no codes: refused"},
    {"fp8", "reduced", "levels that are no codes: refused"},
    {"bfp", "reduced", "levels that are no codes: refused"},
    {"dorefa", "error", "weights are mapped to [-1, 1] by tanh, not approximated"},
    {"bnn", "error", "no scale: |y| is 1 whatever x is (closed form in the Bnn test)"},
    {"apot", "error", "weights are normalized, not approximated (closed form in the Apot test)"},
    {"pact", "error", "alpha is a training parameter, 6 at first, and not fitted to the data"},
};

bool exempt(const std::string& method, const std::string& check) {
  for (const Exemption& e : kExemptions) {
    if (method == e.method && check == e.check) return true;
  }
  return false;
}

TEST(Contract, ExemptionsSayWhy) {
  register_builtin();
  for (const Exemption& e : kExemptions) {
    std::cout << fmt::format("{:<14}{:<10}{}\n", e.method, e.check, e.why);
    EXPECT_TRUE(quant::quantizers().contains(e.method));
  }
}

/// Options beside the defaults that change what a method is.
const std::multimap<std::string, std::string> kVariants{
    {"minmax", "{ewgs: 0.1}"},          {"minmax", "{round: half_away}"}, {"minmax", "{clip: false}"},
    {"minmax", "{round: floor}"},       {"lsq", "{ewgs: 0.1}"},           {"lsq_plus", "{offset: real}"},
    {"dorefa", "{gradient: identity}"}, {"ternary", "{levels: ttq}"},     {"fp8", "{format: e5m2}"},
    {"fp8", "{scaled: false}"},         {"pow2", "{search: ceil}"},       {"winograd", "{tile: F43}"},
    {"pact", "{rounding_term: true}"},  {"dorefa", "{gradient_bits: 4}"}, {"apot", "{normalize: false}"},
};

struct Request {
  QuantSpec spec;
  std::string options = "{}";
};

constexpr int64_t kChannels = 6;

std::string name_of(const std::string& method, const Request& r) {
  return fmt::format("{} {} {} bits{}{} granularity {} {}", method, r.spec.is_weight() ? "weight" : "activation",
                     r.spec.bits, r.spec.is_signed ? " signed" : "",
                     r.spec.affine         ? " affine"
                     : r.spec.reduce_range ? " reduced"
                                           : "",
                     static_cast<int>(r.spec.granularity), r.options);
}

/// All that a method can be asked for, as far as its support says.
std::vector<Request> requests(const std::string& method) {
  const quant::Support& s = quant::quantizers().get(method).support();
  std::vector<Request> all;
  for (const int bits : std::set<int>{s.min_bits, std::clamp(4, s.min_bits, s.max_bits),
                                      std::clamp(8, s.min_bits, s.max_bits), s.max_bits}) {
    std::vector<QuantSpec> specs;
    for (const Granularity g : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup}) {
      if (!s.weights || (g != Granularity::kTensor && !s.channels)) continue;
      specs.push_back({.role = Role::kWeight, .bits = bits, .granularity = g, .channels = kChannels, .groups = 3});
      if (bits != 8) continue;
      specs.push_back(specs.back());
      specs.back().reduce_range = true;
    }
    if (s.activations) {
      if (!exempt(method, "unsigned")) specs.push_back({.bits = bits});
      specs.push_back({.bits = bits, .is_signed = true});
      specs.push_back({.bits = bits, .is_signed = true, .affine = true});
    }
    for (const QuantSpec& spec : specs) {
      all.push_back({spec, "{}"});
      const auto [begin, end] = kVariants.equal_range(method);
      for (auto v = begin; v != end; ++v) all.push_back({spec, v->second});
    }
  }
  return all;
}

using Maker = std::function<std::shared_ptr<quant::Quantizer>()>;

/// Calls check(maker of fresh quantizers, request) for every method and request. A method exempt from "bits" may refuse
/// a width, and rounding modes are for weights: everything else must work.
template <class Check>
void for_every_request(const Check& check) {
  register_builtin();
  for (const std::string& method : quant::quantizers().names()) {
    int made = 0;
    for (const Request& r : requests(method)) {
      SCOPED_TRACE(name_of(method, r));
      const Maker make_one = [&] { return make(method, r.spec, r.options); };
      try {
        make_one();
      } catch (const Error& error) {
        const bool rounding = r.options.find("round:") != std::string::npos && !r.spec.is_weight();
        EXPECT_TRUE(exempt(method, "bits") || rounding || (r.spec.reduce_range && exempt(method, "reduced")))
            << error.what();
        continue;
      }
      ++made;
      try {
        check(make_one, r);
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    }
    EXPECT_GT(made, 0) << method;
  }
}

Tensor gaussian(const QuantSpec& spec, int seed = 1) {
  at::manual_seed(seed);
  const Tensor x = at::randn({kChannels, 40, 3, 3});
  return spec.is_weight() || spec.is_signed ? x : x.abs();
}

/// One row a scale.
Tensor rows(const quant::Quantizer& q, const Tensor& x) { return x.reshape({q.spec().scales(), -1}); }

TEST(Contract, RequestsOutsideTheSupportAreRefused) {
  register_builtin();
  for (const std::string& method : quant::quantizers().names()) {
    SCOPED_TRACE(method);
    const quant::Support& s = quant::quantizers().get(method).support();
    const Role role = s.weights ? Role::kWeight : Role::kActivation;
    EXPECT_THROW(make(method, {.role = role, .bits = s.min_bits - 1, .is_signed = true}), Error);
    EXPECT_THROW(make(method, {.role = role, .bits = s.max_bits + 1, .is_signed = true}), Error);
    if (!s.activations) {
      EXPECT_THROW(make(method, {.bits = s.min_bits, .is_signed = true}), Error);
    }
    if (!s.weights) {
      EXPECT_THROW(make(method, {.role = Role::kWeight, .bits = s.min_bits}), Error);
    }
    EXPECT_THROW(make(method, {.role = role, .bits = s.min_bits, .is_signed = true}, "{no_such_key: 1}"), ConfigError);
    EXPECT_NE(quant::describe(method), "");
  }
}

TEST(Contract, ValuesKeepShapeAndLieOnTheLevels) {
  for_every_request([](const Maker& make_one, const Request& r) {
    const auto owner = make_one();
    quant::Quantizer& q = *owner;
    const Tensor x = gaussian(r.spec);
    EXPECT_THROW(q.forward(x), Error) << "usable before it was initialized";
    q.observe(x);
    q.initialize();
    q.eval();
    const Tensor y = q.forward(x);
    EXPECT_EQ(y.sizes(), x.sizes());
    EXPECT_EQ(y.scalar_type(), at::kFloat);
    EXPECT_TRUE(y.isfinite().all().item<bool>());
    EXPECT_TRUE(at::equal(q.forward(x), y)) << "not deterministic";
    if (!exempt(q.method(), "levels")) {
      for (int64_t i = 0; i < q.spec().scales(); ++i) {
        const Tensor row = rows(q, y)[i].contiguous();
        const auto* values = row.const_data_ptr<float>();
        EXPECT_LE(std::set<float>(values, values + row.numel()).size(), size_t{1} << r.spec.bits);
      }
    }
    if (q.traits().idempotent) {
      EXPECT_TRUE(at::equal(q.forward(y), y)) << "not idempotent";
    }
    if (!q.traits().affine) {
      EXPECT_NE(q.obstacle(), "");
      return;
    }
    // qparams() describe the same grid: every value is fl32(scale * integer), bit for bit.
    const quant::QParams p = q.qparams();
    ASSERT_EQ(p.scale.numel(), q.spec().scales());
    EXPECT_TRUE(p.scale.gt(0).all().item<bool>());
    const Tensor scale = p.scale.detach().view({-1, 1}), codes = (rows(q, y) / scale).round();
    EXPECT_TRUE(at::equal(codes * scale, rows(q, y)));
    const Tensor stored = codes + p.zero_point.view({-1, 1});
    if (q.traits().integer_levels || !r.spec.is_weight() || r.spec.reduce_range) {
      EXPECT_GE(stored.min().item<double>(), r.spec.lo());
      EXPECT_LE(stored.max().item<double>(), r.spec.hi());
    }
    EXPECT_LE(codes.abs().max().item<double>(), std::exp2(q.traits().code_bits));
  });
}

TEST(Contract, NormalizedWeightsSaySo) {
  for_every_request([](const Maker& make_one, const Request& r) {
    if (!r.spec.is_weight()) return;
    const Tensor x = gaussian(r.spec) / 8;
    const auto values_of = [&](const Tensor& weight) {
      const auto q = make_one();
      q->observe(weight);
      q->initialize();
      q->eval();
      return q->forward(weight);
    };
    // 4 where the values follow the weight; tanh and a learned range bend it.
    const double ratio = (values_of(4 * x).norm() / values_of(x).norm()).item<double>();
    EXPECT_EQ(make_one()->traits().normalizes, ratio < 2) << ratio;
  });
}

TEST(Contract, CodesOfTheIntegerPathAreThoseOfForward) {
  for_every_request([](const Maker& make_one, const Request& r) {
    const Tensor x = gaussian(r.spec);
    const auto q = started(make_one(), x);
    if (!q->obstacle().empty()) return;
    const Tensor y = q->forward(x);
    if (r.spec.is_weight()) {
      const autograd::QuantizedWeight w = q->quantize_weight(x);
      EXPECT_TRUE(at::equal(w.codes.to(at::kFloat) * w.scale.view({-1, 1, 1, 1}), y));
    } else if (q->traits().integer_levels) {
      EXPECT_TRUE(at::equal(autograd::encode(x, q->output(false)).dequantize(), y));
    } else {
      const ops::CodeRange range{r.spec.lo(), r.spec.hi(), zero_of(*q)};
      EXPECT_TRUE(at::equal(autograd::activation_codes(y, scale_of(*q), range).dequantize(), y));
    }
  });
}

TEST(Contract, OddInputsGiveFiniteValues) {
  for_every_request([](const Maker& make_one, const Request& r) {
    const double sign = r.spec.is_weight() || r.spec.is_signed ? -1.0 : 1.0;
    const std::pair<const char*, Tensor> inputs[] = {
        {"zeros", at::zeros({kChannels, 2, 3, 3})},
        {"constant", at::full({kChannels, 2, 3, 3}, 0.3f)},
        {"huge", at::full({kChannels, 2, 3, 3}, 1e30f)},
        {"huge and small",
         at::cat({at::full({kChannels, 1, 3, 3}, sign * 1e30f), at::full({kChannels, 1, 3, 3}, 1e-3f)}, 1)
             .to(at::kFloat)},
        {"denormal", at::full({kChannels, 2, 3, 3}, 1e-40f)},
        {"one element a row", at::full({kChannels, 1, 1, 1}, 0.7f)},
    };
    for (const auto& [name, x] : inputs) {
      SCOPED_TRACE(name);
      EXPECT_TRUE(started(make_one(), x)->forward(x).isfinite().all().item<bool>());
    }
    const Tensor empty = at::zeros({kChannels, 0, 3, 3});
    EXPECT_EQ(started(make_one(), gaussian(r.spec))->forward(empty).sizes(), empty.sizes());
  });
}

// What is not finite: a weight is refused, in the fast path too or by its scale; an activation saturates, and NaN gives
// some level or stays NaN in the formats that have one.
TEST(Contract, ValuesThatAreNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for_every_request([&](const Maker& make_one, const Request& r) {
    const Tensor x = gaussian(r.spec);
    const auto q = started(make_one(), x);
    for (const float bad : {kInfinity, kNan}) {
      Tensor damaged = x.clone();
      damaged[0][0][0][0] = bad;
      if (r.spec.is_weight()) {
        EXPECT_THROW(q->forward(damaged), Error);
        continue;
      }
      const Tensor y = q->forward(damaged);
      const bool kept = std::isnan(bad) && !q->traits().affine;
      if (!kept) {
        EXPECT_TRUE(y.isfinite().all().item<bool>()) << bad;
      }
      EXPECT_TRUE(y.slice(0, 1).isfinite().all().item<bool>());
    }
  });
}

TEST(Contract, GradientsReachLatentValuesAndParameters) {
  for_every_request([](const Maker& make_one, const Request& r) {
    const Tensor x = gaussian(r.spec);
    const auto q = started(make_one(), x);
    q->train();
    at::manual_seed(2);
    const Tensor dy = at::randn(x.sizes());
    const Passed p = pass(*q, x, dy);
    EXPECT_EQ(p.dx.sizes(), x.sizes());
    EXPECT_TRUE(p.dx.isfinite().all().item<bool>());
    EXPECT_GT(p.dx.ne(0).sum().item<int64_t>(), x.numel() / 4) << "the latent values learn nothing";
    for (const auto& item : q->named_parameters()) {
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_EQ(item.value().grad().sizes(), item.value().sizes());
      EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
    }
    // The gradient is linear in dy but for EWGS's sign and DoReFa's quantized gradient: doubling doubles.
    if (r.options.find("gradient_bits") == std::string::npos) {
      EXPECT_TRUE(at::allclose(pass(*q, x, dy * 2).dx, p.dx * 2));
    }
    q->project();
    q->eval();
    EXPECT_TRUE(q->forward(x).isfinite().all().item<bool>());
  });
}

TEST(Contract, TheWeightsGradientReachesIt) {
  for_every_request([](const Maker& make_one, const Request& r) {
    if (!r.spec.is_weight()) return;
    const Tensor w = gaussian(r.spec).set_requires_grad(true);
    const auto q = started(make_one(), w.detach());
    if (!q->obstacle().empty()) return;
    const Tensor dy = at::randn(w.sizes());
    const autograd::QuantizedWeight codes = q->quantize_weight(w);
    codes.handle.backward(dy);
    EXPECT_GT(w.grad().ne(0).sum().item<int64_t>(), w.numel() / 4);
    // As the plain forward's, but for learned steps, whose mask may differ by the half step at the range's ends.
    const Tensor plain = pass(*q, w.detach(), dy).dx;
    EXPECT_LE((plain != w.grad()).sum().item<int64_t>(), w.numel() / 10);
  });
}

TEST(Contract, StateSurvivesACopyByName) {
  for_every_request([](const Maker& make_one, const Request& r) {
    const Tensor x = gaussian(r.spec);
    const auto q = started(make_one(), x), copy = make_one();
    const at::NoGradGuard no_grad;
    for (auto& item : copy->named_parameters()) item.value().copy_(q->named_parameters()[item.key()]);
    for (auto& item : copy->named_buffers()) item.value().copy_(q->named_buffers()[item.key()]);
    copy->eval();
    const Tensor other = gaussian(r.spec, 7) * 1.5;
    EXPECT_TRUE(at::equal(copy->forward(other), q->forward(other)));
  });
}

TEST(Contract, ThreadsChangeNothing) {
  const int threads = at::get_num_threads();
  for_every_request([](const Maker& make_one, const Request& r) {
    // One request of each kind and method: the kernels are the same for the others.
    if (r.options != "{}" || r.spec.affine || r.spec.granularity != Granularity::kTensor ||
        r.spec.bits != quant::quantizers().get(make_one()->method()).support().min_bits) {
      return;
    }
    at::manual_seed(3);
    Tensor x = at::randn({kChannels, 64, 14, 14});  // above the kernels' threshold for threads
    if (!r.spec.is_weight() && !r.spec.is_signed) x = x.abs();
    const Tensor dy = at::randn_like(x);
    std::vector<Tensor> results[2];
    for (const int n : {1, 2}) {
      at::set_num_threads(n);
      const auto q = started(make_one(), x);
      const Passed p = pass(*q, x, dy);
      results[n - 1] = {p.y, p.dx};
      for (const Tensor& parameter : q->parameters()) results[n - 1].push_back(parameter.grad());
    }
    for (size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(at::allclose(results[0][i], results[1][i], 1e-6, 1e-7));
    EXPECT_TRUE(at::equal(results[0][0], results[1][0]));
  });
  at::set_num_threads(threads);
}

/// Signal to quantization noise of a Gaussian, dB.
double snr(const Tensor& x, const Tensor& y) {
  const Tensor a = x.to(at::kDouble), b = y.to(at::kDouble);
  return 10 * std::log10((a.square().sum() / (a - b).square().sum()).item<double>());
}

// The error of 36864 numbers of N(0, 1) at the method's own initial state. Expected decibels: the formula of each head
// comment in double precision, written a second time in another language; where the step follows the largest value, the
// tolerance is that maximum's spread.
TEST(Contract, ErrorOnAGaussian) {
  register_builtin();
  struct Expected {
    const char* method;
    int bits;
    double decibels, tolerance;
  };
  const Expected table[] = {
      {"minmax", 8, 40.1, 1.2},        // step max / 127
      {"lsq", 4, 15.18, 0.2},          // step 2 E|x| / sqrt(7)
      {"lsq_plus", 4, 18.96, 0.2},     // step 3 / 8
      {"tqt", 4, 16.80, 0.2},          // threshold 3: step 1 / 2
      {"pow2", 4, 16.82, 0.2},         // step 1 / 2
      {"xnor", 1, 4.396, 0.1},         // 10 log10(1 / (1 - 2 / pi))
      {"ternary", 2, 7.19, 0.1},       // TWN
      {"gfpq", 8, 38.04, 0.1},         // 16 codes an octave
      {"naive", 8, 34.4, 1.0},         // truncation: 5.7 dB below minmax
      {"n2uq", 4, 13.10, 0.3},         // clipped at 15 / 8 E|x|, 16 levels
      {"learned_bits", 4, 14.9, 0.8},  // step max / 7, 15 levels
      {"winograd", 8, 39.8, 1.2},      // F23
      {"float16", 16, 73.64, 0.2},    {"bfloat16", 16, 55.55, 0.2},
      {"fp8", 8, 31.54, 0.1},         {"bfp", 8, 42.81, 0.2},  // blocks of 16
  };
  std::set<std::string> covered;
  at::manual_seed(11);
  const Tensor x = at::randn({64, 64, 3, 3});
  for (const Expected& e : table) {
    SCOPED_TRACE(e.method);
    covered.insert(e.method);
    const quant::Support& s = quant::quantizers().get(e.method).support();
    const QuantSpec spec{.role = s.weights ? Role::kWeight : Role::kActivation, .bits = e.bits, .is_signed = true};
    EXPECT_NEAR(snr(x, started(make(e.method, spec), x)->forward(x)), e.decibels, e.tolerance);
  }
  for (const std::string& method : quant::quantizers().names()) {
    EXPECT_TRUE(covered.count(method) != 0 || exempt(method, "error")) << method << " has no oracle";
  }
}

}  // namespace
}  // namespace qat::quantizers
