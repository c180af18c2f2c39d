#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

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
  auto q = make("minmax",
                {.role = Role::kWeight, .narrow_range = true, .granularity = Granularity::kChannel, .channels = 2});
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

}  // namespace
}  // namespace qat::quantizers
