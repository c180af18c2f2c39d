#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/support/quantizers.h"

namespace qat::quantizers {
namespace {

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

}  // namespace
}  // namespace qat::quantizers
