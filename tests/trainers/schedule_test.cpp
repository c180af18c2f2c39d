#include "trainers/schedule.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/config/config.h"

namespace qat::trainers {
namespace {

Schedule make(const std::string& name, const std::string& options) {
  return schedules().get(name).make(config::load_text(options, "s.yaml").root());
}

TEST(Schedule, Constant) {
  const Schedule schedule = make("constant", "{}");
  EXPECT_EQ(schedule({0, 10, 5}), 1.0);
  EXPECT_EQ(schedule({9, 10, 5}), 1.0);
}

TEST(Schedule, CosineByHand) {
  // cos(0) = 1, cos(pi / 3) = 1/2, cos(pi / 2) = 0, cos(2 pi / 3) = -1/2.
  const Schedule schedule = make("cosine", "{}");
  EXPECT_DOUBLE_EQ(schedule({0, 6, 3}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({2, 6, 3}), 0.75);
  EXPECT_DOUBLE_EQ(schedule({3, 6, 3}), 0.5);
  EXPECT_DOUBLE_EQ(schedule({4, 6, 3}), 0.25);
}

TEST(Schedule, CosineEndsAtFinalBehindWarmup) {
  // One epoch of 4 steps warms up with 1/4, 2/4, 3/4, 4/4; then 6 steps of cosine from 1 to 0.1, half way 0.55.
  const Schedule schedule = make("cosine", "{warmup: 1, final: 0.1}");
  EXPECT_DOUBLE_EQ(schedule({0, 10, 4}), 0.25);
  EXPECT_DOUBLE_EQ(schedule({3, 10, 4}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({4, 10, 4}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({7, 10, 4}), 0.55);
}

TEST(Schedule, StepDropsAtEpochs) {
  const Schedule schedule = make("step", "{milestones: [2, 3], gamma: 0.5}");
  EXPECT_DOUBLE_EQ(schedule({19, 50, 10}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({20, 50, 10}), 0.5);
  EXPECT_DOUBLE_EQ(schedule({29, 50, 10}), 0.5);
  EXPECT_DOUBLE_EQ(schedule({30, 50, 10}), 0.25);
}

TEST(Schedule, WarmupLongerThanTheStageReachesItsEndOnly) {
  // 2 epochs of 10 steps asked for, the stage has 4 steps: 1/4, 2/4, 3/4, 4/4.
  const Schedule schedule = make("cosine", "{warmup: 2}");
  EXPECT_DOUBLE_EQ(schedule({3, 4, 10}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({0, 4, 10}), 0.25);
}

TEST(Schedule, UnknownOptionsAreRefused) {
  try {
    make("cosine", "{finale: 1}");
    FAIL() << "expected a ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "s.yaml:1:2: finale: unknown key (did you mean 'final'?); valid keys: warmup, final");
  }
}

}  // namespace
}  // namespace qat::trainers
