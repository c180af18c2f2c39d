#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

// What every method must keep, whatever it is.
TEST(Contract, EveryMethod) {
  register_builtin();
  for (const std::string& method : quant::quantizers().names()) {
    SCOPED_TRACE(method);
    for (const QuantSpec& spec :
         {QuantSpec{.bits = 4}, QuantSpec{.bits = 8, .is_signed = true, .affine = true},
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
