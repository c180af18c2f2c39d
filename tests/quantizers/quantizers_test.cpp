#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "core/quant/quantizer.h"
#include "quantizers/builtin.h"

namespace qat::quantizers {
namespace {

using quant::Granularity;
using quant::QuantSpec;
using quant::Role;

std::shared_ptr<quant::Quantizer> make(const std::string& method, const QuantSpec& spec,
                                       const std::string& observer = "minmax") {
  register_builtin();
  return quant::quantizers().get(method)(spec, {.observer = observer});
}

float scale_of(const quant::Quantizer& q) { return *q.qparams().scale.const_data_ptr<float>(); }
int zero_of(const quant::Quantizer& q) { return *q.qparams().zero_point.const_data_ptr<int32_t>(); }

TEST(MinMax, RangesByHand) {
  auto unsigned8 = make("minmax", {.bits = 8});
  unsigned8->observe(at::tensor({0.0f, 5.1f}));
  unsigned8->initialize();
  EXPECT_FLOAT_EQ(scale_of(*unsigned8), 5.1f / 255);
  EXPECT_EQ(zero_of(*unsigned8), 0);

  // min -1, max 2.5, 4 bits: s = 3.5 / 15, z = 1 / s = 4.29, to an even code: 4
  auto affine = make("minmax", {.bits = 4, .is_signed = true, .affine = true});
  affine->observe(at::tensor({-1.0f, 2.5f}));
  affine->initialize();
  EXPECT_FLOAT_EQ(scale_of(*affine), 3.5f / 15);
  EXPECT_EQ(zero_of(*affine), 4);

  auto symmetric = make("minmax", {.bits = 4, .is_signed = true});
  symmetric->observe(at::tensor({-1.0f, 2.1f}));
  symmetric->initialize();
  EXPECT_FLOAT_EQ(scale_of(*symmetric), 2.1f / 7);
  EXPECT_EQ(zero_of(*symmetric), 8);
}

TEST(MinMax, WeightScaleFollowsTheWeight) {
  auto q = make("minmax", {.role = Role::kWeight, .narrow_range = true, .granularity = Granularity::kChannel, .channels = 2});
  at::Tensor w = at::tensor({1.27f, -0.5f, 0.1f, -2.54f}).view({2, 2});
  q->observe(w);
  q->initialize();
  auto quantized = q->quantize_weight(w);
  EXPECT_TRUE(at::allclose(quantized.scale, at::tensor({0.01f, 0.02f})));
  EXPECT_TRUE(at::equal(quantized.codes.to(at::kLong), at::tensor({127, -50, 5, -127}, at::kLong).view({2, 2})));
  w.mul_(2);
  EXPECT_TRUE(at::allclose(q->quantize_weight(w).scale, at::tensor({0.02f, 0.04f})));
}

TEST(MinMax, EmptyRangesKeepAPositiveScale) {
  auto q = make("minmax", {.bits = 8});
  q->observe(at::zeros({4}));
  q->initialize();
  EXPECT_GT(scale_of(*q), 0.0f);
}

TEST(Observers, MovingAverageByHand) {
  register_builtin();
  auto o = quant::observers().get("moving_average")();
  o->observe(-1.0, 4.0);
  o->observe(-3.0, 2.0);
  EXPECT_NEAR(o->range().first, -1.02, 1e-12);
  EXPECT_NEAR(o->range().second, 3.98, 1e-12);
  auto m = quant::observers().get("minmax")();
  m->observe(-1.0, 4.0);
  m->observe(-3.0, 2.0);
  EXPECT_EQ(m->range(), (std::pair{-3.0, 4.0}));
  EXPECT_THROW(m->observe(0.0, std::nan("")), Error);
  EXPECT_THROW(quant::observers().get("minmax")()->range(), Error);
}

TEST(Lsq, StartsAtTwiceTheMeanOverSqrtQp) {
  auto a = make("lsq", {.bits = 4});
  a->observe(at::tensor({1.0f, 3.0f}));
  a->observe(at::tensor({0.0f, 2.0f}));
  a->initialize();
  EXPECT_FLOAT_EQ(scale_of(*a), static_cast<float>(2.0 * 1.5 / std::sqrt(15.0)));
  EXPECT_DOUBLE_EQ(a->gradient_scale(100), 1.0 / std::sqrt(100.0 * 15));

  auto w = make("lsq", {.role = Role::kWeight, .bits = 4, .granularity = Granularity::kChannel, .channels = 2});
  w->observe(at::tensor({1.0f, -3.0f, 0.5f, 0.5f}).view({2, 2}));
  w->initialize();
  EXPECT_TRUE(at::allclose(w->qparams().scale, at::tensor({2.0 * 2 / std::sqrt(7.0), 2 * 0.5 / std::sqrt(7.0)}).to(at::kFloat)));
  EXPECT_EQ(w->spec().lo(), -8);
  EXPECT_EQ(w->spec().hi(), 7);
}

TEST(Lsq, ProjectionKeepsTheScalePositive) {
  auto a = make("lsq", {.bits = 4});
  a->observe(at::ones({2}));
  a->initialize();
  a->parameters()[0].data().fill_(-0.5f);
  a->project();
  EXPECT_GT(scale_of(*a), 0.0f);
}

// What every method must keep, whatever it is.
TEST(Contract, EveryMethod) {
  register_builtin();
  for (const std::string& method : quant::quantizers().names()) {
    SCOPED_TRACE(method);
    for (const QuantSpec& spec : {QuantSpec{.bits = 4}, QuantSpec{.bits = 8, .is_signed = true, .affine = true},
                                  QuantSpec{.role = Role::kWeight, .bits = 4, .granularity = Granularity::kChannel, .channels = 6}}) {
      auto q = make(method, spec);
      EXPECT_THROW(q->qparams(), Error) << "usable before it was initialized";
      if (spec.role == Role::kActivation) {
        EXPECT_THROW(q->initialize(), Error) << "initialized without data";
      }
      at::manual_seed(1);
      at::Tensor x = at::randn({6, 40});
      if (spec.role == Role::kActivation && !spec.is_signed) x = x.abs();
      auto fresh = make(method, spec);
      fresh->observe(x);
      fresh->initialize();
      fresh->eval();  // ranges stand still
      const at::Tensor y = fresh->forward(x);
      EXPECT_TRUE(at::equal(fresh->forward(y), y)) << "not idempotent";
      EXPECT_TRUE(fresh->qparams().scale.gt(0).all().item<bool>());
      // Every value lies on the grid, within the range.
      const int lo = spec.lo() - zero_of(*fresh), hi = spec.hi() - zero_of(*fresh);
      const at::Tensor grid = (y / fresh->qparams().scale.view({-1, 1}));
      EXPECT_LT((grid - grid.round()).abs().max().item<double>(), 1e-3);
      EXPECT_GE(grid.min().item<double>(), lo - 1e-3);
      EXPECT_LE(grid.max().item<double>(), hi + 1e-3);
      // Gradients: nothing outside the range.
      x.set_requires_grad(true);
      const at::Tensor big = at::full({6, 1}, 1e6f);
      at::Tensor z = at::cat({x, big.clone()}, 1).detach().set_requires_grad(true);
      if (spec.role == Role::kActivation) {
        fresh->forward(z).sum().backward();
        EXPECT_EQ(z.grad().select(1, 40).abs().max().item<float>(), 0.0f);
        EXPECT_GT(z.grad().slice(1, 0, 40).sum().item<float>(), 0.0f);
      }
      // The state survives a copy by name.
      auto copy = make(method, spec);
      const at::NoGradGuard no_grad;
      for (auto& item : copy->named_parameters()) item.value().copy_(fresh->named_parameters()[item.key()]);
      for (auto& item : copy->named_buffers()) item.value().copy_(fresh->named_buffers()[item.key()]);
      EXPECT_TRUE(at::equal(copy->qparams().scale, fresh->qparams().scale));
      EXPECT_TRUE(at::equal(copy->qparams().zero_point, fresh->qparams().zero_point));
    }
    EXPECT_THROW(make(method, {.bits = 1}), Error);
    EXPECT_THROW(make(method, {.bits = 9}), Error);
  }
}

}  // namespace
}  // namespace qat::quantizers
