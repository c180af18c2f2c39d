// The reference vectors of tests/goldens/quantizers (format: its README), or of the folder QAT_QUANTIZER_GOLDENS.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/autograd/fake_quantize.h"
#include "core/quant/uniform.h"
#include "quantizers/apot.h"
#include "quantizers/gfpq.h"
#include "quantizers/observers/diffs.h"
#include "quantizers/observers/histogram.h"
#include "quantizers/observers/kl.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

using at::Tensor;
using Json = nlohmann::json;

double number(const Json& json) {
  if (json.is_number()) return json.get<double>();
  const auto text = json.get<std::string>();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  QAT_CHECK(text == "nan", "'{}' is no number", text);
  return std::numeric_limits<double>::quiet_NaN();
}

Tensor values(const Json& json) {
  std::vector<double> v;
  for (const Json& item : json) v.push_back(number(item));
  return at::tensor(v, at::kDouble);
}

Tensor floats(const Json& json) { return values(json).to(at::kFloat); }

/// A key of a case, in its shape where it has one.
Tensor floats(const Json& c, const char* key) {
  Tensor t = floats(c.at(key));
  return c.contains("shape") ? t.view(c.at("shape").get<std::vector<int64_t>>()) : t;
}

void expect_near(const Tensor& found, const Tensor& expected, double tolerance, const std::string& what) {
  const Tensor a = found.detach().to(at::kDouble).flatten(), b = expected.to(at::kDouble).flatten();
  ASSERT_EQ(a.numel(), b.numel()) << what;
  const Tensor far = (a - b).abs() > tolerance * b.abs().clamp_min(1.0);
  EXPECT_FALSE(far.any().item<bool>()) << what << ": " << a.index({far}) << " instead of " << b.index({far});
}

/// Relative to the expected value.
void expect_close(double found, double expected, double tolerance, const std::string& what) {
  EXPECT_NEAR(found, expected, tolerance * std::max(std::abs(expected), 1e-3)) << what;
}

void expect_equal(const Tensor& found, const Tensor& expected, const std::string& what) {
  const Tensor a = found.detach().flatten(), b = expected.flatten();
  const Tensor differs = (a == b).logical_or(a.isnan().logical_and(b.isnan())).logical_not();
  EXPECT_FALSE(differs.any().item<bool>())
      << what << ": " << a.index({differs}) << " instead of " << b.index({differs});
}

// ---- the hash of tests/goldens/torchvision/README.md

double uniform(const std::string& name, uint64_t index) {
  uint64_t seed = 0xCBF29CE484222325u;
  for (const unsigned char byte : name) seed = (seed ^ byte) * 0x100000001B3u;
  uint64_t z = seed + index * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ (z >> 31)) >> 40) * 0x1p-24;
}

Tensor generate(const Json& gen, int64_t n) {
  const auto name = gen.at("name").get<std::string>(), kind = gen.at("kind").get<std::string>();
  const double amp = gen.at("amp").get<double>(), off = gen.at("off").get<double>();
  QAT_CHECK(kind == "uni" || kind == "gauss", "unknown generator '{}'", kind);
  Tensor x = at::empty({n}, at::kFloat);
  for (int64_t i = 0; i < n; ++i) {
    double t = 0;
    if (kind == "uni") {
      t = 2 * uniform(name, i) - 1;
    } else {
      for (int k = 0; k < 12; ++k) t += uniform(name, 12 * i + k);
      t -= 6;
    }
    x.mutable_data_ptr<float>()[i] = static_cast<float>(t * amp + off);
  }
  return x;
}

std::string round_name(const std::string& golden) { return golden == "std_round" ? "half_away" : golden; }

QuantSpec weight_spec(int bits) { return {.role = Role::kWeight, .bits = bits}; }

autograd::AffineGrid torch_grid(const Json& c) {
  autograd::AffineGrid grid;
  const auto vector_of = [&](const char* key) {
    return c.at(key).is_array() ? floats(c.at(key)) : at::full({1}, number(c.at(key)), at::kFloat);
  };
  grid.scale = vector_of("scale");
  grid.lo = c.at("quant_min").get<int>(), grid.hi = c.at("quant_max").get<int>();
  grid.zero_point = vector_of("zero_point").round().clamp(grid.lo, grid.hi).to(at::kInt);
  grid.reciprocal = true;
  grid.gradient.mask = ops::GridGradient::Mask::kCode;
  if (c.contains("axis") && !c.at("axis").is_null()) grid.axis = c.at("axis").get<int64_t>();
  return grid;
}

