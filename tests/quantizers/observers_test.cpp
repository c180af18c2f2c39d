// Ranges by hand; tests/quantizers/golden_test.cpp compares with torch.ao and Quantization.MXNet.
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "quantizers/observers/histogram.h"
#include "quantizers/observers/kl.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

using Range = std::pair<double, double>;

void expect_range(const quant::Observer& o, double min, double max, double tolerance = 1e-12) {
  EXPECT_NEAR(o.range().first, min, tolerance);
  EXPECT_NEAR(o.range().second, max, tolerance);
}

TEST(Observers, EveryOneRefusesWhatIsNotFiniteAndEmptyState) {
  register_builtin();
  for (const std::string& name : quant::observers().names()) {
    SCOPED_TRACE(name);
    auto o = make_observer(name, {.bits = 4, .is_signed = true, .affine = true});
    EXPECT_THROW(o->range(), Error);
    EXPECT_THROW(o->observe(at::tensor({1.0f, std::nanf("")})), Error);
    EXPECT_THROW(o->observe(at::tensor({1.0f, INFINITY})), Error);
    EXPECT_FALSE(o->has_data());
    o->observe(at::empty({0}));
    EXPECT_FALSE(o->has_data());
    EXPECT_THROW(make_observer(name, {}, "{no_such_key: 1}"), ConfigError);
  }
}

TEST(Observers, EveryOneKeepsTheBulkAndSurvivesACopy) {
  register_builtin();
  for (const std::string& name : quant::observers().names()) {
    SCOPED_TRACE(name);
    // Whatever an 8-bit search cuts from a Gaussian, its bulk stays.
    auto o = make_observer(name, {.bits = 8, .is_signed = true});
    at::manual_seed(0);
    const at::Tensor x = at::randn({4, 5000});
    o->observe(x);
    o->observe(x * 0.5);
    const auto [min, max] = o->range();
    EXPECT_LT(min, -1.0);
    EXPECT_GT(max, 1.0);
    EXPECT_LE(max, 9.0);
    auto copy = make_observer(name, {.bits = 8, .is_signed = true});
    for (auto& item : copy->named_buffers()) item.value().copy_(o->named_buffers()[item.key()]);
    EXPECT_EQ(copy->range(), o->range());
    // An all-zero tensor has the range 0.
    auto zero = make_observer(name, {.bits = 8, .is_signed = true});
    zero->observe(at::zeros({10}));
    EXPECT_LE(std::abs(zero->range().first), 0.04);
    EXPECT_LE(zero->range().second, 0.04);
  }
}

/// Half as many steps: what a width less has.
TEST(Observers, FollowAReducedRange) {
  at::manual_seed(0);
  const at::Tensor values = at::randn({20000});
  for (const char* name : {"kl", "histogram"}) {
    const auto role = quant::Role::kWeight;
    auto reduced = make_observer(name, {.role = role, .bits = 8, .is_signed = true, .reduce_range = true});
    auto narrow = make_observer(name, {.role = role, .bits = 7, .is_signed = true});
    auto whole = make_observer(name, {.role = role, .bits = 8, .is_signed = true});
    for (auto* o : {&reduced, &narrow, &whole}) (*o)->observe(values);
    EXPECT_EQ(reduced->range(), narrow->range()) << name;
    EXPECT_NE(reduced->range(), whole->range()) << name;
  }
}

TEST(Observers, RangesOfBatches) {
  auto o = make_observer("moving_average");
  o->observe(-1.0, 4.0);
  o->observe(-3.0, 2.0);
  expect_range(*o, -1.02, 3.98);
  auto m = make_observer("minmax");
  m->observe(-1.0, 4.0);
  m->observe(-3.0, 2.0);
  expect_range(*m, -3, 4);
  auto r = make_observer("running_max");
  r->observe(0.5, 2.0);
  expect_range(*r, 0, 2);
  r->observe(-3.0, 1.0);
  r->observe(-1.0, 1.0);
  expect_range(*r, -3, 3);
  auto l = make_observer("online");
  l->observe(-3.0, 2.0);
  l->observe(-1.0, 1.0);
  expect_range(*l, -1, 1);
  EXPECT_THROW(m->observe(0.0, std::nan("")), Error);
  EXPECT_THROW(make_observer("mse")->observe(0.0, 1.0), Error) << "needs the values";
}

TEST(Observers, MovingAverageVariants) {
  // Quantization.MXNet: from 0, without a correction: after two batches of 1, 1 - 0.9^2.
  auto zero = make_observer("moving_average", {}, "{averaging: 0.1, start: zero}");
  auto debiased = make_observer("moving_average", {}, "{averaging: 0.1, start: debiased}");
  for (int i = 0; i < 2; ++i) zero->observe(-1.0, 1.0), debiased->observe(-1.0, 1.0);
  expect_range(*zero, -0.19, 0.19);
  expect_range(*debiased, -1, 1);
  auto samples = make_observer("moving_average", {}, "{per_sample: true}");
  samples->observe(at::tensor({-1.0f, 3.0f, -2.0f, 5.0f}).view({2, 2}));
  expect_range(*samples, -1.5, 4);
  EXPECT_FALSE(samples->takes_ranges());
}

