#include "core/base/pass_timer.h"

#include <gtest/gtest.h>

#include <thread>

namespace qat {
namespace {

TEST(PassTimer, RowsAreInTheOrderOfFirstUseAndTakenOnce) {
  time_passes(true);
  { const PassTimer timer("first"); }
  { const PassTimer timer("second"); }
  std::thread([] { const PassTimer timer("first"); }).join();
  const auto rows = take_pass_times();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].first, "first");
  EXPECT_EQ(rows[1].first, "second");
  EXPECT_GE(rows[0].second, 0.0);
  EXPECT_TRUE(take_pass_times().empty());
  time_passes(false);
}

TEST(PassTimer, NothingIsKeptWhileTimingIsOff) {
  time_passes(false);
  { const PassTimer timer("off"); }
  EXPECT_TRUE(take_pass_times().empty());
}

}  // namespace
}  // namespace qat