// ---- one function a family

void fake_quantize(const Json& c) {
  const autograd::AffineGrid grid = torch_grid(c);
  const Tensor x = floats(c, "x").set_requires_grad(true);
  const Tensor y = autograd::fake_quantize(x, grid);
  y.backward(floats(c, "dy"));
  expect_equal(y, floats(c, "y"), "y");
  expect_equal(x.grad(), floats(c, "dx"), "dx");
  if (c.contains("q")) {
    expect_equal((y.detach() / grid.scale).round() + grid.zero_point, floats(c, "q"), "q");
  }
}

void learnable_fake_quantize(const Json& c) {
  autograd::AffineGrid grid = torch_grid(c);
  grid.gradient_scale = c.at("grad_factor").get<double>();
  const Tensor x = floats(c, "x").set_requires_grad(true), scale = grid.scale.clone().set_requires_grad(true);
  const Tensor zero = floats(c.at("zero_point")).set_requires_grad(true);
  grid.scale = scale;
  grid.offset = -(scale.detach() * zero);
  const Tensor y = autograd::fake_quantize(x, grid);
  y.backward(floats(c, "dy"));
  expect_equal(y, floats(c, "y"), "y");
  expect_equal(x.grad(), floats(c, "dx"), "dx");
  expect_near(scale.grad(), values(c.at("dscale")), 1e-5, "dscale");
  expect_near(zero.grad(), values(c.at("dzero_point")), 1e-5, "dzero_point");
}

quant::ScaleZero torch_params(bool symmetric, std::pair<double, double> range, int lo, int hi, int zero_point) {
  return quant::choose_params(symmetric ? quant::Scheme::kTorchSymmetric : quant::Scheme::kTorchAffine, range.first,
                              range.second, lo, hi, zero_point);
}

void fused_moving_average(const Json& c) {
  const auto shape = c.at("shape").get<std::vector<int64_t>>();
  const int64_t axis = c.at("ch_axis").get<int64_t>();
  const bool per_row = c.at("per_row").get<bool>();
  const int64_t n = per_row ? shape[axis] : 1;
  const int lo = c.at("quant_min").get<int>(), hi = c.at("quant_max").get<int>();
  std::vector<std::shared_ptr<quant::Observer>> observers;
  for (int64_t i = 0; i < n; ++i) {
    observers.push_back(
        make_observer("moving_average", {}, fmt::format("{{averaging: {}}}", number(c.at("averaging_const")))));
  }
  for (const Json& batch : c.at("batches")) {
    const Tensor x = floats(batch.at("x")).view(shape).set_requires_grad(true);
    const Tensor rows = x.detach().movedim(axis, 0);
    const Tensor scale = floats(batch.at("scale"));
    for (int64_t i = 0; i < n; ++i) {
      observers[i]->observe(per_row ? rows[i] : rows);
      const auto range = observers[i]->range();
      expect_close(range.first, number(batch.at("running_min")[i]), 1e-6, "running_min");
      expect_close(range.second, number(batch.at("running_max")[i]), 1e-6, "running_max");
      const auto scheme = c.at("symmetric").get<bool>() ? quant::Scheme::kTorchFused : quant::Scheme::kTorchAffine;
      const auto p = quant::choose_params(scheme, range.first, range.second, lo, hi, 0);
      EXPECT_NEAR(p.scale, scale[i].item<double>(), 1e-6 * p.scale);
      EXPECT_EQ(p.zero_point, batch.at("zero_point")[i].get<int>());
    }
    Json given = batch;
    given["quant_min"] = lo, given["quant_max"] = hi, given["axis"] = axis, given["shape"] = shape;
    fake_quantize(given);
  }
}