TEST(Observers, StatisticsOfBatches) {
  const std::vector<Range> batches{{-1, 2}, {-4, 2.02}, {-2, 8}, {-1.01, 3}};
  const auto of = [&](const std::string& statistic) {
    auto o = make_observer("batches", {}, "{statistic: " + statistic + "}");
    for (const auto& [min, max] : batches) o->observe(min, max);
    return o;
  };
  expect_range(*of("max"), -4, 8);
  expect_range(*of("mean"), -8.01 / 4, 15.02 / 4);
  expect_range(*of("median"), -1.505, 2.51);
  expect_range(*of("mode"), -1.005, 2.01);  // two each, within 1/16 octave
  // Ties: the smallest.
  auto tie = make_observer("batches");
  tie->observe(0, 4.0);
  tie->observe(0, 2.0);
  expect_range(*tie, 0, 2);
}

TEST(Observers, HistogramMovesCountsWhenItGrows) {
  auto o = make_observer("histogram", {.bits = 8, .is_signed = true}, "{bins: 16}");
  o->observe(at::linspace(0, 1, 17));
  o->observe(at::tensor({2.0f, -1.0f}));
  const Histogram h = dynamic_cast<const HistogramBase&>(*o).histogram();
  EXPECT_EQ(h.min, -1.0);
  EXPECT_EQ(h.max, 2.0);
  double total = 0, inside = 0;
  for (size_t i = 0; i < h.counts.size(); ++i) {
    total += h.counts[i];
    if (h.center(i) > -0.1 && h.center(i) < 1.1) inside += h.counts[i];
  }
  EXPECT_DOUBLE_EQ(total, 19);
  EXPECT_NEAR(inside, 17, 1);
}

TEST(Observers, PercentileCutsOutliers) {
  at::Tensor x = at::linspace(0, 1, 10001);
  x[0] = 100.0f;
  auto o = make_observer("percentile", {.bits = 8}, "{percentage: 99.9}");
  o->observe(x);
  EXPECT_LT(o->range().second, 1.1);
  EXPECT_GE(o->range().second, 0.99);
  EXPECT_GE(o->range().first, 0.0);
  // Symmetric: of |x|; affine: half at each end.
  x[1] = -50.0f;
  auto s = make_observer("percentile", {.bits = 8, .is_signed = true}, "{percentage: 99.9}");
  s->observe(x);
  EXPECT_DOUBLE_EQ(s->range().first, -s->range().second);
  EXPECT_LT(s->range().second, 1.2);
  auto a = make_observer("percentile", {.bits = 8, .is_signed = true, .affine = true}, "{percentage: 99.9}");
  a->observe(x);
  EXPECT_LT(a->range().second, 1.2);
  EXPECT_GT(a->range().first, -0.2);
  auto all = make_observer("percentile", {.bits = 8}, "{percentage: 100}");
  all->observe(x.abs());
  EXPECT_DOUBLE_EQ(all->range().second, 100);
}

/// The squared error of clipping at `clip` and rounding to `levels` steps a side, on the values themselves.
double error_of(const at::Tensor& x, double clip, double levels) {
  const double s = clip / levels;
  return ((x / s).round().clamp(-levels, levels) * s - x).square().sum().item<double>();
}

TEST(Observers, MseBeatsEveryOtherClip) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({200000});
  auto o = make_observer("mse", {.bits = 4, .is_signed = true});
  o->observe(x);
  const double found = o->range().second;
  EXPECT_DOUBLE_EQ(o->range().first, -found);
  // 15 symmetric levels: between the optima of 14 and 16 levels, 2.4 and 2.7 sigma (Max 1960, table II).
  EXPECT_NEAR(found, 2.5, 0.25);
  for (const double clip : {0.8, 0.9, 1.1, 1.3}) EXPECT_LT(error_of(x, found, 7), error_of(x, found * clip, 7));
}

TEST(Observers, KlHandlesNegativeValuesAndBothForms) {
  at::manual_seed(4);
  const at::Tensor x = at::randn({50000});
  for (const char* form : {"mxnet", "tensorrt"}) {
    auto o = make_observer("kl", {.bits = 4, .is_signed = true}, fmt::format("{{form: {}}}", form));
    o->observe(x);
    o->observe(x * 2);  // beyond the first batch: the last bin
    EXPECT_DOUBLE_EQ(o->range().first, -o->range().second);
    EXPECT_GT(o->range().second, 1.0);
    EXPECT_LE(o->range().second, x.abs().max().item<double>() * 1.001);
  }
  EXPECT_THROW(make_observer("kl", {.bits = 8}, "{bins: 256}"), Error);
}

TEST(Observers, KlOfAUniformDensityKeepsEverything) {
  // Eight bins of one count each, four levels: every P is reproduced exactly by i = 4 .. 7 but for the tail, which is
  // smallest at i = 7.
  std::vector<double> counts(8, 1.0);
  const KlResult r = search_kl(counts.data(), 8, 4, {.form = "tensorrt"});
  EXPECT_EQ(r.bins, 7);
  // P = 1/8 six times and 2/8; Q = 1/7: D = 6/8 ln(7/8) + 2/8 ln(14/8)
  EXPECT_NEAR(r.divergence, 0.75 * std::log(7.0 / 8) + 0.25 * std::log(14.0 / 8), 1e-12);
}

TEST(Observers, DiffsTakesTheModeOverBatches) {
  auto o = make_observer("diffs", {.bits = 8, .is_signed = true});
  const at::Tensor fine = at::arange(-100, 101).to(at::kFloat) / 128, coarse = fine * 4;
  o->observe(coarse);
  o->observe(fine);
  o->observe(fine);
  expect_range(*o, -1.0, 127.0 / 128);
  o->observe(coarse);  // two each: the smaller fix position, the larger step
  expect_range(*o, -4.0, 127.0 / 32);
}

}  // namespace
}  // namespace qat::quantizers
