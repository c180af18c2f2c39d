#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

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
  EXPECT_TRUE(at::allclose(w->qparams().scale,
                           at::tensor({2.0 * 2 / std::sqrt(7.0), 2 * 0.5 / std::sqrt(7.0)}).to(at::kFloat)));
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

}  // namespace
}  // namespace qat::quantizers