void observer(const Json& c) {
  const auto shape = c.at("shape").get<std::vector<int64_t>>();
  const auto name = c.at("observer").get<std::string>();
  const Json& kwargs = c.at("kwargs");
  const bool per_channel = name.find("PerChannel") != std::string::npos, histogram = name == "HistogramObserver";
  const bool symmetric = kwargs.at("qscheme").get<std::string>().find("symmetric") != std::string::npos;
  const int lo = c.at("quant_min").get<int>(), hi = c.at("quant_max").get<int>();
  const int64_t axis = kwargs.value("ch_axis", 0), n = per_channel ? shape[axis] : 1;
  const int symmetric_zero = kwargs.at("dtype") != "quint8" ? 0 : kwargs.contains("quant_min") ? (lo + hi) / 2 : 128;
  std::string ours = "minmax", options = "{}";
  if (histogram) {
    ours = "histogram", options = fmt::format("{{bins: {}}}", kwargs.value("bins", 2048));
  } else if (name.find("MovingAverage") == 0) {
    ours = "moving_average", options = fmt::format("{{averaging: {}}}", kwargs.value("averaging_constant", 0.01));
  } else {
    QAT_CHECK(name == "MinMaxObserver" || name == "PerChannelMinMaxObserver", "unknown observer '{}'", name);
  }
  std::vector<std::shared_ptr<quant::Observer>> observers;
  for (int64_t i = 0; i < n; ++i) observers.push_back(make_observer(ours, {.bits = 8, .is_signed = true}, options));

  for (const Json& batch : c.at("batches")) {
    const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    const Tensor x = generate(batch.at("gen"), count).view(shape), rows = x.movedim(axis, 0);
    expect_close(x.to(at::kDouble).sum().item<double>(), number(batch.at("x_sum")), 1e-6, "x_sum");
    for (int64_t i = 0; i < n; ++i) {
      observers[i]->observe(per_channel ? rows[i].contiguous() : x);
      const auto range = observers[i]->range();
      const auto p = torch_params(symmetric, range, lo, hi, symmetric_zero);
      if (histogram) {
        const auto h = dynamic_cast<const HistogramBase&>(*observers[i]).histogram();
        expect_close(h.min, number(batch.at("min_val")[i]), 1e-6, "min_val");
        expect_close(h.max, number(batch.at("max_val")[i]), 1e-6, "max_val");
        if (batch.contains("search_min")) {
          EXPECT_NEAR(range.first, number(batch.at("search_min")), 2 * h.width());
          EXPECT_NEAR(range.second, number(batch.at("search_max")), 2 * h.width());
        }
        EXPECT_NEAR(p.scale, number(batch.at("scale")[i]), 0.01 * p.scale);
        EXPECT_NEAR(p.zero_point, batch.at("zero_point")[i].get<int>(), 1);
        continue;
      }
      expect_close(range.first, number(batch.at("min_val")[i]), 1e-6, "min_val");
      expect_close(range.second, number(batch.at("max_val")[i]), 1e-6, "max_val");
      EXPECT_NEAR(p.scale, number(batch.at("scale")[i]), 1e-6 * p.scale);
      EXPECT_EQ(p.zero_point, batch.at("zero_point")[i].get<int>());
    }
  }
}

void kl(const Json& c) {
  const auto bins = c.at("bins").get<int64_t>();
  const int bits = static_cast<int>(std::lround(std::log2(c.at("levels").get<double>())));
  for (const bool guarded : {false, true}) {
    const auto o = make_observer("kl", {.bits = bits}, fmt::format("{{bins: {}, guarded: {}}}", bins, guarded));
    for (const Json& batch : c.at("batches")) o->observe(at::relu(generate(batch, batch.at("n").get<int64_t>())));
    const auto& found = dynamic_cast<const KlObserver&>(*o);
    EXPECT_NEAR(found.largest(), number(c.at("max")), 1e-6);
    expect_equal(o->named_buffers()["counts"], values(c.at("histogram")), "histogram");
    const Json& expected = guarded ? c.at("guarded") : c;
    EXPECT_EQ(found.search().bins, expected.at("best_bins").get<int64_t>());
    EXPECT_NEAR(found.search().divergence, number(expected.at("divergence")), 1e-8);
    EXPECT_NEAR(found.range().second, number(expected.at("threshold")), 1e-6);
  }
}

void gfpq(const Json& c) {
  const int bits = c.value("bits", 8);
  const bool carried = !c.at("z_in").is_null();
  const auto q = make("gfpq", {.role = carried ? Role::kActivation : Role::kWeight, .bits = bits});
  const Tensor x = floats(c, "x");
  if (carried) {
    set_state(*q, "z", at::full({1}, c.at("z_in").get<int64_t>(), at::kLong));
  } else {
    started(q, x);
  }
  const Tensor dy = at::rand_like(x);
  const Passed p = pass(*q, x, dy);
  expect_near(p.y, values(c.at("y")), 1e-6, "y");
  EXPECT_TRUE(((p.y == 0) == (values(c.at("y")) == 0)).all().item<bool>());
  expect_equal(p.dx, dy, "dx");
  expect_equal(dynamic_cast<const Gfpq&>(*q).codes(x).to(at::kDouble), values(c.at("code")), "code");
  if (!c.at("z").is_null()) {
    EXPECT_EQ(state(*q, "z").item<int64_t>(), c.at("z").get<int64_t>());
  }
}

void dorefa(const Json& c) {
  const int bits = c.at("bits").get<int>();
  const Tensor x = floats(c, "x"), dy = floats(c, "dy");
  if (c.at("kind") == "activation") {
    const auto q = started(make("dorefa", {.bits = bits}), x);
    const Passed p = pass(*q, x, dy);
    expect_near(p.y, values(c.at("y")), 1e-6, "y");
    expect_near(p.dx, values(c.at("dx")), 1e-6, "dx");
    return;
  }
  QAT_CHECK(c.at("kind") == "weight", "unknown kind {}", c.at("kind").dump());
  const std::pair<const char*, const char*> gradients[] = {{"tanh", "dx_tanh_max_differentiated"},
                                                           {"tanh_max_constant", "dx_tanh_max_constant"},
                                                           {"identity", "dx_identity"}};
  for (const auto& [ours, key] : gradients) {
    const auto q =
        started(make("dorefa", weight_spec(bits), fmt::format("{{gradient: {}, scaled_sign: false}}", ours)), x);
    const Passed p = pass(*q, x, dy);
    expect_near(p.y, values(c.at("y")), 1e-6, "y");
    expect_near(p.dx, values(c.at(key)), 1e-6, key);
  }
  if (c.contains("y_paper_1bit")) {
    const Passed p = pass(*started(make("dorefa", weight_spec(1)), x), x, dy);
    expect_near(p.y, values(c.at("y_paper_1bit")), 1e-6, "y_paper_1bit");
    expect_equal(p.dx, dy, "the gradient of the sign");
  }
}

void bnn(const Json& c) {
  const Tensor x = floats(c, "x"), dy = floats(c, "dy");
  const Passed w = pass(*started(make("bnn", weight_spec(1)), x), x, dy);
  expect_equal(w.y, floats(c, "y"), "y");
  expect_equal(w.dx, floats(c, "dx_identity"), "dx_identity");
  const Passed a = pass(*started(make("bnn", {.bits = 1, .is_signed = true}), x), x, dy);
  expect_equal(a.y, floats(c, "y"), "y");
  expect_equal(a.dx, floats(c, "dx_clip"), "dx_clip");
  QuantSpec rows = weight_spec(1);
  rows.granularity = Granularity::kChannel, rows.channels = x.size(0);
  const auto xnor = started(make("xnor", rows), x);
  expect_near(pass(*xnor, x, dy).y, values(c.at("xnor_y")), 1e-6, "xnor_y");
  expect_near(xnor->qparams().scale, values(c.at("xnor_alpha")), 1e-6, "xnor_alpha");
}

void lsq(const Json& c) {
  const int bits = c.at("bits").get<int>();
  const bool is_signed = c.at("signed").get<bool>(), plus = c.contains("beta");
  const Json& axis = c.at("per_channel_axis");
  Tensor x = floats(c, "x"), dy = floats(c, "dy"), y = floats(c, "y"), dx = floats(c, "dx");
  QuantSpec spec = weight_spec(bits);
  if (!is_signed) {
    // Gradient scales of activations count the elements of a sample.
    spec.role = Role::kActivation, spec.is_signed = plus;
    for (Tensor* t : {&x, &dy, &y, &dx}) *t = t->view({1, -1});
  } else if (!axis.is_null()) {
    for (Tensor* t : {&x, &dy, &y, &dx}) *t = t->movedim(axis.get<int64_t>(), 0).contiguous();
    spec.granularity = Granularity::kChannel, spec.channels = x.size(0);
  }
  QuantSpec plain = spec;
  if (!is_signed) plain.is_signed = false;
  expect_near(started(make("lsq", plain), x)->qparams().scale, values(c.at("s_init")), 1e-6, "s_init");

  const auto q = plus ? make("lsq_plus", spec, "{offset: real}") : make("lsq", spec);
  set_state(*q, "scale", floats(c.at("s")));
  if (plus) set_state(*q, "offset", at::full({1}, number(c.at("beta")), at::kFloat));
  const Passed p = pass(*q, x, dy);
  expect_near(p.y, y, 1e-6, "y");
  expect_near(p.dx, dx, 1e-6, "dx");
  const Tensor ds = state(*q, "scale").grad();
  expect_near(ds / values(c.at("ds")), at::ones_like(ds), 1e-5, "ds / expected");
  if (plus) expect_close(state(*q, "offset").grad().item<double>(), number(c.at("dbeta")), 1e-5, "dbeta");
}

void pact(const Json& c) {
  const Tensor x = floats(c, "x"), dy = floats(c, "dy");
  for (const bool rounding_term : {false, true}) {
    if (rounding_term && !c.contains("dalpha_with_rounding_term")) continue;
    const auto q = make("pact", {.bits = c.at("bits").get<int>()}, fmt::format("{{rounding_term: {}}}", rounding_term));
    set_state(*q, "alpha", at::full({1}, number(c.at("alpha")), at::kFloat));
    const Passed p = pass(*q, x, dy);
    expect_near(p.y, values(c.at("y")), 1e-6, "y");
    expect_near(p.dx, values(c.at("dx")), 1e-6, "dx");
    const char* key = rounding_term ? "dalpha_with_rounding_term" : "dalpha";
    expect_near(state(*q, "alpha").grad(), at::full({1}, number(c.at(key)), at::kDouble), 1e-5, key);
  }
}

void tqt(const Json& c) {
  const Tensor x = floats(c, "x"), dy = floats(c, "dy");
  QuantSpec spec = weight_spec(c.at("bits").get<int>());
  if (!c.at("signed").get<bool>()) spec.role = Role::kActivation;
  const auto q = make("tqt", spec);
  set_state(*q, "log2_t", at::full({1}, number(c.at("log2_t")), at::kFloat));
  EXPECT_EQ(scale_of(*q), static_cast<float>(number(c.at("scale"))));
  EXPECT_EQ(spec.lo(), c.at("n").get<int>());
  EXPECT_EQ(spec.hi(), c.at("p").get<int>());
  const Passed p = pass(*q, x, dy);
  expect_near(p.y, values(c.at("y")), 1e-6, "y");
  expect_near(p.dx, values(c.at("dx")), 1e-6, "dx");
  const Tensor codes = values(c.at("q")).clamp(spec.lo(), spec.hi());
  expect_equal((p.y / scale_of(*q)).to(at::kDouble), codes, "q");
  expect_close(state(*q, "log2_t").grad().item<double>(), number(c.at("dlog2_t")), 1e-5, "dlog2_t");
}

void power_of_two(const Json& c) {
  const auto kind = c.at("kind").get<std::string>();
  const int bits = c.at("bits").get<int>();
  const Tensor x = floats(c, "x");
  if (kind == "pot_levels") {
    const auto q = make("apot", weight_spec(bits), fmt::format("{{base_bits: {}, normalize: false}}", bits - 1));
    set_state(*q, "alpha", at::full({1}, number(c.at("alpha")), at::kFloat));
    const auto& levels = dynamic_cast<const Apot&>(*q).levels();
    const Tensor expected = values(c.at("levels"));
    expect_near(at::tensor(levels, at::kDouble) / levels.back(), expected / expected.max(), 1e-9, "levels");
    const Passed p = pass(*q, x, floats(c, "dy"));
    expect_near(p.y, values(c.at("y")), 1e-6, "y");
    expect_near(p.dx, values(c.at("dx")), 1e-6, "dx");
    return;
  }
  const std::string round = round_name(c.at("round_mode").get<std::string>());
  QAT_CHECK(kind == "vitis_diffs" || kind == "pow2_ceil_scale", "unknown kind '{}'", kind);
  const auto q =
      started(make("pow2", weight_spec(bits),
                   fmt::format("{{search: {}, round: {}}}", kind == "vitis_diffs" ? "diffs" : "ceil", round)),
              x);
  EXPECT_EQ(scale_of(*q), static_cast<float>(number(c.at("scale"))));
  const Passed p = pass(*q, x, at::ones_like(x));
  expect_equal((p.y / scale_of(*q)).to(at::kDouble), values(c.at("q")), "q");
  expect_near(p.y, values(c.at("y")), 1e-6, "y");
  if (kind != "vitis_diffs") return;
  const QuantSpec spec = weight_spec(bits);
  const FixPosition found = find_fix_position(x.const_data_ptr<float>(), x.numel(),
                                              {.bits = bits,
                                               .lo = static_cast<double>(spec.lo()),
                                               .hi = static_cast<double>(spec.hi()),
                                               .rounding = ops::rounding_from(round)});
  EXPECT_EQ(found.value, c.at("fp").get<int>());
  EXPECT_EQ(found.no_overflow, c.at("fp_no_overflow").get<int>());
}

void rounding(const Json& c) {
  const Tensor x = floats(c, "x");
  int modes = 0;
  for (const auto& [key, expected] : c.items()) {
    if (key == "name" || key == "x" || key == "note") continue;
    const ops::Rounding mode = ops::rounding_from(round_name(key));
    Tensor y = at::empty_like(x);
    for (int64_t i = 0; i < x.numel(); ++i) {
      y.mutable_data_ptr<float>()[i] = ops::round_to(x.const_data_ptr<float>()[i], mode);
    }
    expect_equal(y, floats(expected), key);
    ++modes;
  }
  EXPECT_GT(modes, 0);
}

using Check = void (*)(const Json&);

/// By what `op` starts with.
const std::pair<const char*, Check> kFamilies[] = {
    {"torch.fake_quantize_per_tensor_affine", fake_quantize},
    {"torch.fake_quantize_per_channel_affine", fake_quantize},
    {"torch._fake_quantize_learnable", learnable_fake_quantize},
    {"torch.fused_moving_avg_obs_fake_quant", fused_moving_average},
    {"torch.ao.quantization.observer", observer},
    {"KL calibration", kl},
    {"HiSilicon GFPQ", gfpq},
    {"DoReFa", dorefa},
    {"BNN", bnn},
    {"LSQ", lsq},
    {"PACT", pact},
    {"TQT", tqt},
    {"power-of-two", power_of_two},
    {"rounding", rounding},
};

TEST(quantizer_golden, AllVectors) {
  register_builtin();
  const char* given = std::getenv("QAT_QUANTIZER_GOLDENS");
  const std::filesystem::path folder = given != nullptr ? given : QAT_SOURCE_DIR "/tests/goldens/quantizers";
  int files = 0, cases = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    SCOPED_TRACE(entry.path().filename().string());
    std::ifstream stream(entry.path());
    const Json file = Json::parse(stream);
    const auto op = file.at("op").get<std::string>();
    Check check = nullptr;
    for (const auto& [prefix, run] : kFamilies) {
      if (op.rfind(prefix, 0) == 0) check = run;
    }
    if (check == nullptr) {
      ADD_FAILURE() << "unknown op '" << op << "'";
      continue;
    }
    ++files;
    for (const Json& c : file.at("cases")) {
      SCOPED_TRACE(c.at("name").get<std::string>());
      ++cases;
      try {
        check(c);
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    }
  }
  std::cout << files << " files, " << cases << " cases in " << folder.string() << "\n";
  EXPECT_GT(cases, 0) << "no vectors in " << folder;
}

}  // namespace
}  // namespace qat::quantizers
